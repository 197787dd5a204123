"""What ``X`` may be, and how it becomes a network's input. Nothing else looks at pixels.

``X`` is uint8 images (n, H, W, 3) or grey (n, H, W); float tensors or arrays (n, channels, H, W), taken as already
pre-processed; an array or list of file paths, decoded lazily; or 2-D features. Each becomes a sequence with two
methods: ``keys`` names the content of rows, and ``load`` gives a batch of network inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xxhash

from skal.images.decode import decode
from skal.images.forms import as_paths
from skal.images.transform import ImageTransform


@runtime_checkable
class Inputs(Protocol):
    """A sequence of network inputs that names its content."""

    def __len__(self) -> int: ...

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Name of each row's content: equal content and pre-processing, equal name."""

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Network inputs of these rows, float32."""

    def with_transform(self, transform: ImageTransform | None) -> Inputs:
        """The same images with another pre-processing; what is pre-processed already stays as it is."""


def _digests(array: np.ndarray, rows: Sequence[int] | np.ndarray, transform: ImageTransform | None) -> list[bytes]:
    """Hash of each of these rows, with its type, shape and pre-processing."""
    context = repr((array.dtype.str, array.shape[1:], transform)).encode()
    digests = []
    for i in rows:
        hasher = xxhash.xxh3_128(context)
        hasher.update(np.ascontiguousarray(array[i]).data)
        digests.append(hasher.digest())
    return digests


class TensorInputs:
    """Rows that are network inputs already: pre-processed images or 2-D features."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return _digests(self.array, rows, None)

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(self.array[rows], dtype=np.float32))

    def with_transform(self, transform: ImageTransform | None) -> TensorInputs:
        return self


class PixelInputs:
    """uint8 images (n, H, W, 1 or 3)."""

    def __init__(self, array: np.ndarray, transform: ImageTransform):
        self.array = array
        self.transform = transform

    def __len__(self) -> int:
        return len(self.array)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return _digests(self.array, rows, self.transform)

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return self.transform(torch.from_numpy(np.array(self.array[rows])))

    def with_transform(self, transform: ImageTransform | None) -> PixelInputs:
        return PixelInputs(self.array, transform or self.transform)


class PathInputs:
    """Image files, decoded when they are needed. Sizes may differ."""

    def __init__(self, paths: np.ndarray, transform: ImageTransform):
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        names = []
        for path in map(os.path.abspath, self.paths[rows]):
            info = os.stat(path)
            named = repr((path, info.st_mtime_ns, info.st_size, self.transform))
            names.append(xxhash.xxh3_128(named.encode()).digest())
        return names

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.cat([self.transform(decode(path)[None]) for path in self.paths[rows]])

    def with_transform(self, transform: ImageTransform | None) -> PathInputs:
        return PathInputs(self.paths, transform or self.transform)


class JoinedInputs:
    """Chosen rows of several inputs, one after the other, without copying them.

    Parameters
    ----------
    *chosen : pairs (Inputs, array of rows)
    """

    def __init__(self, *chosen: tuple[Inputs, Sequence[int] | np.ndarray]):
        self.places: list[tuple[Inputs, int]] = []
        for inputs, rows in chosen:
            joined = isinstance(inputs, JoinedInputs)
            self.places += [inputs.places[i] if joined else (inputs, int(i)) for i in rows]  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.places)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return [key for inputs, own in self.runs(rows) for key in inputs.keys(own)]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.cat([inputs.load(own) for inputs, own in self.runs(rows)])

    def with_transform(self, transform: ImageTransform | None) -> JoinedInputs:
        others = {id(inputs): inputs.with_transform(transform) for inputs, _ in self.places}
        return JoinedInputs(*((others[id(inputs)], [i]) for inputs, i in self.places))

    def runs(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[Inputs, np.ndarray]]:
        """Rows of the same inputs that follow each other, together."""
        places = [self.places[i] for i in rows]
        for _, run in groupby(places, key=lambda place: id(place[0])):
            of_run = list(run)
            yield of_run[0][0], np.array([i for _, i in of_run])


@dataclass(frozen=True)
class InputSpec:
    """What a network takes: images of some channels with their pre-processing, or 2-D features.

    Parameters
    ----------
    transform : ImageTransform or None
        Pre-processing of images; None for a network on 2-D features.
    """

    transform: ImageTransform | None

    @cached_property
    def allowed(self) -> str:
        if self.transform is None:
            return "2-D features (n_samples, n_features), as the network's first layer is linear"
        channels = self.transform.channels
        return (
            "uint8 images (n, H, W, 3) or (n, H, W), pre-processed float images "
            f"(n, {channels}, H, W), or a list or array of image file paths"
        )

    def check(self, X: Any) -> Inputs:
        """Check `X` and wrap it, without reading more than it takes to refuse it; inputs get this pre-processing.

        Raises
        ------
        ValueError
            If `X` is empty, has a wrong rank, number of channels or type, holds NaN or infinity, or names a file that
            does not exist.
        """
        if isinstance(X, Inputs):
            return X.with_transform(self.transform)
        paths = as_paths(X)
        if paths is not None:
            if self.transform is None:
                raise ValueError(f"X is {len(paths)} file paths, but this network takes {self.allowed}")
            missing = [str(path) for path in paths if not Path(path).is_file()]
            if missing:
                raise ValueError(f"{len(missing)} of {len(paths)} paths name no file, the first is {missing[0]!r}")
            return PathInputs(paths, self.transform)
        array = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asanyarray(X)
        if len(array) == 0:
            raise ValueError(
                f"X is empty: an array with 0 sample(s) (shape={array.shape}) where at least 1 is required"
            )
        refused = ValueError(f"X has shape {array.shape} and type {array.dtype}, but this network takes {self.allowed}")
        if self.transform is None:
            if array.ndim != 2:
                raise refused
            return TensorInputs(_finite(array))
        if array.dtype == np.uint8:
            if array.ndim == 3 and array.shape[2] in (3, 4):
                raise ValueError(f"X of shape {array.shape} looks like a single image; pass X[None] for one")
            if array.ndim == 3:
                array = array[..., None]
            if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
                raise refused
            return PixelInputs(array, self.transform)
        if array.ndim != 4 or array.dtype.kind != "f" or array.shape[1] != self.transform.channels:
            raise refused
        return TensorInputs(_finite(array))


def _finite(array: np.ndarray) -> np.ndarray:
    for start in range(0, len(array), 256):
        block = array[start : start + 256]
        # Beyond float32's range a number would become infinite when it is loaded.
        bad = ~(np.abs(block) <= np.finfo(np.float32).max).reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise ValueError(f"X contains NaN or infinity, first in row {start + int(bad.argmax())}")
    return array
