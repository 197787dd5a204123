"""The layers of a network in forward order, the points where it can be cut, and the segments in between.

Everything here is derived from a ``torch.fx`` graph, so the same code works for every architecture. It counts weight
layers, finds the tensors through which all data flows, and runs any segment of the network from one such tensor to
others.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from skal.backbones.tracing import (
    ADDITIONS,
    NORMS,
    WEIGHT_LAYERS,
    Tracer,
    attribute,
    batch_sizes,
    is_activation,
    takes_channels_last,
    trace,
)


class LayerGraph:
    """A network as a graph: its weight layers, its cut points, and the segments between them.

    Parameters
    ----------
    module : nn.Module
        The network. It is copied and never mutated; the copy is in evaluation mode.
    example : Tensor of shape (n, ...), default=None
        A valid input. The graph is checked against the module on inputs of this shape. If the forward branches on
        values or sizes, the branch taken for the example is kept.

    Attributes
    ----------
    weight_layers : list of str
        Names of the convolutional and linear layers below the head, in forward order. The convolution of a residual
        shortcut belongs to its block and is not counted.
    head : str or None
        Name of the last weight layer, the network's own classifier; None if a normalisation follows it.
    shortcuts : dict of str to str
        Maps each uncounted shortcut layer to the weight layer with which it is frozen.

    Raises
    ------
    ValueError
        If the forward of the network cannot be traced, or it has no weight layer.

    Notes
    -----
    The graph is traced in evaluation mode. ``nn.Dropout`` modules are active in training, but a call of
    ``F.dropout(x, p, self.training)`` in a forward is not.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> layers = LayerGraph(net)
    >>> layers.weight_layers, layers.head
    (['0', '2'], '4')
    >>> layers.segment(layers.cut(1), [layers.features])(torch.zeros(3, 8))[0].shape
    torch.Size([3, 6])
    """

    def __init__(self, module: nn.Module, example: torch.Tensor | None = None):
        self.module = copy.deepcopy(module).eval().requires_grad_(False).float()
        if isinstance(module, WEIGHT_LAYERS):  # the forward of a single layer calls no layers
            self.module = nn.Sequential(self.module)
        self.graph = trace(self.module, example)
        # Channels-last convolutions of small feature maps take half to two thirds of the time.
        if takes_channels_last(self.module, self.graph):
            for part in self.module.modules():
                if isinstance(part, nn.Conv2d):
                    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._modules = dict(self.module.named_modules())
        self.input = next(node for node in self.graph.nodes if node.op == "placeholder")
        self._batch_sizes = batch_sizes(self.graph, self.input)
        self.nodes = list(self.graph.nodes)
        self._segments: WeakKeyDictionary[nn.Module, dict[tuple[fx.Node, ...], fx.GraphModule]] = WeakKeyDictionary()

        calls = [node for node in self.nodes if isinstance(self._owner(node), WEIGHT_LAYERS)]
        if not calls:
            raise ValueError(f"{type(module).__name__} has no convolutional or linear layer to adapt")
        output = _output(self.graph)
        leading_out = _ancestors(output) | {output}
        last = [node for node in calls if node in leading_out][-1]
        tail = self.nodes[self.nodes.index(last) + 1 :]
        headless = any(isinstance(self._owner(node), NORMS) for node in tail)
        self.head = None if headless else str(last.target)
        #: The final representation: the input of the head, or the output of a network without a head.
        self.features: fx.Node = output if headless else last.args[0] if last.args else last.kwargs["input"]

        # Nodes that features does not need (a head, auxiliary outputs) do not affect where the body can be cut.
        needed = _ancestors(self.features) | {self.features}
        self._body = [node for node in self.nodes if node in needed]
        self._order = {node: i for i, node in enumerate(self._body)}
        self._by_name = {node.name: node for node in self._body}
        self.shortcuts = self._find_shortcuts()
        body_layers = dict.fromkeys(str(node.target) for node in calls if node in needed)
        self.weight_layers = [name for name in body_layers if name not in self.shortcuts]
        self.flow_points = self._find_flow_points()
        if example is not None:
            self._check(module, example)
        self._nearest = self._find_nearest()

    # ------------------------------------------------------------------ names

    def resolve(self, layer: int | str) -> fx.Node:
        """Node of a layer, given by its count from the end or its name.

        Parameters
        ----------
        layer : int or str
            A negative number counts weight layers from the end, where -1 is the head. It stands for the last tensor
            through which all data flows between that layer and the next weight layer: after activation and pooling, and
            after the concatenation or residual sum. A string is the name of a submodule, which stands for its output,
            or of a graph node.

        Returns
        -------
        node : fx.Node
        """
        if isinstance(layer, str):
            return self._resolve_name(layer)
        names = [*self.weight_layers, self.head or ""]
        if not -len(names) <= layer <= -2:
            raise ValueError(
                f"layer {layer} does not exist: this network has {len(names) - 1} weight layers below its head, "
                f"so layer must be an integer from {-len(names)} to -2, or a name"
            )
        start = max(self._order[n] for n in self._body if n.op == "call_module" and n.target == names[layer])
        after = [point for point in self.flow_points if self._order[point] >= start]
        first = self._order[after[0]]
        following = (self._order[n] for n in self._body[first + 1 :] if isinstance(self._owner(n), WEIGHT_LAYERS))
        end = next(following, len(self._body))
        return [point for point in after if self._order[point] < end][-1]

    def pattern_layers(self) -> list[tuple[int | str, int | str]]:
        """Default layers A and B of a transformation pattern: the fourth and second weight layer from the end.

        If both are in the same residual or dense block and resolve to the same tensor, A is moved further back.
        """
        b = self.resolve(-2)
        for count in range(-4, -len(self.weight_layers) - 2, -1):
            if self.resolve(count) is not b:
                return [(count, -2)]
        raise ValueError(
            "this network has no separate layer A before its second-to-last weight layer; specify A and B by name"
        )

    def _resolve_name(self, name: str) -> fx.Node:
        inside = [
            node
            for node in self._body
            if node.name == name
            or (node.op == "call_module" and node.target == name)
            or any(path == name for path, _ in node.meta.get("nn_module_stack", {}).values())
        ]
        if not inside:
            modules = {path for node in self._body for path, _ in node.meta.get("nn_module_stack", {}).values() if path}
            modules |= {str(node.target) for node in self._body if node.op == "call_module"}
            raise ValueError(f"unknown layer {name!r}; the layers of this network are {sorted(modules)}")
        return inside[-1]

    def response(self, layer: str, *, activation: bool = True) -> fx.Node:
        """Node of a convolution's feature maps, either after its normalisation and activation or raw.

        Parameters
        ----------
        layer : str
            Name of a weight layer.
        activation : bool, default=True
            Whether to include the normalisation and activation that directly follow the convolution.
        """
        node = next(n for n in self._body if n.op == "call_module" and n.target == layer)
        while activation and len(node.users) == 1:
            user = next(iter(node.users))
            owner = self._owner(user)
            if is_activation(user, owner):
                return user
            if not isinstance(owner, NORMS):
                break
            node = user
        return node

    # --------------------------------------------------------------- freezing

    def check_n_frozen(self, n_frozen: int) -> int:
        """Number of frozen weight layers; a negative `n_frozen` is the number left trainable.

        Raises a ValueError that names the allowed range.
        """
        n = len(self.weight_layers)
        if isinstance(n_frozen, bool) or not isinstance(n_frozen, Integral) or not -n <= n_frozen <= n:
            raise ValueError(
                f"n_frozen={n_frozen!r} is invalid: this network has {n} weight layers below its head, "
                f"so n_frozen must be an integer from 0 to {n}, or from -{n} to -1 to count from the end"
            )
        return int(n_frozen) + (n if n_frozen < 0 else 0)

    def frozen_parameters(self, n_frozen: int) -> set[str]:
        """Names of the body's parameters that are frozen when the first `n_frozen` weight layers are.

        Other parameters (of a normalisation, a position embedding, a scale) are frozen together with the weight layers
        that feed them.
        """
        layers = self._frozen_layers(n_frozen)
        frozen = {
            name
            for node in self._body
            if n_frozen > 0 and self._nearest[node] <= layers
            for name in self._parameters(node)
        }
        # A weight that is used in several places is frozen in all of them.
        everywhere = dict(self.module.named_parameters(remove_duplicate=False))
        tied = {id(everywhere[name]) for name in frozen}
        return {name for name, parameter in everywhere.items() if id(parameter) in tied}

    def _frozen_layers(self, n_frozen: int) -> set[str]:
        layers = set(self.weight_layers[: self.check_n_frozen(n_frozen)])
        return layers | {shortcut for shortcut, last in self.shortcuts.items() if last in layers}

    def cut(self, n_frozen: int) -> fx.Node:
        """Last point through which all data flows before any trainable parameter; activations there never change."""
        frozen = self.frozen_parameters(n_frozen)
        trainable = (self._order[node] for node in self._body if not set(self._parameters(node)) <= frozen)
        first = next(trainable, len(self._body))
        return [point for point in self.flow_points if self._order[point] < first][-1]

    def frozen_modules(self, n_frozen: int) -> set[str]:
        """Names of the body's modules, with or without parameters, that are fed only by frozen weight layers."""
        frozen = self._frozen_layers(n_frozen)
        return {
            str(node.target)
            for node in self._body
            if node.op == "call_module" and n_frozen > 0 and self._nearest[node] <= frozen
        }

    def depth(self, node: fx.Node) -> int:
        """Number of weight layers at or before a node."""
        before = {str(n.target) for n in self._body[: self._order[node] + 1] if n.op == "call_module"}
        return len(before & set(self.weight_layers))

    def is_before(self, node: fx.Node, other: fx.Node) -> bool:
        """Whether `node` comes strictly before `other` in forward order."""
        return self._order[node] < self._order[other]

    # ---------------------------------------------------------------- running

    def segment(self, start: fx.Node, ends: Sequence[fx.Node], root: nn.Module | None = None) -> fx.GraphModule:
        """The part of the network from one cut point to other nodes, as a module.

        Parameters
        ----------
        start : fx.Node
            The point whose tensor is the module's input.
        ends : sequence of fx.Node
            The nodes whose tensors are the module's outputs, returned as a tuple in this order.
        root : nn.Module, default=None
            Module that contains the layers, which are shared, not copied; the pre-trained network by default.

        Returns
        -------
        segment : fx.GraphModule
        """
        root = self.module if root is None else root
        # Cached because torch never frees the source of a module that it generates from a graph.
        made = self._segments.setdefault(root, {})
        stretch = (start, *ends)
        if stretch not in made:
            made[stretch] = self._segment(start, ends, root)
        return made[stretch]

    def _segment(self, start: fx.Node, ends: Sequence[fx.Node], root: nn.Module) -> fx.GraphModule:
        needed = set(ends).union(*(_ancestors(end, stop={start} | self._batch_sizes) for end in ends))
        if self.input in needed and start is not self.input:
            raise ValueError(f"{', '.join(end.name for end in ends)} cannot be computed from {start.name!r} alone")
        piece = fx.Graph(tracer_cls=Tracer)
        values: dict[fx.Node, fx.Node] = {start: piece.placeholder("x")}
        for node in self.nodes:
            if node in self._batch_sizes and node in needed:
                values[node] = piece.call_method("size", (values[start], 0))
            elif node in needed and node not in values:
                values[node] = piece.node_copy(node, values.__getitem__)
        piece.output(tuple(values[end] for end in ends))
        return fx.GraphModule(root, piece)

    def head_segment(self) -> fx.GraphModule:
        """The network's own head, from the final representation to its outputs (logits of the source task).

        Raises
        ------
        ValueError
            If the network has no head, or its outputs depend on more than the final representation.
        """
        if self.head is None:
            raise ValueError(
                "this network has no head of its own, so it cannot predict probabilities of source classes"
            )
        return self.segment(self.features, [_output(self.graph)])

    # --------------------------------------------------------------- analysis

    def _owner(self, node: fx.Node) -> nn.Module | None:
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def _parameters(self, node: fx.Node) -> Iterable[str]:
        owner = self._owner(node)
        if owner is not None:
            return [f"{node.target}.{name}" for name, _ in owner.named_parameters()]
        if node.op == "get_attr" and isinstance(attribute(self.module, str(node.target)), nn.Parameter):
            return [str(node.target)]
        return []

    def _find_shortcuts(self) -> dict[str, str]:
        """Weight layers on the shorter side of a sum, and the last weight layer of the longer side."""
        shortcuts = {}
        for node in self._body:
            operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
            if node.target not in ADDITIONS or len(operands) != 2:
                continue
            up = [_ancestors(operand) | {operand} for operand in operands]
            sides = [
                [n for n in self._body if n in mine - other and isinstance(self._owner(n), WEIGHT_LAYERS)]
                for mine, other in (up, up[::-1])
            ]
            short, long = sorted(sides, key=len)
            if len(short) < len(long):
                shortcuts.update({str(n.target): str(long[-1].target) for n in short})
        return shortcuts

    def _find_flow_points(self) -> list[fx.Node]:
        """Nodes whose value is a single tensor that makes all earlier values unnecessary."""
        data = [n for n in self._body if n.op != "get_attr" and n not in self._batch_sizes]
        last_use = {node: max((self._order[user] for user in node.users if user in data), default=-1) for node in data}
        points, open_until = [], -1
        for node in data:
            several = any(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)
            if node is self.features or (open_until <= self._order[node] and not several):
                points.append(node)
            open_until = max(open_until, last_use[node])
        return points

    def _find_nearest(self) -> dict[fx.Node, set[str]]:
        """For each node of the body, the weight layers that feed it with no other weight layer in between."""
        nearest: dict[fx.Node, set[str]] = {}
        for node in self._body:
            if isinstance(self._owner(node), WEIGHT_LAYERS):
                nearest[node] = {str(node.target)}
            else:
                nearest[node] = set().union(*(nearest[arg] for arg in node.all_input_nodes))
        # Values computed only from parameters belong to the data with which they are combined.
        fed = {self.input}
        for node in self._body:
            fed |= {node} if not fed.isdisjoint(node.all_input_nodes) else set()
        for node in reversed(self._body):
            if node not in fed:
                nearest[node] = set().union(*(nearest[user] for user in node.users if user in nearest))
        return nearest

    def _check(self, module: nn.Module, example: torch.Tensor) -> None:
        """Compare graph and module for other batch sizes, and keep only cut points with one row per sample."""
        generator = torch.Generator().manual_seed(0)
        original = copy.deepcopy(module).eval().float()
        rows: list[dict[fx.Node, int]] = []
        for n in (3, 1):
            x = torch.rand(n, *example.shape[1:], generator=generator, dtype=torch.float32)
            recorder = _Recorder(fx.GraphModule(self.module, self.graph))
            with torch.no_grad():
                try:
                    given = recorder.run(x)
                    same = _same(given, original(x))
                    alone = given if n == 1 else original(x[:1])
                except (RuntimeError, TypeError, IndexError) as error:
                    raise ValueError(
                        f"{type(module).__name__} fails on {n} samples of shape {tuple(x.shape[1:])}: {error}"
                    ) from error
            if not same:
                raise ValueError(f"the traced graph of {type(module).__name__} does not reproduce its outputs")
            if not _same(_first_row(given, n), _first_row(alone, 1)):
                raise ValueError(
                    f"the outputs of {type(module).__name__} for a sample depend on the others of its batch"
                )
            rows.append({self._by_name[name]: size for name, size in recorder.rows.items() if name in self._by_name})
        self.flow_points = [p for p in self.flow_points if rows[0].get(p) == 3 and rows[1].get(p) == 1]


