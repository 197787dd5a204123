"""Decoding of image files and PIL images to pixels: upright, RGB, 8 bits."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from skal._grey import grey_levels, is_deep, tags_of

#: Version of the decoder; part of the cache key of every file. Increase it whenever decoded pixels change.
DECODER = 4
WHITE = (255, 255, 255)

_REDUCED = 2  # minimum size of a JPEG decoded at reduced size, relative to the size needed; as in Pillow's thumbnail
_NAMED = 5  # maximum number of files that an error names


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
    """Decode an image file to uint8 pixels (H, W, 3), upright and in RGB.

    Transparent images are composited on a background, as in browsers. Greyscale images of 16 bits are scaled to 8 bits
    by their range. This is the largest value the file declares (TIFF's MaxSampleValue), else that of the smallest of 8,
    12 and 16 bits that holds all values, so that 12-bit camera images are neither clipped nor black. For animations,
    the first frame is used.

    Parameters
    ----------
    path : path
    background : tuple of three int, default=(255, 255, 255)
        Colour behind transparent pixels.
    needed : int, default=None
        Required length of the shorter side, in pixels. A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if this
        divides both sides and leaves at least twice this length. Decoding then takes half to a third of the time, and
        resized images differ by a few grey levels of 255.

    Returns
    -------
    pixels : Tensor of shape (H, W, 3)
        uint8.

    Raises
    ------
    UnreadableImageError
        A ValueError that names the file. It is raised in three cases. The file cannot be read, is not an image or is
        damaged. Its values have no defined range: floating-point or negative values, or integers beyond 16 bits without
        a declared maximum. It has more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (179 million by default, which
        take 2 GB, or 4 GB with transparency).

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
        # Given a name, Pillow maps raw TIFFs into memory, with the sides swapped before they are turned.
        with nullcontext(path) if hasattr(path, "read") else open(path, "rb") as file, Image.open(file) as image:
            if needed is not None:
                _shrink(image, _REDUCED * needed)
            _scale_transparency(image)
            ImageOps.exif_transpose(image, in_place=True)
            return torch.from_numpy(_rgb(image, background, tags_of(image)))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise UnreadableImageError(str(path), _reason(path, error)) from error


def pixels_of(image: Any, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Pixels (H, W, 1 or 3), uint8, of a file, a PIL image, or a uint8 array (H, W), (H, W, 1) or (H, W, 3).

    Raises
    ------
    ValueError
        As :func:`decode`. Also if an array has any other shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode(image, background).numpy()
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"it is empty ({image.width} x {image.height} pixels)")
        _scale_transparency(image)  # in place, since it cannot be done once the image is loaded
        copy = ImageOps.exif_transpose(image)  # a copy, so that the caller's pixels are not modified
        return _rgb(copy, background, tags_of(image))
    if not hasattr(image, "__array__"):
        raise ValueError(f"it is of type {type(image).__name__}, neither an image nor a path")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"it has shape {array.shape} and type {array.dtype}, but must be uint8 of shape (H, W, 3) or (H, W)"
        )
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[2] not in (1, 3):
        raise ValueError(f"it has shape {array.shape}, but must have 1 or 3 channels, in the last dimension")
    return array


def _rgb(image: Image.Image, background: Sequence[int], tags: Mapping[int, Any]) -> np.ndarray:
    if is_deep(image):
        return _grey_to_rgb(image, background, tags)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(image: Image.Image, background: Sequence[int], tags: Mapping[int, Any]) -> np.ndarray:
    pixels = np.repeat(grey_levels(image, tags)[..., None], 3, axis=2)
    if "transparency" in image.info:
        pixels[np.asarray(image) == image.info["transparency"]] = background
    return pixels


def _shrink(image: Image.Image, least: int) -> None:
    """Let the JPEG decoder compute fewer pixels of each 8 x 8 block, with sides of at least `least` pixels."""
    if image.format not in ("JPEG", "MPO"):
        return
    for factor in (8, 4, 2):
        width, height = (side // factor for side in image.size)
        if (factor * width, factor * height) == image.size and min(width, height) >= least:
            image.draft(None, (width, height))
            return


def _scale_transparency(image: Image.Image) -> None:
    """Convert the transparent colour of a PNG to the scale of the pixels where Pillow leaves it in that of the file.

    A closed or loaded image no longer has a tile.
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
    """Human-readable reason why a file cannot be decoded."""
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"
    problem = file_problem(path)
    if problem is not None:
        return problem
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a format that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (OSError, ValueError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def file_problem(path: str | os.PathLike[str]) -> str | None:
    """Problem with a file that is found without reading its content, or None."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:  # a ValueError if the name holds a null character
        is_link = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return "broken symbolic link" if is_link else getattr(error, "strerror", None) or str(error)
    if stat.S_ISDIR(info.st_mode):
        return "it is a folder; pass the files in it"
    if not stat.S_ISREG(info.st_mode):
        return "it is not a regular file"
    return "it is empty" if info.st_size == 0 else None


def describe(failures: Sequence[tuple[str, str]], n: int) -> str:
    """Error message about unreadable files among `n`: their number, and the names and reasons of the first."""
    named = "; ".join(f"{path!r}: {why}" for path, why in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return f"cannot read {len(failures)} of {n} image files: {named}{more}. skal.images.readable finds all of them"
