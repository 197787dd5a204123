"""Image pre-processing: resize, crop, normalise."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral

import torch
import torch.nn.functional as F

from skal.images.decode import WHITE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL's conversion to greyscale

_EXTREME = 8  # aspect ratio above which the long side is resized only where the crop needs it


@dataclass(frozen=True, repr=False)
class ImageTransform:
    """Pre-processing of uint8 pixels: resize the short side to `resize`, centre-crop to `crop`, normalise.

    Parameters
    ----------
    resize : int
        Length of the short side after resizing, in pixels.
    crop : int
        Side of the square centre crop, in pixels.
    mean, std : tuple of float
        Values per channel, for pixels scaled to [0, 1].
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        Antialiasing is always used.
    squash : bool, default=False
        Whether to resize both sides to `resize` instead of the short side only, which distorts images that are not
        square.
    background : tuple of three int, default=(255, 255, 255)
        Colour behind the transparent pixels of image files and PIL images, from 0 to 255.

    Raises
    ------
    ValueError
        If `crop` is larger than `resize`, or `background` is not a colour.

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
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ValueError(f"crop={self.crop} is not between 1 and resize={self.resize}")
        is_colour = len(self.background) == 3 and all(isinstance(v, Integral) and 0 <= v < 256 for v in self.background)
        if not is_colour:
            raise ValueError(f"background={self.background!r} is not three integers from 0 to 255")

    def __repr__(self) -> str:
        # Profiles, models and caches identify their pre-processing by this text, so options added later appear only if
        # they differ from their defaults.
        later = {"squash": False, "background": WHITE}
        shown = [f.name for f in fields(self) if f.name not in later or getattr(self, f.name) != later[f.name]]
        return f"ImageTransform({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Convert uint8 images (n, H, W, 1 or 3) to float32 network inputs (n, channels, crop, crop)."""
        x = pixels.permute(0, 3, 1, 2)
        short = min(x.shape[2:])
        size = [self.resize if self.squash else int(side * self.resize / short) for side in x.shape[2:]]
        if size != list(x.shape[2:]):
            if max(x.shape[2:]) > _EXTREME * short and not self.squash:
                x = _resize_centre(x, size, self.crop, self.interpolation)
            else:
                x = F.interpolate(x, size=size, mode=self.interpolation, antialias=True)
        top, left = (round((side - self.crop) / 2) for side in x.shape[2:])
        x = x[:, :, top : top + self.crop, left : left + self.crop].float() / 255
        if x.shape[1] == 3 and self.channels == 1:
            x = to_grey(x)
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std  # greyscale images are broadcast over the channels here


def to_grey(x: torch.Tensor) -> torch.Tensor:
    """Luminance (n, 1, H, W) of images in colour (n, 3, H, W)."""
    return (x * torch.tensor(_LUMA, dtype=torch.float32).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _resize_centre(x: torch.Tensor, size: list[int], crop: int, interpolation: str) -> torch.Tensor:
    """Resize images to `size`, but compute only the central `crop` pixels of their long axis.

    Resized completely, an image of 1 x 20,000 pixels would become 256 x 5,120,000.
    """
    if size[0] > size[1]:  # torch resizes rows first, and clips between the two axes
        first, weights = _centre_weights(x.shape[2], size[0], crop, interpolation)
        x = x[:, :, first : first + weights.shape[1]]
        x = F.interpolate(x, size=[x.shape[2], size[1]], mode=interpolation, antialias=True)
        return _weighted(x.transpose(2, 3), weights).transpose(2, 3)
    first, weights = _centre_weights(x.shape[3], size[1], crop, interpolation)
    x = _weighted(x[:, :, :, first : first + weights.shape[1]], weights)
    return F.interpolate(x, size=[size[0], crop], mode=interpolation, antialias=True)


def _centre_weights(n: int, length: int, crop: int, interpolation: str) -> tuple[int, torch.Tensor]:
    """The first pixel that the centre depends on, and weights (crop, m) of this pixel and the following ones.

    The weights are those of torch's antialiased resize from `n` to `length` pixels: a triangle, or Keys's cubic with
    a = -0.5, as wide as a pixel of the smaller image.
    """
    scale = n / length
    wide = max(scale, 1.0)
    support = (1 if interpolation == "bilinear" else 2) * wide
    centres = (round((length - crop) / 2) + torch.arange(crop, dtype=torch.float64) + 0.5) * scale
    first = max(int(centres[0] - support), 0)
    last = min(int(centres[-1] + support) + 1, n)
    distance = ((torch.arange(first, last) + 0.5)[None] - centres[:, None]).abs() / wide
    if interpolation == "bilinear":
        weights = (1 - distance).clamp(min=0)
    else:
        inner = (1.5 * distance - 2.5) * distance**2 + 1
        outer = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, inner, torch.where(distance < 2, outer, 0.0))
    return first, (weights / weights.sum(1, keepdim=True)).float()


def _weighted(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sums (..., crop) of uint8 pixels (..., m), as uint8."""
    return (x.float() @ weights.T).round().clamp(0, 255).to(torch.uint8).contiguous()
