"""Loading of images in a thread while the network processes the previous ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from joblib import cpu_count

from skal.features.originals import originals
from skal.images.inputs import Inputs, ItemInputs

_Value = TypeVar("_Value")


class Loader:
    """Calls functions either in a thread, in order, or when their result is requested.

    Parameters
    ----------
    ahead : bool
        Whether to use a thread.

    Examples
    --------
    >>> with Loader(ahead=True) as loader:
    ...     result = loader.submit(sum, [1, 2])
    ...     result()
    3
    """

    def __init__(self, ahead: bool):
        self._thread = ThreadPoolExecutor(1) if ahead else None

    def submit(self, function: Callable[..., _Value], *args: Any) -> Callable[[], _Value]:
        """A function that waits for the result and returns it, or raises what the call raised."""
        return partial(function, *args) if self._thread is None else self._thread.submit(function, *args).result

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)


def one_ahead(items: Iterable[_Value]) -> Iterator[_Value]:
    """Iterate over items, fetching each item before the previous one is yielded.

    Examples
    --------
    >>> list(one_ahead("abc"))
    ['a', 'b', 'c']
    """
    before: list[_Value] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def loads_ahead(inputs: Inputs, device: torch.device | str) -> bool:
    """Whether images are loaded in a thread: if the network leaves processors idle and the images allow it.

    If the network uses every core, a parallel thread only slows it down. A data set of the user may not be thread-safe.
    """
    is_idle = torch.device(device).type != "cpu" or torch.get_num_threads() < cpu_count()
    return is_idle and not any(isinstance(own, ItemInputs) for own in originals(inputs))
