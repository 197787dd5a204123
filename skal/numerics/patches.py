"""Inner products between the patches that a convolution reads in two images, without unfolding them.

A patch of a k x k convolution contains each channel k² times, so the products of all patches cost k² times those of all
pixels. They are therefore summed from the products of pixels: the product of patches t and t' is the sum over the
kernel's offsets q of the products of pixels t + q and t' + q. With a stride, pixels are divided into phases, and only
pixels of the same phase are multiplied.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Geometry(NamedTuple):
    """Settings of a two-dimensional convolution, apart from its weights. Pairs are (vertical, horizontal)."""

    kernel: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def phases(self, axis: int) -> dict[int, list[int]]:
        """Offsets of the kernel along an axis, in pixels of each phase.

        Examples
        --------
        >>> Geometry((3, 3), (2, 2), (1, 1), (1, 1), 1).phases(0)
        {1: [-1, 0], 0: [0]}
        """
        found = defaultdict(list)
        for j in range(self.kernel[axis]):
            offset = self.dilation[axis] * j - self.padding[axis]
            found[offset % self.stride[axis]].append(offset // self.stride[axis])
        return dict(found)

    def pixels(self, size: tuple[int, int]) -> list[int]:
        """Number of pixels in each pair of phases, for images of this size."""
        lengths = [[len(range(phase, size[axis], self.stride[axis])) for phase in self.phases(axis)] for axis in (0, 1)]
        return [height * width for height, width in product(*lengths)]

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output for images of this size."""
        height, width = (
            (size[axis] + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width


def patches(images: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Unfolded inputs (n, T, p · k²) of images (n, p, H, W), with channels in the order of the weights."""
    if geometry.kernel == (1, 1) and geometry.padding == (0, 0):
        return images[:, :, :: geometry.stride[0], :: geometry.stride[1]].flatten(2).transpose(1, 2)
    unfolded = F.unfold(images, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
    return unfolded.transpose(1, 2)


class Unfolded:
    """Patches, or other inputs of a weight at several positions, laid out for products.

    Parameters
    ----------
    inputs : Tensor of shape (n, T, p)
    as_columns : bool
        Whether these are the second factor.
    """

    def __init__(self, inputs: torch.Tensor, as_columns: bool):
        self.shape = inputs.shape[:2]
        self._flat = (
            (inputs.permute(2, 0, 1) if as_columns else inputs)
            .contiguous()
            .view((inputs.shape[2], -1) if as_columns else (-1, inputs.shape[2]))
        )

    def products(self, columns: Unfolded) -> torch.Tensor:
        """Inner products of all positions with those of `columns`, (n, T, m, U)."""
        return (self._flat @ columns._flat).view(*self.shape, *columns.shape)


class Pixels:
    """Images whose patches are multiplied, laid out for products.

    Parameters
    ----------
    images : Tensor of shape (n, p, H, W)
    geometry : Geometry
    as_columns : bool
        Whether these are the second factor.
    """

    def __init__(self, images: torch.Tensor, geometry: Geometry, as_columns: bool):
        self.n, _, *size = images.shape
        self.out_size = geometry.out_size((size[0], size[1]))
        self._geometry = geometry
        self._phases: dict[tuple[int, int], tuple[torch.Tensor, tuple[int, int]]] = {}
        vertical, horizontal = geometry.stride
        for phase in product(geometry.phases(0), geometry.phases(1)):
            grid = images[:, :, phase[0] :: vertical, phase[1] :: horizontal]
            laid = grid.permute((1, 2, 3, 0) if as_columns else (0, 2, 3, 1))
            flat = laid.reshape(len(laid), -1) if as_columns else laid.reshape(-1, laid.shape[-1])
            self._phases[phase] = flat, (grid.shape[2], grid.shape[3])

    def products(self, columns: Pixels) -> torch.Tensor:
        """Inner products of all patches with those of `columns`, (n, T, m, U)."""
        n, m = self.n, columns.n
        (top, left), (up, right) = self.out_size, columns.out_size
        vertical, horizontal = self._geometry.phases(0), self._geometry.phases(1)
        first = next(iter(self._phases.values()))[0]
        total = first.new_zeros(n, top, left, up, right, m)  # column images last, so that long rows are added
        for phase, (flat, (height, width)) in self._phases.items():
            others, (other_height, other_width) = columns._phases[phase]
            pixels = (flat @ others).view(n, height, width, other_height, other_width, m)
            lines = pixels.new_zeros(n, top, width, up, other_width, m)
            for q in vertical[phase[0]]:
                (a, b), (c, d) = _valid(q, top, height), _valid(q, up, other_height)
                lines[:, a:b, :, c:d] += pixels[:, a + q : b + q, :, c + q : d + q]
            for q in horizontal[phase[1]]:
                (a, b), (c, d) = _valid(q, left, width), _valid(q, right, other_width)
                total[:, :, a:b, :, c:d] += lines[:, :, a + q : b + q, :, c + q : d + q]
        return total.permute(0, 1, 2, 5, 3, 4).reshape(n, top * left, m, up * right)


def _valid(offset: int, n_patches: int, n_pixels: int) -> tuple[int, int]:
    """First and last (exclusive) patch whose pixel at this offset lies in the image."""
    start = max(0, -offset)
    return start, max(start, min(n_patches, n_pixels - offset))
