"""The graph of a network's forward, traced symbolically or with an example input, and prepared for cuts.

In-place operations are rewritten: otherwise the in-place ReLU that follows a cached activation would overwrite it.
Reads of the batch size are not treated as data, so they do not keep an early tensor alive beyond a cut.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import RLock, get_ident
from typing import Any

import torch
from torch import fx, nn
from torch.fx._symbolic_trace import _assert_is_none
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

#: Types of weight layers ("conv/linear" in the ADMA paper).
WEIGHT_LAYERS = (_ConvNd, nn.Linear, nn.MultiheadAttention)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
ADDITIONS = {operator.add, torch.add, "add"}
_ARITHMETIC = ADDITIONS | {operator.mul, operator.sub, operator.truediv, torch.mul, torch.relu, "mul", "relu"}
_IN_PLACE = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}


#: Checks added by a trace that the other arguments of a forward have their defaults.
_ASSERTS = {torch._assert, _assert_is_none, getattr(operator, "assert_", None)}
_ACTIVATIONS = {"relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "hardswish", "mish", "tanh", "sigmoid"}


def is_activation(node: fx.Node, owner: nn.Module | None) -> bool:
    """Whether a node is a pointwise non-linearity; `owner` is the module it calls, if any."""
    if owner is not None:
        return type(owner).__module__ == nn.ReLU.__module__ and not isinstance(owner, WEIGHT_LAYERS)
    return getattr(node.target, "__name__", str(node.target)).strip("_") in _ACTIVATIONS


_ONE_AT_A_TIME = RLock()


class _RetryError(Exception):
    """A submodule could not be traced: retry with that submodule as a leaf."""


class Tracer(fx.Tracer):
    """Treats every weight layer and normalisation as a leaf, including user-defined subclasses.

    A trace replaces methods of nn.Module for the whole process. Therefore only one trace runs at a time, and calls from
    other threads are not traced. Segments refer to this class because torch traces them again when they are unpickled.
    """

    def __init__(self, opaque: set[str] | None = None):
        super().__init__(param_shapes_constant=True)
        self.opaque = set() if opaque is None else opaque

    def trace(self, *args: Any, **kwargs: Any) -> fx.Graph:
        with _ONE_AT_A_TIME:
            self.thread = get_ident()
            return super().trace(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, qualname: str) -> bool:
        return isinstance(m, WEIGHT_LAYERS + NORMS) or qualname in self.opaque or super().is_leaf_module(m, qualname)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if get_ident() != self.thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except _RetryError:
            raise
        except Exception as error:
            # Only a module without weight layers may become a leaf: layers in a leaf could be neither counted nor cut.
            if any(isinstance(part, WEIGHT_LAYERS) for part in m.modules()):
                raise
            self.opaque.add(self.path_of_module(m))
            raise _RetryError from error


class _Known:
    """Uses the value that a proxy has for the example, so that Python code can branch on it."""

    def _value(self) -> Any:
        return self.tracer.values[self.node]  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._value())

    def __int__(self) -> int:
        return int(self._value())

    def __index__(self) -> int:
        return operator.index(self._value())

    def __float__(self) -> float:
        return float(self._value())


class _KnownProxy(_Known, fx.Proxy):
    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _KnownAttribute(self, name)


class _KnownAttribute(_Known, fx.proxy.Attribute):
    pass


_MODULE_METHODS = {"__call__": nn.Module.__call__, "__getattr__": nn.Module.__getattr__}


@contextmanager
def _untraced() -> Iterator[None]:
    """Run modules normally during a trace, which replaces these methods of nn.Module."""
    traced = {name: getattr(nn.Module, name) for name in _MODULE_METHODS}
    for name, method in _MODULE_METHODS.items():
        setattr(nn.Module, name, method)
    try:
        yield
    finally:
        for name, method in traced.items():
            setattr(nn.Module, name, method)


class _ExampleTracer(Tracer):
    """Runs the example during the trace: branches follow its values, and everything else stays symbolic."""

    def __init__(self, opaque: set[str], example: torch.Tensor):
        super().__init__(opaque)
        self.example = example
        self.values: dict[fx.Node, Any] = {}

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        args, kwargs = (fx.node.map_arg(a, self._value_of) for a in (node.args, node.kwargs))
        value: Any
        # Replacing methods of nn.Module takes a millisecond, so it is done only where one is called.
        of_modules = _untraced() if kind in ("call_module", "get_attr") else nullcontext()
        with torch.no_grad(), of_modules:
            if kind == "placeholder":
                value = None if self.values else self.example  # only the first argument is data
            elif target in _ASSERTS:
                value = None
            elif kind == "get_attr":
                value = attribute(self.root, target)
            elif kind == "call_module":
                value = self.root.get_submodule(target)(*args, **kwargs)
            elif kind == "call_method":
                value = getattr(args[0], target)(*args[1:], **kwargs)
            else:
                value = target(*args, **kwargs) if callable(target) else None
        self.values[node] = value
        return proxy

    def _value_of(self, node: fx.Node) -> Any:
        if node not in self.values:  # a tensor among the arguments, such as a buffer of indices, has no proxy
            self.values[node] = attribute(self.root, str(node.target))
        return self.values[node]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _KnownProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.values[obj.node])

    def iter(self, obj: fx.Proxy) -> Any:
        return (operator.getitem(obj, i) for i in range(len(self.values[obj.node])))


def trace(module: nn.Module, example: torch.Tensor | None) -> fx.Graph:
    """Graph of the module's forward, traced symbolically or, if that fails, with an example input.

    Raises
    ------
    ValueError
        If the forward can be traced in neither way.
    """
    tracers: list[Callable[[set[str]], Tracer]] = [Tracer]
    if example is not None:
        tracers.append(lambda opaque: _ExampleTracer(opaque, example))
    # Only the first argument of forward is data; the others keep their defaults.
    arguments = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
    failure: Exception | None = None
    for make in tracers:
        opaque: set[str] = set()
        while True:
            try:
                graph = make(opaque).trace(module, concrete_args=defaults or None)
            except _RetryError:
                continue
            except Exception as error:  # a forward may fail in any way
                failure = error
                break
            finally:
                _drop_proxies(module)
            _prune(module, graph)
            for part in module.modules():
                if hasattr(part, "inplace"):
                    part.inplace = False  # type: ignore[assignment]
            return graph
    raise ValueError(
        f"cannot trace the forward method of {type(module).__name__}: {type(failure).__name__}: {failure}"
    ) from failure


def _drop_proxies(module: nn.Module) -> None:
    """Remove proxies that a forward has cached during its trace, such as attention biases by device."""
    for part in module.modules():
        for cache in vars(part).values():
            if isinstance(cache, dict):
                for key in [key for key, value in cache.items() if isinstance(value, fx.Proxy)]:
                    del cache[key]


def _prune(module: nn.Module, graph: fx.Graph) -> None:
    """Drop asserts and unused arguments, and make every in-place operation return a new tensor.

    Otherwise the in-place ReLU that follows a cached activation would overwrite it. Layers whose code could not be
    traced may write to their input, so they are given a copy.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _ASSERTS:
            graph.erase_node(node)
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _made_functional(module, node):
            changed = node.args[0]
            for user in list(changed.users):
                if order[user] > order[node]:
                    user.replace_input_with(changed, node)
    for node in list(graph.nodes):
        if node.op == "call_module" and not _is_of_torch(module.get_submodule(str(node.target))):
            for given in node.all_input_nodes:
                with graph.inserting_before(node):
                    node.replace_input_with(given, graph.call_function(torch.clone, (given,)))
    _erase_unused(graph)


