"""Random crops and flips of images, for strategies that compare the crops of an image with each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from skal.images.decode import pixels_of
from skal.images.forms import image_of

_SIDE = 0.875  # relative side of a crop: 224 of 256 pixels


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
        """Crops (n_crops, ...) of each image, in its own format; for files and PIL images uint8 (n_crops, H, W, 3)."""
        return [self._of_image(i, image) for i, image in zip(rows, images, strict=True)]

    def _of_image(self, i: int, image: Any) -> np.ndarray:
        image = image_of(image)
        pixels = image if isinstance(image, np.ndarray) else pixels_of(image)
        is_float = pixels.dtype.kind == "f"  # (channels, H, W), else (H, W) or (H, W, channels)
        grey = pixels.ndim == 2
        maps = torch.from_numpy(np.ascontiguousarray(pixels[..., None] if grey else pixels))
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
