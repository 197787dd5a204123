"""Filter banks and their response maps: Gabor filters, and the first convolutions of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import nn

from skal.backbones.backbone import Backbone
from skal.features.activations import Point, frozen_activations
from skal.images.inputs import Inputs, JoinedInputs
from skal.images.transform import to_grey

#: Number of images whose response maps are in memory at a time.
BATCH = 16


def gabor_bank(
    n_scales: int = 4, n_orientations: int = 6, *, size: int = 61, low: float = 0.05, high: float = 0.4
) -> np.ndarray:
    """Complex Gabor filters that cover the frequency plane and touch each other at half maximum.

    Parameters
    ----------
    n_scales, n_orientations : int, default=4 and 6
    size : int, default=61
        Side of the filters, in pixels.
    low, high : float, default=0.05 and 0.4
        Lowest and highest centre frequency, in cycles per pixel.

    Returns
    -------
    bank : ndarray of shape (n_scales * n_orientations, size, size)
        complex128, with all orientations of the finest scale first. Each filter has mean 0, so that it does not respond
        to constant images.

    References
    ----------
    .. [1] Manjunath, Ma. "Texture features for browsing and retrieval of image data", IEEE TPAMI 18(8), 1996, Eq. 1-4
       and section 2.2.

    Examples
    --------
    >>> gabor_bank().shape
    (24, 61, 61)
    """
    ratio = (high / low) ** (1 / (n_scales - 1)) if n_scales > 1 else 1.0
    half = 2 * np.log(2)
    sigma_u = (ratio - 1) * high / ((ratio + 1) * np.sqrt(half)) if n_scales > 1 else high / (3 * np.sqrt(half))
    sigma_v = np.tan(np.pi / (2 * n_orientations)) * (high - half * sigma_u**2 / high)
    sigma_v /= np.sqrt(half - half**2 * sigma_u**2 / high**2)
    sigma_x, sigma_y = 1 / (2 * np.pi * sigma_u), 1 / (2 * np.pi * sigma_v)
    y, x = np.mgrid[:size, :size] - size // 2
    filters = []
    for m in range(n_scales):
        for n in range(n_orientations):
            angle, scale = n * np.pi / n_orientations, ratio**-m
            along = scale * (x * np.cos(angle) + y * np.sin(angle))
            across = scale * (-x * np.sin(angle) + y * np.cos(angle))
            envelope = np.exp(-((along / sigma_x) ** 2 + (across / sigma_y) ** 2) / 2) / (2 * np.pi * sigma_x * sigma_y)
            wave = scale * envelope * np.exp(2j * np.pi * high * along)
            filters.append(wave - wave.mean())
    return np.stack(filters)


class GaborResponses:
    """Responses of greyscale images to a Gabor bank, real parts first. Borders are padded by replication."""

    def __init__(self, device: str):
        bank = torch.from_numpy(gabor_bank())
        self._filters = torch.cat([bank.real, bank.imag]).float().to(device)
        self._spectra: dict[tuple[int, ...], torch.Tensor] = {}
        self._device = device
        self.layers = ["gabor"] * len(self._filters)

    def __call__(self, inputs: Inputs, start: int = 0) -> Iterator[list[torch.Tensor]]:
        """Response maps (n, 48, H, W) of each block of images, from row `start`, as a list of one tensor."""
        for first in range(start, len(inputs), BATCH):
            x = inputs.load(range(first, min(first + BATCH, len(inputs))))
            yield [self._of_grey((to_grey(x) if x.shape[1] == 3 else x)[:, 0])]

    @property
    def pictures(self) -> np.ndarray:
        """Real parts of the filters."""
        return self._filters[: len(self._filters) // 2].cpu().numpy()

    def _of_grey(self, grey: torch.Tensor) -> torch.Tensor:
        """Responses by the convolution theorem; direct convolution takes 61 x 61 products per pixel and filter.

        Values that wrap around the padded image lie outside the part that is kept.
        """
        padded = F.pad(grey[:, None].to(self._device), (self._filters.shape[-1] // 2,) * 4, mode="replicate")[:, 0]
        shape = tuple(next_fast_len(n, real=True) for n in padded.shape[1:])
        if shape not in self._spectra:
            self._spectra = {shape: torch.fft.rfft2(self._filters, s=shape).conj()}
        spectrum = torch.fft.rfft2(padded, s=shape)[:, None] * self._spectra[shape]
        return torch.fft.irfft2(spectrum, s=shape)[:, :, : grey.shape[1], : grey.shape[2]].cpu()


class ConvResponses:
    """Response maps of chosen convolutions of a network."""

    def __init__(self, backbone: Backbone, layers: int | Sequence[str], activation: bool, device: str):
        graph = backbone.layers
        modules = dict(graph.module.named_modules())
        convolutions = [name for name in graph.weight_layers if isinstance(modules[name], nn.Conv2d)]
        if isinstance(layers, (int, np.integer)) and not isinstance(layers, bool):
            if not 1 <= layers <= len(convolutions):
                raise ValueError(
                    f"layers={layers} must be from 1 to {len(convolutions)}, the number of convolutions in the network"
                )
            chosen = convolutions[:layers]
        else:
            chosen = list(layers) if not isinstance(layers, (str, bool)) else [str(layers)]
            unknown = [name for name in chosen if name not in convolutions]
            if unknown or not chosen:
                raise ValueError(f"layers={layers!r} must be a number, or names of convolutions from {convolutions}")
        self._backbone, self._device, self._first = backbone, device, modules[chosen[0]]
        self._points = [Point(graph.response(name, activation=activation)) for name in chosen]
        self.layers = [name for name in chosen for _ in range(modules[name].out_channels)]

    def __call__(self, inputs: Inputs, start: int = 0) -> Iterator[list[torch.Tensor]]:
        """Response maps (n, filters, H, W) of each block of images, from row `start`, one tensor per layer."""
        for first in range(start, len(inputs), BATCH):
            block = JoinedInputs((inputs, range(first, min(first + BATCH, len(inputs)))))
            yield from frozen_activations(self._backbone, block, self._points, device=self._device, cache=None)

    @property
    def pictures(self) -> np.ndarray:
        """Kernels of the first layer, scaled to [0, 1]; in colour if they have three channels."""
        kernels = self._first.weight.detach().cpu()
        kernels = kernels - kernels.amin((1, 2, 3), keepdim=True)
        kernels = (kernels / kernels.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)).numpy()
        return kernels.transpose(0, 2, 3, 1) if kernels.shape[1] == 3 else kernels.mean(axis=1)


def filters_by_layer(layers: Sequence[str]) -> list[int]:
    """Number of filters of each layer, in order."""
    return [len(list(group)) for _, group in groupby(layers)]
