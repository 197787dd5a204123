"""Conversion of ``X`` to network inputs. No other package reads pixels.

``X`` is uint8 images (n, H, W, 3) or greyscale (n, H, W); float tensors or arrays (n, channels, H, W), which must be
pre-processed already; file paths, decoded lazily; individual images of several sizes; a data set of images; or 2-D
features. Each form becomes a sequence with two methods: ``keys`` identifies the content of rows, and ``load`` returns a
batch of network inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xxhash
from PIL import Image
from scipy.sparse import issparse

from skal.images.decode import DECODER, UnreadableImageError, decode, describe, file_problem, pixels_of
from skal.images.forms import absolute, as_data, as_paths, image_of, is_dataset, is_items
from skal.images.transform import ImageTransform


@runtime_checkable
class Inputs(Protocol):
    """A sequence of network inputs with a key for the content of each row."""

    def __len__(self) -> int: ...

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Key of each row; rows with equal content and pre-processing have equal keys."""

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Network inputs of these rows, float32."""

    def with_transform(self, transform: ImageTransform | None) -> Inputs:
        """The same images with another pre-processing; images that are already pre-processed are left unchanged."""


def _digests(array: np.ndarray, rows: Sequence[int] | np.ndarray, transform: ImageTransform | None) -> list[bytes]:
    """Hash of each of the given rows, including type, shape and pre-processing."""
    context = repr((array.dtype.str, array.shape[1:], transform)).encode()
    digests = []
    for i in rows:
        hasher = xxhash.xxh3_128(context)
        hasher.update(np.ascontiguousarray(array[i]).data)
        digests.append(hasher.digest())
    return digests


class TensorInputs:
    """Rows that are already network inputs: pre-processed images or 2-D features."""

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
    """Image files by their absolute paths, decoded in threads when needed. Sizes may differ."""

    def __init__(self, paths: np.ndarray, transform: ImageTransform):
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        names, failures = [], []
        for path in self.paths[rows].tolist():
            try:
                info = os.stat(path)
            except OSError as error:
                failures.append((path, error.strerror or str(error)))
                continue
            named = repr((path, info.st_mtime_ns, info.st_size, DECODER, self.transform))
            names.append(xxhash.xxh3_128(named.encode()).digest())
        _raise_for(failures, len(rows))
        return names

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        paths, side = self.paths[rows], self.transform.crop
        batch = torch.empty(len(paths), self.transform.channels, side, side, dtype=torch.float32)
        # As many threads as torch uses; joblib divides this number among its processes.
        with ThreadPoolExecutor(min(len(paths), torch.get_num_threads())) as threads:
            problems = list(threads.map(self._read, paths, batch))  # all are read, so that one error names all failures
        _raise_for([(one.path, one.reason) for one in problems if one is not None], len(paths))
        return batch

    def _read(self, path: str, into: torch.Tensor) -> UnreadableImageError | None:
        try:
            into.copy_(self.transform(decode(path, self.transform.background, self.transform.resize)[None])[0])
        except UnreadableImageError as error:
            return error
        return None

    def with_transform(self, transform: ImageTransform | None) -> PathInputs:
        return PathInputs(self.paths, transform or self.transform)


class ItemInputs:
    """Individual images: an object array of PIL images and arrays of several sizes, or a data set, read when needed.

    An item is an image, or a tuple whose first element is an image: a PIL image, a file, uint8 pixels (H, W, 3) or
    (H, W), or a float array or tensor (channels, H, W), which must be pre-processed already.
    """

    def __init__(self, items: Any, transform: ImageTransform):
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        names = []
        for i in rows:
            array = self.read(int(i))
            names += _digests(array[None], [0], self.transform if array.dtype == np.uint8 else None)
        return names

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        batch: list[torch.Tensor] = []
        for i in rows:
            array = self.read(int(i))
            is_ready = array.dtype != np.uint8
            tensor = torch.from_numpy(np.array(array[None], np.float32 if is_ready else None))  # a copy torch can write
            batch.append(tensor if is_ready else self.transform(tensor))
            if batch[-1].shape != batch[0].shape:
                raise ValueError(f"X[{i}] is a pre-processed image of shape {array.shape}, unlike others of its batch")
        return torch.cat(batch)

    def with_transform(self, transform: ImageTransform | None) -> ItemInputs:
        return ItemInputs(self.items, transform or self.transform)

    def read(self, i: int) -> np.ndarray:
        """Pixels (H, W, 1 or 3), uint8, or a pre-processed image (channels, H, W)."""
        try:
            image = image_of(self.items[i])
            if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
                return pixels_of(image, self.transform.background)
            if image.ndim != 3 or image.shape[0] != self.transform.channels or 0 in image.shape:
                raise ValueError(
                    f"it is pre-processed, but has shape {image.shape} instead of ({self.transform.channels}, H, W)"
                )
            if not _is_finite(image).all():
                raise ValueError("it contains NaN or infinity")
            return image
        except Exception as error:  # a data set may raise anything; the error names the row
            raise ValueError(f"X[{i}] cannot be read: {str(error) or type(error).__name__}") from error


class JoinedInputs:
    """Concatenation of chosen rows of several inputs, without copying.

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

    @property
    def parts(self) -> list[Inputs]:
        """The distinct inputs that rows come from."""
        return list({id(inputs): inputs for inputs, _ in self.places}.values())

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        return [key for inputs, own in self.runs(rows) for key in inputs.keys(own)]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        batches = [inputs.load(own) for inputs, own in self.runs(rows)]
        check_shapes(batch.shape[1:] for batch in batches)
        return torch.cat(batches)

    def with_transform(self, transform: ImageTransform | None) -> JoinedInputs:
        others = {id(part): part.with_transform(transform) for part in self.parts}
        return JoinedInputs(*((others[id(inputs)], [i]) for inputs, i in self.places))

    def runs(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[Inputs, np.ndarray]]:
        """Group consecutive rows of the same inputs."""
        places = [self.places[i] for i in rows]
        for _, run in groupby(places, key=lambda place: id(place[0])):
            of_run = list(run)
            yield of_run[0][0], np.array([i for _, i in of_run])


