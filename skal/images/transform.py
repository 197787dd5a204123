"""From pixels to a network's input: resize, crop, normalise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

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
    squash : bool, default=False
        Whether both sides become `resize`, which distorts images that are not square, instead of the short side.

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
    squash: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ValueError(f"crop={self.crop} is not between 1 and resize={self.resize}")

    def __repr__(self) -> str:
        # Profiles, models and caches name their pre-processing by this text: squash joins it only where it is set.
        squash = ", squash=True" if self.squash else ""
        return (
            f"ImageTransform(resize={self.resize!r}, crop={self.crop!r}, mean={self.mean!r}, std={self.std!r}, "
            f"interpolation={self.interpolation!r}{squash})"
        )

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Network inputs (n, channels, crop, crop), float32, of uint8 images (n, H, W, 1 or 3)."""
        x = pixels.permute(0, 3, 1, 2)
        short = min(x.shape[2:])
        size = [self.resize if self.squash else int(side * self.resize / short) for side in x.shape[2:]]
        if size != list(x.shape[2:]):
            x = F.interpolate(x, size=size, mode=self.interpolation, antialias=True)
        top, left = (round((side - self.crop) / 2) for side in x.shape[2:])
        x = x[:, :, top : top + self.crop, left : left + self.crop].float() / 255
        if x.shape[1] == 3 and self.channels == 1:
            x = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std  # a grey image is spread over the channels here
