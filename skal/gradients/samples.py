"""Per-sample gradients of a network's outputs, as factors, and products of the gradients of two samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import nn

from skal.gradients.factors import COLUMNS, Whole, cheapest_form, layer_factors, layer_inputs
from skal.gradients.recording import LayerKey, Recorder, Use

_SAMPLES = 256  # maximum number of samples in a forward pass


Directions = Callable[..., torch.Tensor]


class SampleGradients(NamedTuple):
    """Logits (n, C) of some samples, and their gradients in K directions: one item per layer."""

    logits: torch.Tensor
    layers: list[Any]


class Gradients:
    """Per-sample gradients of a module's outputs, in the forms whose products are cheapest.

    Parameters
    ----------
    module : nn.Module
        Maps inputs to logits (n, C).
    example : Tensor of shape (n, ...)
        A few inputs on which the structure is determined and verified.
    n_labels : int or None
        Number of directions for the gradients of candidates. None means one per output.
    max_memory : int
        Bytes for forward and backward passes.

    Attributes
    ----------
    n_outputs, n_labels, itemsize : int
        Number of outputs, number of directions of candidates, and bytes per number.
    """

    def __init__(self, module: nn.Module, example: torch.Tensor, n_labels: int | None, max_memory: int):
        self._module = module
        self._trainable = [p for p in module.parameters() if p.requires_grad]
        if not self._trainable:
            raise ValueError(
                f"{type(module).__name__} has no trainable parameter, so no training step can change its outputs"
            )
        with _evaluating(module), torch.inference_mode(False), torch.enable_grad():
            logits, recorder = self._run(example)
            if logits.ndim != 2 or len(logits) != len(example):
                raise ValueError(f"the module returns shape {tuple(logits.shape)}, but must return logits (n, C)")
            unstructured = self._unstructured(example, logits, recorder.uses) | recorder.others
        self.n_outputs = logits.shape[1]
        self.n_labels = self.n_outputs if n_labels is None else n_labels
        for use in recorder.uses:
            if not unstructured.isdisjoint(use.parameters):
                unstructured.update(use.parameters)
        self._others = [p for p in self._trainable if id(p) in unstructured]
        self._layers = [
            cheapest_form(key, uses, self.n_outputs, self.n_labels)
            for key, uses in _by_layer(recorder.uses).items()
            if unstructured.isdisjoint(uses[0].parameters)
        ]
        self._keys = {layer.key for layer in self._layers}
        self.itemsize = logits.itemsize
        unfolded = {layer.key for layer in self._layers if layer.form == "whole"}
        self._forward_bytes = self.itemsize * (
            4 * (example[0].numel() + sum(use.input[0].numel() + use.output[0].numel() for use in recorder.uses))
            + sum(layer_inputs(use)[0].numel() for use in recorder.uses if use.key in unfolded)
        )
        self._max_memory = max_memory

    def bytes_per_sample(self, n_directions: int) -> int:
        """Memory per sample for its gradients, while those of the largest layer are joined."""
        others = n_directions * sum(p.numel() for p in self._others)
        kept = sum(layer.size(n_directions) for layer in self._layers) + others
        joined = max([others, *(layer.size(n_directions) for layer in self._layers if layer.form != "positions")])
        return (kept + joined) * self.itemsize

    def of(
        self, x: torch.Tensor, directions: Directions, y: torch.Tensor | None = None, *, as_columns: bool = False
    ) -> SampleGradients:
        """Gradients for inputs (n, ...), in directions (n, K, C) computed from their logits and y (n,), if given."""
        with _evaluating(self._module), torch.inference_mode(False):
            K = self.n_outputs if as_columns else self.n_labels
            batch = min(_SAMPLES, max(1, self._max_memory // (self._forward_bytes + self.bytes_per_sample(K))))
            batch -= batch % COLUMNS if batch > COLUMNS else 0
            labels = [None] * ceil(len(x) / batch) if y is None else y.split(batch)
            parts = [
                self._part(few, partial(directions, y=of_few), as_columns)
                for few, of_few in zip(x.split(batch), labels, strict=True)
            ]
        if len(parts) == 1:
            return parts[0]
        logits = torch.cat([part.logits for part in parts])
        waiting = [part.layers for part in parts]
        del parts
        layers = []
        while waiting[0]:  # the parts of a layer are freed as soon as they are joined
            layers.append([type(of_use[0]).join(of_use) for of_use in zip(*(w.pop(0) for w in waiting), strict=True)])
        return SampleGradients(logits, layers)

    def products(self, references: SampleGradients, candidates: SampleGradients) -> torch.Tensor:
        """Products of the gradients of all outputs for the references with those of candidates, (R, C, n, K)."""
        total = references.logits.new_zeros(
            len(references.logits), self.n_outputs, len(candidates.logits), self.n_labels
        )
        for mine, theirs in zip(references.layers, candidates.layers, strict=True):
            for a in mine:
                for b in theirs:
                    a.add_products(total, b)
        return total

    # -------------------------------------------------------------- structure

    def _run(self, x: torch.Tensor) -> tuple[torch.Tensor, Recorder]:
        with Recorder(self._trainable, len(x)) as recorder:
            logits = self._module(x.clone())  # cloned, so that an in-place first layer does not modify the input
        return logits, recorder

    def _unstructured(self, example: torch.Tensor, logits: torch.Tensor, uses: list[Use]) -> set[int]:
        """Ids of parameters whose gradients cannot be computed from the recorded uses.

        Each sample is compared with automatic differentiation of this sample alone. This also detects outputs that
        depend on other samples.
        """
        generator = torch.Generator(device=logits.device).manual_seed(0)
        direction = torch.randn(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
        made: dict[int, Any] = {id(p): 0 for p in self._trainable}
        keys: dict[int, set[LayerKey]] = {p: set() for p in made}
        for use, delta in zip(uses, _deltas(logits, uses, direction), strict=True):
            for name, rows in _gradients(use, layer_inputs(use), delta).items():
                made[name] = made[name] + rows
                keys[name].add(use.key)
        found = {name for name in made if len(keys[name]) != 1}
        tolerance = {torch.float64: 1e-8, torch.float32: 1e-3}.get(logits.dtype, 0.05)
        for i, expected in enumerate(logits):
            (alone,) = self._module(example[i : i + 1].clone())
            if (alone - expected).abs().max() > tolerance * logits.abs().max():
                raise ValueError(
                    "the outputs of a sample depend on the other samples of its batch, so its gradient is undefined"
                )
            gradients = torch.autograd.grad(
                alone, self._trainable, direction[i], materialize_grads=True, allow_unused=True
            )
            rounding = 100 * torch.finfo(logits.dtype).eps * max(float(g.abs().max()) for g in gradients)
            for parameter, gradient in zip(self._trainable, gradients, strict=True):
                if id(parameter) not in found:
                    off = (made[id(parameter)][i] - gradient.flatten()).abs().max()
                    if off > tolerance * gradient.abs().max() + rounding:
                        found.add(id(parameter))
        return found

    # ---------------------------------------------------------------- factors

    def _part(self, x: torch.Tensor, directions: Directions, as_columns: bool) -> SampleGradients:
        with torch.enable_grad():
            logits, recorder = self._run(x)
        towards = directions(logits.detach())
        n, K = towards.shape[:2]
        uses = _by_layer(recorder.uses)
        unplanned = {p for use in recorder.uses if use.key not in self._keys for p in use.parameters}
        if not unplanned | recorder.others <= set(map(id, self._others)):
            raise ValueError("the module uses its parameters differently for different inputs")
        flat = [(layer, use) for layer in self._layers for use in uses.get(layer.key, [])]
        rows = {
            layer.key: logits.new_zeros(n, K, layer.n_parameters) for layer in self._layers if layer.form == "whole"
        }
        deltas = [
            logits.new_empty(n, K, use.n_positions, len(use.weight))
            if use.weight is not None and layer.form != "whole"
            else logits.new_empty(0)
            for layer, use in flat
        ]
        inputs = [layer_inputs(use) if layer.form == "whole" else use.input for layer, use in flat]
        for k in range(K):
            for i, delta in enumerate(_deltas(logits, [use for _, use in flat], towards[:, k], last=k == K - 1)):
                layer, use = flat[i]
                if layer.form == "whole":
                    rows[layer.key][:, k] += torch.cat(list(_gradients(use, inputs[i], delta).values()), 1)
                else:
                    deltas[i][:, k] = delta
        layers: list[list[Any]] = []
        for layer in self._layers:
            own = [(use, of_use) for (of, use), of_use in zip(flat, deltas, strict=True) if of is layer]
            if layer.form == "whole":
                layers.append([Whole(rows[layer.key])])
            else:
                layers.append([layer_factors(layer, use, of_use, as_columns) for use, of_use in own])
        if self._others:
            layers.append([Whole(self._one_by_one(x, towards))])
        return SampleGradients(logits.detach(), layers)

    def _one_by_one(self, x: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
        """Gradients (n, K, P) with respect to unstructured parameters, sample by sample."""
        n, K = towards.shape[:2]
        rows = towards.new_zeros(n, K, sum(p.numel() for p in self._others))
        for i in range(n):
            with torch.enable_grad():
                (logits,) = self._module(x[i : i + 1].clone())
            for k in range(K):
                gradients = torch.autograd.grad(
                    logits,
                    self._others,
                    towards[i, k],
                    retain_graph=k < K - 1,
                    materialize_grads=True,
                    allow_unused=True,
                )
                rows[i, k] = torch.cat([gradient.flatten() for gradient in gradients])
        return rows


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode, and restore the mode of each submodule afterwards."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def _by_layer(uses: list[Use]) -> dict[LayerKey, list[Use]]:
    found: dict[LayerKey, list[Use]] = {}
    for use in uses:
        found.setdefault(use.key, []).append(use)
    return found


def _deltas(logits: torch.Tensor, uses: list[Use], towards: torch.Tensor, last: bool = False) -> list[torch.Tensor]:
    """Gradient with respect to the output of each use in a direction (n, C), as (n, T, o)."""
    if not uses:
        return []
    outputs = [use.output for use in uses]
    gradients = torch.autograd.grad(logits, outputs, towards, retain_graph=not last, allow_unused=True)
    return [use.positions(gradient) for use, gradient in zip(uses, gradients, strict=True)]


def _gradients(use: Use, inputs: torch.Tensor, delta: torch.Tensor) -> dict[int, torch.Tensor]:
    """Gradients (n, P) with respect to the parameters of a use, by their ids."""
    made = {}
    if use.weight is not None:
        if use.kind == "norm":
            weight = (delta * inputs).sum(1)
        elif use.geometry is None:
            weight = delta.transpose(1, 2) @ inputs
        else:
            weight = delta.unflatten(2, (use.geometry.groups, -1)).permute(0, 2, 3, 1) @ inputs
        made[id(use.weight)] = weight.flatten(1)
    if use.bias is not None:
        made[id(use.bias)] = delta.sum(1)
    return made
