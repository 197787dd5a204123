"""Greyscale images of more than 8 bits per pixel, scaled to 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_PHOTOMETRIC, _MAX_SAMPLE_VALUE = 262, 281  # TIFF tags


def is_deep(image: Image.Image) -> bool:
    """Whether the values of an image do not fit in 8 bits, so that Pillow would clip them."""
    return image.mode == "F" or image.mode.startswith("I")


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF, which copies of an opened image lack; of other images none."""
    return getattr(image, "tag_v2", {})


def grey_levels(image: Image.Image, tags: Mapping[int, Any] | None = None) -> np.ndarray:
    """Grey levels (H, W), uint8, of an image that :func:`is_deep`, scaled by its range.

    The range is the largest value the file declares (TIFF's MaxSampleValue), else that of the smallest of 8, 12 and 16
    bits that holds all values, so that 12-bit camera images are neither clipped nor black. The tags of a copy are those
    of the opened image; None takes the image's own.

    Raises
    ------
    ValueError
        If the values have no defined range: floating-point or negative values, or integers beyond 16 bits without a
        declared maximum.

    Examples
    --------
    >>> grey_levels(Image.fromarray(np.array([[0, 256, 4095]], dtype=np.uint16)))
    array([[  0,  16, 255]], dtype=uint8)
    """
    if image.mode == "F":
        raise ValueError("it contains floating-point values, whose range is unknown; pass pre-processed arrays")
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise ValueError(
            f"it contains values from {least} to {most}, but negative values have no known range; save it with 8 bits"
        )
    tags = tags_of(image) if tags is None else tags
    declared = tags.get(_MAX_SAMPLE_VALUE, 0)
    declared = int(max(declared) if isinstance(declared, tuple) else declared)
    ranges = [2**bits - 1 for bits in (8, 12, 16) if most < 2**bits]
    if declared < most and not ranges:
        raise ValueError(
            f"it contains integers up to {most}, which exceed 16 bits, and declares no range; save it with 8 bits"
        )
    largest = declared if declared >= max(most, 1) else ranges[0]
    grey = np.round(values.astype(np.float32) * (255 / largest)).clip(0, 255).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey  # zero is white, which Pillow corrects only for 8 bits