def _is_of_torch(part: nn.Module) -> bool:
    return type(part).__module__.startswith("torch.nn.")


def _made_functional(module: nn.Module, node: fx.Node) -> bool:
    """Make an in-place operation return a new tensor; return whether the node was in-place."""
    if node.op == "call_module":
        part = module.get_submodule(str(node.target))
        return bool(getattr(part, "inplace", False))
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_function" and node.target in _IN_PLACE:
        node.target = _IN_PLACE[node.target]
        return True
    if node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__"):
        node.target = name[:-1] if node.op == "call_method" else getattr(torch, name[:-1])
        return True
    if node.op == "call_function" and node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    if node.target is nn.functional.relu and len(node.args) > 1 and node.args[1]:
        node.args = (node.args[0], False)
        return True
    return False


def _erase_unused(graph: fx.Graph) -> None:
    data = next(node for node in graph.nodes if node.op == "placeholder")
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op != "output" and node is not data:
            graph.erase_node(node)


def batch_sizes(graph: fx.Graph, data: fx.Node) -> set[fx.Node]:
    """Nodes that are the number of samples: ``x.size(0)`` or ``x.shape[0]`` of a tensor with one row per sample.

    They contain no data, so they do not prevent a cut after the tensor they were read from. A segment reads the number
    from its own input.
    """
    batched, sizes = {data}, set()
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
            sizes |= {node} if source in batched else set()
        elif node.target is operator.getitem and node.args[1] == 0 and isinstance(source, fx.Node):
            is_shape = source.target == "size" or (source.target is getattr and source.args[1] == "shape")
            sizes |= {node} if is_shape and source.args[0] in batched else set()
        elif node.op == "call_module" or node.target in _ARITHMETIC or _is_functional(node.target):
            batched |= {node} if any(arg in batched for arg in node.all_input_nodes) else set()
    for node in sizes:
        node.op, node.target, node.args = "call_method", "size", (data, 0)
    _erase_unused(graph)
    return sizes


def takes_channels_last(module: nn.Module, graph: fx.Graph) -> bool:
    """Whether feature maps may be stored channels-last: not if the network uses views that rely on their layout.

    Examples
    --------
    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         return x.view(x.size(0), -1)
    >>> flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())
    >>> takes_channels_last(flat, fx.symbolic_trace(flat).graph)
    True
    >>> takes_channels_last(Net(), fx.symbolic_trace(Net()).graph)
    False
    """
    for node in graph.nodes:
        owner = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if owner is not None and not type(owner).__module__.startswith("torch.nn."):
            return False  # its behaviour is unknown
        if node.target in ("view", "view_as", "stride", "is_contiguous", torch.Tensor.view):
            return False
    return True


def _is_functional(target: Any) -> bool:
    return getattr(target, "__module__", "") in ("torch.nn.functional", "torch._C._nn")


def attribute(module: nn.Module, path: str) -> Any:
    """Value of a dotted attribute name in a module, as in ``get_attr`` nodes."""
    for name in path.split("."):
        module = getattr(module, name)
    return module
