"""The two views of an image: itself and its mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
import xxhash

from skal.features.stored import StoredActivations
from skal.images.inputs import Inputs, JoinedInputs
from skal.images.transform import ImageTransform

#: Maximum number of batches kept for the other view.
_WAITING = 2


class MirroredInputs:
    """Images flipped horizontally.

    Parameters
    ----------
    inputs : Inputs

    Examples
    --------
    >>> from skal.images.inputs import TensorInputs
    >>> MirroredInputs(TensorInputs(np.array([[[[1.0, 2.0, 3.0]]]]))).load([0])
    tensor([[[[3., 2., 1.]]]])
    """

    def __init__(self, inputs: Inputs):
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return [xxhash.xxh3_128(key + b" mirrored").digest() for key in self.inputs.keys(rows)]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return self.inputs.load(rows).flip(-1)

    def with_transform(self, transform: ImageTransform | None) -> MirroredInputs:
        return MirroredInputs(self.inputs.with_transform(transform))


class _ReadOnce:
    """Keeps each loaded batch until it is loaded again for the other view."""

    def __init__(self, inputs: Inputs):
        self.inputs = inputs
        self._waiting: dict[bytes, torch.Tensor] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.inputs)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return self.inputs.keys(rows)

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        asked = np.asarray(rows, dtype=np.int64).tobytes()
        with self._lock:
            if asked in self._waiting:
                return self._waiting.pop(asked)
            batch = self.inputs.load(rows)
            if len(self._waiting) == _WAITING:  # the oldest batch was not requested again: its other view is cached
                self._waiting.pop(next(iter(self._waiting)))
            self._waiting[asked] = batch
            return batch

    def with_transform(self, transform: ImageTransform | None) -> Inputs:
        return self.inputs.with_transform(transform)


def both_views(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """Images and their mirror images. If both are requested in step, each image is read from disk only once."""
    if isinstance(inputs, StoredActivations):
        return inputs, inputs.mirrored()
    if isinstance(inputs, JoinedInputs):
        pairs = {id(part): both_views(part) for part in inputs.parts}
        runs = [(pairs[id(part)], rows) for part, rows in inputs.runs(range(len(inputs)))]
        return JoinedInputs(*((pair[0], rows) for pair, rows in runs)), JoinedInputs(
            *((pair[1], rows) for pair, rows in runs)
        )
    once = _ReadOnce(inputs)
    return once, MirroredInputs(once)