class _Recorder(fx.Interpreter):
    """Runs a graph and records the number of rows of each tensor."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.rows: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            self.rows[n.name] = len(value)
        return value


def _same(given: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return torch.allclose(given, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
    if isinstance(expected, dict):
        return all(_same(given[key], value) for key, value in expected.items())
    if isinstance(expected, (tuple, list)):
        return all(_same(a, b) for a, b in zip(given, expected, strict=True))
    return True


def _first_row(value: Any, n: int) -> Any:
    """The first row of each output with one row per sample; other outputs are left out."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.ndim and len(value) == n else None
    if isinstance(value, dict):
        return {key: _first_row(part, n) for key, part in value.items()}
    return [_first_row(part, n) for part in value] if isinstance(value, (tuple, list)) else None


def _ancestors(node: fx.Node, stop: Collection[fx.Node] = ()) -> set[fx.Node]:
    """All nodes from which a node is computed, excluding the ancestors of those in `stop`."""
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in stop:
            continue
        new = [arg for arg in current.all_input_nodes if arg not in seen]
        seen.update(new)
        waiting.extend(new)
    return seen


def _output(graph: fx.Graph) -> fx.Node:
    value = next(node for node in graph.nodes if node.op == "output").args[0]
    if isinstance(value, dict):
        value = next(iter(value.values()))
    return value[0] if isinstance(value, (tuple, list)) else value
