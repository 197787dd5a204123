"""Optimiser steps relative to the size of the weights, per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

#: Minimum size of a channel, as a share of the size of its tensor, so that dead channels still move a little.
_SHARE = 1e-2
#: Minimum size of a tensor, so that weights initialised to zero still move.
_LEAST = 1e-3
#: Size of normalised inputs below which the statistics of a normalisation do not fit them. Networks with trained
#: statistics have .3 and more, also on images of another kind.
_FITS = 0.1


def typical_sizes(module: nn.Module) -> dict[str, torch.Tensor]:
    """Typical size of the trainable weights, by name; one value per output channel where a tensor has channels.

    The size of a kernel is the root mean square of each output channel. Channels of one tensor may differ a
    thousandfold, above all in depthwise convolutions, and normalisation equalises their outputs. A step that suits the
    root mean square of the tensor would then overwrite most of them. Both parameters of a normalisation have the size
    of its scale, which is the spread of the channel's output. Any other bias has the root mean square of its tensor.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    sizes : dict of str to Tensor
        Their shapes broadcast against the weights.

    Examples
    --------
    >>> norm = nn.BatchNorm1d(2)
    >>> norm.weight.data = torch.tensor([-2.0, 0.5])
    >>> typical_sizes(norm)
    {'weight': tensor([2.0000, 0.5000]), 'bias': tensor([2.0000, 0.5000])}
    """
    factors: dict[str, torch.Tensor] = {}
    for name, part in module.named_modules():
        if isinstance(part, (_NormBase, nn.LayerNorm, nn.GroupNorm)) and part.weight is not None:
            at = f"{name}." if name else ""
            factors |= {f"{at}weight": part.weight, f"{at}bias": part.weight}
    sizes = {}
    for name, weight in module.named_parameters():
        if not weight.requires_grad:
            continue
        values = factors.get(name, weight).detach()
        typical = values.square().mean().sqrt()
        if name in factors:
            typical = values.abs().clamp(min=_SHARE * float(typical))
        elif weight.ndim > 1:
            channels = values.square().mean(dim=tuple(range(1, weight.ndim)), keepdim=True).sqrt()
            typical = channels.clamp(min=_SHARE * float(typical))
        sizes[name] = typical.clamp(min=_LEAST if weight.ndim == 1 else _LEAST * _SHARE)
    return sizes


class RelativeSteps:
    """Scales the update of each weight by the typical size of the weight.

    The learning rate of any optimiser then becomes relative to the weights. The first steps are shorter: until Adam's
    averages are filled, its steps are the signs of single gradients, and would move all layers of a deep suffix in the
    wrong direction at once.

    A normalisation with running statistics whose inputs are far smaller than these, as in a network with random
    weights, has a shift that moves in proportion. It would otherwise exceed the signal after one step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Hooks are registered on it.
    module : nn.Module
        Module whose weights the optimiser updates.
    n_warmup : int, default=0
        Number of warm-up steps. Step t of them is scaled by t / n_warmup.

    Examples
    --------
    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[4.0], [0.5]]))
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> steps = RelativeSteps(optimizer, layer)
    >>> layer(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> layer.weight.detach().ravel()
    tensor([3.6000, 0.4500])
    """

    def __init__(self, optimizer: torch.optim.Optimizer, module: nn.Module, n_warmup: int = 0):
        named = typical_sizes(module)
        sizes = {weight: named[name] for name, weight in module.named_parameters() if name in named}
        self.weights = list(sizes.items())
        self.before = [torch.empty_like(weight) for weight, _ in self.weights]
        norms = [part for part in module.modules() if isinstance(part, _NormBase) and part.bias in sizes]
        self.norms = [(part.weight, part.bias, sizes[part.bias]) for part in norms]
        self.n_warmup = n_warmup
        self.n_steps = 0
        optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._rescale)

    @torch.no_grad()
    def _remember(self, *_: Any) -> None:
        for (weight, _size), before in zip(self.weights, self.before, strict=True):
            before.copy_(weight)

    @torch.no_grad()
    def _rescale(self, *_: Any) -> None:
        self.n_steps += 1
        if self.n_steps == 1:
            for scale, shift, size in self.norms:
                size.mul_(_fit(scale, shift))
        share = min(1.0, self.n_steps / self.n_warmup) if self.n_warmup else 1.0
        for (weight, size), before in zip(self.weights, self.before, strict=True):
            torch.lerp(before, weight, size * share, out=weight)


def _fit(scale: torch.Tensor, shift: torch.Tensor) -> float:
    """Size of a normalisation's inputs after normalising, if it is far below 1; otherwise 1.

    The gradient of the scale is that of the shift times the normalised input.
    """
    if scale.grad is None or shift.grad is None or not shift.grad.any():
        return 1.0
    ratio = float(scale.grad.norm() / shift.grad.norm())
    return ratio if ratio < _FITS else 1.0
