"""Random crops and flips of images, for strategies that compare the crops of an image with each other."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from skal.images.decode import pixels_of
from skal.images.forms import image_of

_SIDE = 0.875  # relative side of a crop: 224 of 256 pixels
_BLACK = (0, 0, 0)


class RandomCrops:
    """Crops of 7/8 of each side at random places, randomly flipped, and resized to the size of the image.

    Parameters
    ----------
    n : int
        Number of images.
    n_crops : int
        Number of crops per image.
    generator : RandomState
        All random numbers are drawn at once, so crops do not depend on which images are requested together.
    """

    def __init__(self, n: int, n_crops: int, generator: np.random.RandomState):
        self.places = generator.random_sample((n, n_crops, 2))
        self.flips = generator.random_sample((n, n_crops)) < 0.5

    def of(self, rows: np.ndarray, images: Any) -> list[np.ndarray]:
        """Crops (n_crops, ...) of each image, float32 or uint8; for files and PIL images uint8 (n_crops, H, W, 3).

        Crops of a transparent image are PIL images (n_crops,), so that each network composites them on its background.
        """
        return [self._of_image(i, image) for i, image in zip(rows, images, strict=True)]

    def _of_image(self, i: int, image: Any) -> np.ndarray:
        image = image_of(image)
        if isinstance(image, np.ndarray):
            return self._of_pixels(i, image)
        on_white = self._of_pixels(i, pixels_of(image))
        if not _may_be_transparent(image):
            return on_white
        return _with_transparency(self._of_pixels(i, pixels_of(image, _BLACK)), on_white)

    def _of_pixels(self, i: int, pixels: np.ndarray) -> np.ndarray:
        is_float = pixels.dtype.kind == "f"  # (channels, H, W), else (H, W) or (H, W, channels)
        grey = pixels.ndim == 2
        # A copy, since torch takes neither read-only memory nor negative strides nor another byte order.
        maps = torch.from_numpy(np.array(pixels[..., None] if grey else pixels, np.float32 if is_float else None))
        maps = maps if is_float else maps.permute(2, 0, 1)
        size = maps.shape[1:]
        height, width = (max(1, round(side * _SIDE)) for side in size)
        crops = []
        for (down, right), flip in zip(self.places[i], self.flips[i], strict=True):
            top, left = round(down * (size[0] - height)), round(right * (size[1] - width))
            crop = maps[:, top : top + height, left : left + width]
            crops.append(crop.flip(2) if flip else crop)
        resized = F.interpolate(torch.stack(crops), size=tuple(size), mode="bilinear", antialias=True)
        resized = resized if is_float else resized.permute(0, 2, 3, 1)
        return resized.numpy()[..., 0] if grey else resized.numpy()


def _may_be_transparent(image: Any) -> bool:
    if isinstance(image, (str, os.PathLike)):
        with Image.open(image) as opened:
            return opened.has_transparency_data
    return getattr(image, "has_transparency_data", False)


def _with_transparency(on_black: np.ndarray, on_white: np.ndarray) -> np.ndarray:
    """PIL images in RGBA from crops on two backgrounds, which differ by the transparency; opaque crops unchanged."""
    alpha = 255 - (on_white - on_black).mean(axis=-1, keepdims=True).round().astype(np.uint8)
    if (alpha == 255).all():
        return on_white
    colour = (on_black * (255 / np.maximum(alpha, 1))).round().clip(0, 255).astype(np.uint8)
    crops = np.empty(len(alpha), dtype=object)
    crops[:] = [Image.fromarray(rgba) for rgba in np.concatenate([colour, alpha], axis=-1)]
    return crops
