"""Per-sample gradients of a network's outputs, in forms whose products are exact and cheap.

For a layer that multiplies inputs a with a weight, the gradient of output c of image x is the outer product of a with
the gradient d of the layer's output, summed over positions t. A product of two such gradients is computed from products
of inputs and products of output gradients, without forming the gradients:

    J_c(x) · g(x')  =  sum over t and t' of  (a(x, t) · a(x', t') + 1) (d_c(x, t) · d(x', t'))

where the 1 stands for the bias. For small layers, where this is cheaper, and for parameters used in any other way, the
gradients are formed explicitly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from skal.gradients.recording import LayerKey, Use
from skal.numerics.patches import Pixels, Unfolded, patches

COLUMNS = 8  # references whose factors are laid out together
_PRODUCTS = 1 << 24  # bytes of intermediate products of a convolution, so that they stay in the processor's cache
_ADDITIONS = 30  # cost of summing pixels to patches, in multiplications per pair of positions


class Whole(NamedTuple):
    """Explicit gradients (n, K, P)."""

    rows: torch.Tensor

    @classmethod
    def join(cls, parts: list[Whole]) -> Whole:
        return cls(torch.cat([part.rows for part in parts]))

    def add_products(self, total: torch.Tensor, candidates: Whole) -> None:
        flat = total.view(total.shape[0] * total.shape[1], -1)
        flat.addmm_(self.rows.flatten(0, 1), candidates.rows.flatten(0, 1).T)


class Outer(NamedTuple):
    """Factors of a layer at a single position: inputs (n, groups, p) and output gradients (n, K, groups, o)."""

    inputs: torch.Tensor
    deltas: torch.Tensor
    bias: bool

    @classmethod
    def join(cls, parts: list[Outer]) -> Outer:
        return cls(torch.cat([p.inputs for p in parts]), torch.cat([p.deltas for p in parts]), parts[0].bias)

    def add_products(self, total: torch.Tensor, candidates: Outer) -> None:
        n, n_outputs, m, n_labels = total.shape
        for g in range(self.inputs.shape[1]):
            inputs = self.inputs[:, g] @ candidates.inputs[:, g].T
            if self.bias:
                inputs += 1
            deltas = self.deltas[:, :, g].flatten(0, 1) @ candidates.deltas[:, :, g].flatten(0, 1).T
            total.addcmul_(inputs.view(n, 1, m, 1), deltas.view(n, n_outputs, m, n_labels))


class _Part(NamedTuple):
    """Factors of a few samples, for one group of a convolution: inputs, and output gradients (n, K, T, o)."""

    group: int
    inputs: Any  # Pixels or Unfolded
    deltas: torch.Tensor


class Positions(NamedTuple):
    """Factors of a layer at several positions, divided into parts."""

    parts: list[_Part]
    bias: bool

    @classmethod
    def join(cls, several: list[Positions]) -> Positions:
        return cls([part for one in several for part in one.parts], several[0].bias)

    def add_products(self, total: torch.Tensor, candidates: Positions) -> None:
        for rows, mine in _with_rows(self.parts):
            for columns, theirs in _with_rows(candidates.parts):
                if mine.group == theirs.group:
                    self._add_part(total[rows, :, columns], mine, theirs)

    def _add_part(self, total: torch.Tensor, mine: _Part, theirs: _Part) -> None:
        n, n_outputs, T, width = mine.deltas.shape
        m, n_labels, U, _ = theirs.deltas.shape
        inputs = theirs.inputs.products(mine.inputs).reshape(m, U, n * T)
        if self.bias:
            inputs += 1
        deltas = mine.deltas.view(n, n_outputs, T * width)
        for k in range(n_labels):
            through = inputs.transpose(1, 2) @ theirs.deltas[:, k]
            total[..., k] += deltas @ through.view(m, n, T * width).permute(1, 2, 0)


def _with_rows(parts: list[_Part]) -> Iterator[tuple[slice, _Part]]:
    """Parts, with the slice of samples that each contains."""
    start = 0
    for i, part in enumerate(parts):
        yield slice(start, start + len(part.deltas)), part
        if i + 1 < len(parts) and parts[i + 1].group <= part.group:
            start += len(part.deltas)


class Layer(NamedTuple):
    """Parameters that are used by the same calls, and the form of their gradients.

    Attributes
    ----------
    key : tuple
        Key of its uses.
    form : {"whole", "outer", "positions"}
        Explicit gradients; factors at a single position; or factors at several positions.
    unfolded : bool
        Whether the factors of a convolution are its patches rather than its pixels.
    bias : bool
        Whether there is a bias in addition to the weight.
    """

    key: LayerKey
    form: str
    unfolded: bool
    bias: bool
    n_parameters: int
    n_inputs: int
    n_deltas: int

    def size(self, n_directions: int) -> int:
        """Number of values stored per sample."""
        if self.form == "whole":
            return n_directions * self.n_parameters
        return self.n_inputs + n_directions * self.n_deltas


def layer_inputs(use: Use) -> torch.Tensor:
    """Inputs that the weight of a use is multiplied with, (n, T, p); for a convolution patches (n, groups, T, p)."""
    if use.geometry is None:
        return use.input
    return patches(use.input, use.geometry).unflatten(2, (use.geometry.groups, -1)).transpose(1, 2)


def cheapest_form(key: LayerKey, uses: list[Use], n_outputs: int, n_labels: int) -> Layer:
    """The form with the fewest multiplications per pair of samples."""
    weight, bias = uses[0].weight, uses[0].bias
    n_parameters = sum(p.numel() for p in (weight, bias) if p is not None)
    whole = Layer(key, "whole", False, bias is not None, n_parameters, 0, 0)
    if weight is None or uses[0].kind == "norm":
        return whole
    patch = weight[0].numel() * (uses[0].geometry.groups if uses[0].geometry else 1)
    T = [use.n_positions for use in uses]
    n_deltas = len(weight) * sum(T)
    of_deltas = n_labels * (sum(T) * n_deltas + len(uses) * n_outputs * n_deltas)
    by_patches: float = sum(T) ** 2 * patch
    by_pixels = sum(map(_pixel_products, uses)) * len(uses) ** 2
    if max(T) == 1:
        cost: float = len(uses) ** 2 * (patch + n_outputs * n_labels * len(weight))
        factored = Layer(key, "outer", True, bias is not None, n_parameters, patch * len(uses), n_deltas)
    elif by_patches <= by_pixels:
        cost = by_patches + of_deltas
        factored = Layer(key, "positions", True, bias is not None, n_parameters, patch * sum(T), n_deltas)
    else:
        cost = by_pixels + of_deltas
        pixels = sum(use.input[0].numel() for use in uses)
        factored = Layer(key, "positions", False, bias is not None, n_parameters, pixels, n_deltas)
    return factored if cost < n_outputs * n_labels * n_parameters else whole


def _pixel_products(use: Use) -> float:
    """Cost, in multiplications, of computing the products of patches from pixels, including the additions."""
    if use.geometry is None:
        return np.inf
    pixels = use.geometry.pixels((use.input.shape[2], use.input.shape[3]))
    additions = _ADDITIONS * use.geometry.groups * use.n_positions**2
    return use.input.shape[1] * sum(n**2 for n in pixels) + additions


def layer_factors(layer: Layer, use: Use, deltas: torch.Tensor, as_columns: bool) -> Outer | Positions:
    """Factors of a use: its inputs, and deltas (n, K, T, o)."""
    groups = 1 if use.geometry is None else use.geometry.groups
    inputs = use.input
    if use.geometry is not None and layer.unfolded:
        inputs = patches(inputs, use.geometry)
    if layer.form == "outer":
        return Outer(inputs[:, 0].unflatten(1, (groups, -1)), deltas[:, :, 0].unflatten(2, (groups, -1)), layer.bias)
    T, width = deltas.shape[2:]
    part = COLUMNS if as_columns else max(1, _PRODUCTS // (COLUMNS * T * width * deltas.itemsize))
    parts: list[_Part] = []
    for few, towards in zip(inputs.split(part), deltas.split(part), strict=True):
        for g in range(groups):
            delta = towards.unflatten(3, (groups, -1))[:, :, :, g].contiguous()
            if use.geometry is None or layer.unfolded:
                parts.append(_Part(g, Unfolded(few.unflatten(2, (groups, -1))[:, :, g], as_columns), delta))
            else:
                pixels = few.unflatten(1, (groups, -1))[:, g]
                parts.append(_Part(g, Pixels(pixels, use.geometry, as_columns), delta))
    return Positions(parts, layer.bias)
