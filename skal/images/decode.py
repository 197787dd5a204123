"""Image files, and images that are open already, to pixels: upright, RGB, 8 bits."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

#: Version of what a file decodes to; part of every cache key of a file. Raise it whenever pixels change.
DECODER = 3
WHITE = (255, 255, 255)

_PHOTOMETRIC, _MAX_SAMPLE_VALUE = 262, 281  # tags of TIFF
_REDUCED = 2  # times the sides that are needed, which a JPEG decoder that shrinks leaves; as in Pillow's thumbnail
_NAMED = 5  # files that an error names; of the others it gives the number


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded.

    Attributes
    ----------
    path : str
    reason : str
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot decode the image file {self.path!r}: {self.reason}"


def decode(
    path: str | os.PathLike[str], background: tuple[int, int, int] = WHITE, needed: int | None = None
) -> torch.Tensor:
    """Pixels (H, W, 3), uint8, of an image file, upright and in RGB.

    Transparent images are composited on a background, as browsers do. Greys of 16 bits are scaled to 8 by their range:
    the largest value the file declares (TIFF's MaxSampleValue), else that of the smallest of 8, 12 and 16 bits that
    hold its values, so that a camera's 12 bits are neither clipped nor black. Of an animation the first frame is taken.

    Parameters
    ----------
    path : path
    background : tuple of three int, default=(255, 255, 255)
        Behind transparent pixels.
    needed : int, default=None
        Pixels of the shorter side that are needed. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size where that
        divides both sides and leaves twice as many: in half to a third of the time, and a few grey levels of 255 apart
        once resized.

    Returns
    -------
    pixels : Tensor of shape (H, W, 3)
        uint8.

    Raises
    ------
    UnreadableImageError
        A ValueError: if the file cannot be read, is no image or is damaged; if it holds floating-point or negative
        values, or integers beyond 16 bits without a declared largest value, which have no range; if it has more than
        twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (179 million unless changed, which take 2 GB, or 4 GB if they are
        transparent). The message names the file.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "image.png")
    >>> Image.new("LA", (2, 1), (0, 0)).save(path)  # transparent
    >>> decode(path)
    tensor([[[255, 255, 255],
             [255, 255, 255]]], dtype=torch.uint8)
    """
    try:
        with Image.open(path) as image:
            if needed is not None:
                _shrink(image, _REDUCED * needed)
            _scale_transparency(image)
            ImageOps.exif_transpose(image, in_place=True)
            return torch.from_numpy(_rgb(image, background))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise UnreadableImageError(str(path), _reason(path, error)) from error


def pixels_of(image: Any, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Pixels (H, W, 1 or 3), uint8, of a file, a PIL image, or a uint8 array (H, W), (H, W, 1) or (H, W, 3).

    Raises
    ------
    ValueError
        As :func:`decode`; if an array has another shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode(image, background).numpy()
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"it is empty, of {image.width} x {image.height} pixels")
        copy = ImageOps.exif_transpose(image)  # so that the caller's image stays as it is
        return _rgb(copy, background)
    if not hasattr(image, "__array__"):
        raise ValueError(f"it is of type {type(image).__name__}, neither an image nor a path")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"it has shape {array.shape} and type {array.dtype}, not (H, W, 3) or (H, W) and uint8")
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[2] not in (1, 3):
        raise ValueError(f"it has shape {array.shape}: 1 or 3 channels are possible, and they come last")
    return array


def _rgb(image: Image.Image, background: Sequence[int]) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("it holds floating-point values, which have no range; pass pre-processed arrays")
    if image.mode.startswith("I"):
        return _grey_to_rgb(image, background)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(image: Image.Image, background: Sequence[int]) -> np.ndarray:
    """A grey image of more than 8 bits, scaled by its range."""
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise ValueError(f"it holds values from {least} to {most}, and negative ones have no range; save it as 8 bits")
    tags = getattr(image, "tag_v2", {})
    declared = tags.get(_MAX_SAMPLE_VALUE, 0)
    declared = int(max(declared) if isinstance(declared, tuple) else declared)
    ranges = [2**bits - 1 for bits in (8, 12, 16) if most < 2**bits]
    if declared < most and not ranges:
        raise ValueError(f"it holds integers up to {most}, more than 16 bits, and declares no range; save it as 8 bits")
    largest = declared if declared >= max(most, 1) else ranges[0]
    grey = np.round(values.astype(np.float32) * (255 / largest)).clip(0, 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow undoes for 8 bits alone
        grey = 255 - grey
    pixels = np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info:
        pixels[values == image.info["transparency"]] = background
    return pixels


def _shrink(image: Image.Image, least: int) -> None:
    """Let JPEG's decoder, which computes fewer pixels of each block of 8 x 8, leave sides of at least so many."""
    if image.format not in ("JPEG", "MPO"):
        return
    for factor in (8, 4, 2):
        width, height = (side // factor for side in image.size)
        if (factor * width, factor * height) == image.size and min(width, height) >= least:
            image.draft(None, (width, height))
            return


def _scale_transparency(image: Image.Image) -> None:
    """Give PNG's transparent colour the scale of the pixels, where Pillow leaves it in that of the file.

    A closed or loaded image has no tile any more.
    """
    tile = getattr(image, "tile", None)
    transparent = image.info.get("transparency")
    if image.format != "PNG" or not tile or transparent is None:
        return
    raw_mode = tile[0][3]
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = transparent * 255 // (3 if raw_mode == "L;2" else 15)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _reason(path: str | os.PathLike[str], error: Exception) -> str:
    """Why a file cannot be decoded, in words."""
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    problem = file_problem(path)
    if problem is not None:
        return problem
    if isinstance(error, UnidentifiedImageError):
        return "it is no image in a format that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (OSError, ValueError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def file_problem(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with a file before its content is looked at, or None."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:  # a ValueError if the name holds a null character
        is_link = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return "broken symbolic link" if is_link else getattr(error, "strerror", None) or str(error)
    if stat.S_ISDIR(info.st_mode):
        return "it is a folder; pass the files in it"
    if not stat.S_ISREG(info.st_mode):
        return "it is no regular file"
    return "it is empty" if info.st_size == 0 else None


def describe(failures: Sequence[tuple[str, str]], n: int) -> str:
    """Unreadable files with their reasons: the first of them, and how many of `n` there are."""
    named = "; ".join(f"{path!r}: {why}" for path, why in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return f"cannot read {len(failures)} of {n} image files: {named}{more}. skal.images.readable finds all of them"