@dataclass(frozen=True)
class InputSpec:
    """Type of input that a network accepts: images with a pre-processing and its channels, or 2-D features.

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
            f"(n, {channels}, H, W), a list or array of image file paths or of PIL images, or a torch Dataset of images"
        )

    def check(self, X: Any) -> Inputs:
        """Validate `X` and wrap it, reading no more than the checks need; `Inputs` get this pre-processing.

        Raises
        ------
        ValueError
            If `X` is empty, has a wrong rank, number of channels or type, contains NaN or infinity, or names files that
            do not exist or cannot be opened.
        """
        if isinstance(X, Inputs):
            return X.with_transform(self.transform)
        X = as_data(X)
        paths = as_paths(X)
        if paths is not None:
            return self._check_paths(paths)
        if is_items(X):
            return self._check_items(X)
        if issparse(X):
            raise ValueError(f"X is a sparse matrix, but this network takes {self.allowed}; pass X.toarray()")
        array = np.asanyarray(X)
        if array.ndim == 0:
            raise ValueError(f"X is {X!r}, but this network takes {self.allowed}")
        if len(array) == 0:
            raise ValueError(
                f"X is empty: an array with 0 sample(s) (shape={array.shape}) where at least 1 is required"
            )
        if self.transform is None:
            is_accepted = array.ndim == 2 and array.dtype.kind in "fiub"
        else:
            if array.dtype == np.uint8:
                return self._check_pixels(array, self.transform)
            is_shaped = array.ndim == 4 and array.shape[1] == self.transform.channels and 0 not in array.shape
            is_accepted = is_shaped and array.dtype.kind == "f"
        if not is_accepted:
            raise self._refused(array)
        return TensorInputs(_finite(array))

    def _check_paths(self, paths: np.ndarray) -> PathInputs:
        if self.transform is None:
            raise ValueError(f"X contains {len(paths)} file paths, but this network takes {self.allowed}")
        problems = [(str(path), file_problem(path)) for path in paths]
        _raise_for([(path, why) for path, why in problems if why is not None], len(paths))
        return PathInputs(absolute(paths), self.transform)

    def _check_pixels(self, array: np.ndarray, transform: ImageTransform) -> PixelInputs:
        if array.ndim == 3 and array.shape[2] in (3, 4):
            raise ValueError(f"X of shape {array.shape} looks like a single image; pass X[None]")
        if array.ndim == 3:
            array = array[..., None]
        if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
            raise self._refused(array)
        return PixelInputs(array, transform)

    def _check_items(self, X: Any) -> ItemInputs:
        """Validate individual images; of a data set, only the first is read in advance."""
        if self.transform is None:
            raise ValueError(f"X contains {len(X)} individual images, but this network takes {self.allowed}")
        if len(X) == 0:
            raise ValueError("X is empty: a data set with 0 sample(s) where at least 1 is required")
        inputs = ItemInputs(X, self.transform)
        for i in [0] if is_dataset(X) else [i for i, image in enumerate(X) if not isinstance(image, Image.Image)]:
            inputs.read(i)
        return inputs

    def _refused(self, array: np.ndarray) -> ValueError:
        """Error for an array that is not accepted, with advice if its shape suggests the cause."""
        message = f"X has shape {array.shape} and type {array.dtype}, but this network takes {self.allowed}"
        shape, is_pixels = array.shape, array.dtype == np.uint8
        if self.transform is None:
            return ValueError(message)
        if len(shape) == 4 and shape[1] in (1, 3) and shape[-1] not in (1, 3) and array.dtype.kind in "iub":
            message += "; the channels of pixels must come last: pass X.transpose(0, 2, 3, 1)"
        elif len(shape) == 4 and is_pixels and shape[-1] == 4:
            message += "; X has 4 channels: if the fourth is transparency, pass PIL images or files, or X[..., :3]"
        elif len(shape) in (3, 4) and not is_pixels and array.dtype.kind in "iubf" and shape[-1] in (1, 3):
            message += "; pass pixels from 0 to 255 as X.astype(np.uint8)"
        elif len(shape) == 2 and (is_pixels or array.dtype.kind == "f"):
            message += (
                "; pass a single grey image as X[None]; features require a network that starts with a linear layer"
            )
        elif len(shape) == 3 and array.dtype.kind == "f":
            message += "; pass a single image as X[None]"
        return ValueError(message)


def check_shapes(shapes: Iterable[torch.Size]) -> None:
    """Raise a ValueError if pre-processed images, or their activations, differ in shape and cannot form one tensor."""
    distinct = [tuple(shape) for shape in dict.fromkeys(shapes)]
    if len(distinct) > 1:
        raise ValueError(
            f"X contains pre-processed images of different sizes, whose tensors have the shapes {distinct[0]} and "
            f"{distinct[1]}; resize them to the same size"
        )


def _raise_for(failures: Sequence[tuple[str, str]], n: int) -> None:
    """Raise one error that names all files that cannot be read."""
    if failures:
        raise ValueError(describe(failures, n))


def _is_finite(array: np.ndarray) -> np.ndarray:
    # Values beyond the range of float32 would become infinite when loaded.
    return np.abs(array) <= np.finfo(np.float32).max


def _finite(array: np.ndarray) -> np.ndarray:
    for start in range(0, len(array), 256):
        block = array[start : start + 256]
        bad = ~_is_finite(block).reshape(len(block), -1).all(axis=1)
        if bad.any():
            raise ValueError(f"X contains NaN or infinity, first in row {start + int(bad.argmax())}")
    return array
