"""Recording of the layers that use the trainable parameters of a network, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from skal.numerics.patches import Geometry

LayerKey = tuple[str, tuple[int, ...], Geometry | None]


class Use(NamedTuple):
    """One call of a layer, with the input of its weight and its output.

    Attributes
    ----------
    kind : {"linear", "conv", "norm"}
    weight, bias : Parameter or None
        None if not trainable.
    input : Tensor
        For a linear layer (n, T, p), where T is the number of positions; for a convolution (n, p, H, W); for a
        normalisation its input after centring and scaling, (n, T, p).
    output : Tensor
        Part of the autograd graph, so that its gradient can be computed.
    geometry : Geometry or None
        Geometry of a convolution.
    channels_first : bool
        Whether `output` is (n, p, ...) rather than (n, ..., p).
    """

    kind: str
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    input: torch.Tensor
    output: torch.Tensor
    geometry: Geometry | None
    channels_first: bool

    @property
    def parameters(self) -> tuple[int, ...]:
        """Ids of the trainable parameters."""
        return tuple(id(p) for p in (self.weight, self.bias) if p is not None)

    @property
    def key(self) -> LayerKey:
        """Identifies the layer; the same for all of its uses."""
        return self.kind, self.parameters, self.geometry

    @property
    def n_positions(self) -> int:
        """Number of positions of a sample at which the weight is applied."""
        if self.geometry is None:
            return self.input.shape[1]
        return self.output.shape[2] * self.output.shape[3]

    def positions(self, gradient: torch.Tensor | None) -> torch.Tensor:
        """Gradient of the output as (n, T, p); zero if the result does not depend on this use."""
        gradient = torch.zeros_like(self.output) if gradient is None else gradient
        return _positions(gradient, None if self.channels_first else self.output.shape[-1])


class Recorder(TorchFunctionMode):
    """Records each use of the given parameters while it is active.

    Every call that receives a parameter is seen. Calls of linear layers, two-dimensional convolutions and
    normalisations with fixed statistics become uses. Parameters used in any other way are added to `others`.

    Parameters
    ----------
    parameters : iterable of Parameter
    n : int
        Number of input rows. The inputs of a layer with a different number of rows cannot be assigned to samples.

    Attributes
    ----------
    uses : list of Use
    others : set of int
        Ids of parameters that are used in other ways.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], n: int):
        super().__init__()
        self.uses: list[Use] = []
        self.others: set[int] = set()
        self._ids = {id(p) for p in parameters}
        self._n = n

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        touched = {id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)} & self._ids
        if not touched or not any(isinstance(t, torch.Tensor) and t.requires_grad for t in tree_leaves(out)):
            return out
        read = _READERS.get(func)
        use = read(out, *args, **kwargs) if read is not None else None
        if use is None or len(use.input) != self._n or len(out) != self._n:
            self.others |= touched
            return out
        weight, bias = (p if id(p) in self._ids else None for p in (use.weight, use.bias))
        self.others |= touched - {id(weight), id(bias)}
        # Copies, so that later in-place operations do not change the recorded tensors.
        self.uses.append(use._replace(weight=weight, bias=bias, input=use.input.detach().clone()))
        return out.clone()


def _positions(values: torch.Tensor, width: int | None) -> torch.Tensor:
    """Values as (n, T, p), given with channels first (`width` None) or last."""
    if width is None:
        return values.flatten(2).transpose(1, 2) if values.ndim > 2 else values[:, None]
    return values.reshape(len(values), -1, width)


def _linear(out: Any, input: Any, weight: Any, bias: Any = None) -> Use | None:
    if input.ndim < 2:
        return None
    return Use("linear", weight, bias, _positions(input, input.shape[-1]), out, None, False)


def _conv2d(
    out: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Use | None:
    if input.ndim != 4:
        return None
    kernel = tuple(weight.shape[2:])
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        left, right = [t // 2 for t in total], [t - t // 2 for t in total]
        input, padding = F.pad(input, (left[1], right[1], left[0], right[0])), 0
    padding = (0, 0) if padding == "valid" else _pair(padding)
    return Use("conv", weight, bias, input, out, Geometry(kernel, stride, padding, dilation, groups), True)


def _batch_norm(
    out: Any,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Use:
    if training:
        raise ValueError(
            "batch normalisation without running statistics mixes the samples of a batch, so the gradient of one "
            "sample is undefined"
        )
    normalised = F.batch_norm(input, running_mean, running_var, eps=eps)
    return Use("norm", weight, bias, _positions(normalised, None), out, None, True)


def _group_norm(out: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Use:
    normalised = F.group_norm(input, num_groups, eps=eps)
    return Use("norm", weight, bias, _positions(normalised, None), out, None, True)


def _layer_norm(
    out: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Use | None:
    if len(normalized_shape) != 1 or input.ndim < 2:
        return None
    normalised = F.layer_norm(input, normalized_shape, eps=eps)
    return Use("norm", weight, bias, _positions(normalised, input.shape[-1]), out, None, False)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


_READERS: dict[Callable[..., Any], Callable[..., Use | None]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
}
