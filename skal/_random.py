"""Randomness that depends only on ``random_state``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch


def draw_seed(random_state: np.random.RandomState) -> int:
    """A seed for torch, drawn from numpy's generator."""
    return int(random_state.randint(np.iinfo(np.int32).max))


_ONE_AT_A_TIME = RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run torch code with its own seed, and restore the global generators afterwards.

    Torch's generator is shared by the whole process, so threads that need it wait for each other.
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng():
        torch.random.manual_seed(seed)
        yield
