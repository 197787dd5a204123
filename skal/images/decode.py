"""Image files to pixels."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError


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
