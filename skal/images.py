"""What ``X`` may be, and how it becomes a network's input. Nothing else looks at pixels.

``X`` is uint8 images (n, H, W, 3) or grey (n, H, W); float tensors or arrays (n, channels, H, W), taken as already
pre-processed; an array or list of file paths, decoded lazily; or 2-D features. Each becomes a sequence with two
methods: ``keys`` names the content of rows, and ``load`` gives a batch of network inputs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL converts to grey


@dataclass(frozen=True)
class ImageTransform:
    """From uint8 pixels to a network's input: short side to `resize`, centre crop to `crop`, normalise.

    Parameters
    ----------
    resize : int
        Length of the short side after resizing, in pixels.
    crop : int
        Side of the square cut from the centre, in pixels.
    mean, std : tuple of float
        Per channel, for pixels scaled to [0, 1].
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        Always with antialiasing.

    Examples
    --------
    >>> ImageTransform(8, 8)(torch.zeros(2, 16, 20, 3, dtype=torch.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ValueError(f"crop={self.crop} is not between 1 and resize={self.resize}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Network inputs (n, channels, crop, crop), float32, of uint8 images (n, H, W, 1 or 3)."""
        x = pixels.permute(0, 3, 1, 2)
        short = min(x.shape[2:])
        if short != self.resize:
            size = [int(side * self.resize / short) for side in x.shape[2:]]
            x = F.interpolate(x, size=size, mode=self.interpolation, antialias=True)
        top, left = (round((side - self.crop) / 2) for side in x.shape[2:])
        x = x[:, :, top : top + self.crop, left : left + self.crop].float() / 255
        if x.shape[1] == 3 and self.channels == 1:
            x = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std  # a grey image is spread over the channels here


class Inputs(Protocol):
    """A sequence of network inputs that names its content."""

    def __len__(self) -> int: ...

    def keys(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Name of each row's content: equal content and pre-processing, equal name."""

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Network inputs of these rows, float32."""


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
        return [key for inputs, i in self._at(rows) for key in inputs.keys([i])]

    def load(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.cat([inputs.load([i]) for inputs, i in self._at(rows)])

    def _at(self, rows: Sequence[int] | np.ndarray) -> list[tuple[Inputs, int]]:
        return [self.places[i] for i in rows]


def decode(path: str | os.PathLike[str]) -> torch.Tensor:
    """Pixels (H, W, 3), uint8, of an image file, upright and in RGB.

    Raises
    ------
    ValueError
        If the file is no image or is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "F":
                raise ValueError("it holds floating-point values, which have no range; pass pre-processed arrays")
            if upright.mode.startswith("I"):  # 16 bits, which PIL would clip to white
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return torch.from_numpy(np.array(upright.convert("RGB")))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"cannot decode the image file {str(path)!r}: {error}") from error


def as_data(X: Any) -> Any:
    """`X` with rows that can be indexed: lists become arrays, and file paths an array of strings."""
    paths = _as_paths(X)
    if paths is not None:
        return paths
    if isinstance(X, (list, tuple)):
        try:
            return np.asarray(X)
        except ValueError as error:
            raise ValueError("images of different sizes cannot be one array; pass their files as paths") from error
    return X


def is_images(X: Any) -> bool:
    """Whether `X` (see :func:`as_data`) is images rather than 2-D features."""
    return len(getattr(X, "shape", ())) >= 3 or _as_paths(X) is not None


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
        """Check `X` and wrap it, without reading more than it takes to refuse it.

        Raises
        ------
        ValueError
            If `X` is empty, has a wrong rank, number of channels or type, holds NaN or infinity, or names a file that
            does not exist.
        """
        paths = _as_paths(X)
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


def _as_paths(X: Any) -> np.ndarray | None:
    """`X` as a 1-D array of file paths, or None if it is none."""
    if isinstance(X, (str, os.PathLike)):
        raise ValueError(f"X is the single path {str(X)!r}; pass a list of image files")
    if isinstance(X, np.ndarray) and (X.ndim != 1 or X.dtype.kind not in "OUT"):
        return None
    if not isinstance(X, (list, tuple, np.ndarray)) and type(X).__name__ != "Series":
        return None
    items = list(X)
    if not items or not all(isinstance(item, (str, os.PathLike)) for item in items):
        return None
    return np.array([os.fspath(item) for item in items])
