"""Activations of the frozen prefix, computed once an image.

modAL copies rows at every query and GridSearchCV at every fold, so arrays cannot be recognised by identity. Activations
are therefore kept under the content of an image (a hash of its bytes, or path, time and size of its file) together with
the weights, the pre-processing and the point of the network they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import fx

from skal.backbones import Backbone
from skal.images import Inputs

#: Rows that are handled at a time; beyond float32 rounding, what is computed does not depend on it.
BLOCK = 512


class Point(NamedTuple):
    """A tensor of a network: a node of its graph, flattened or averaged over space or not."""

    node: fx.Node
    pooled: bool = False


class ActivationCache:
    """Rows of tensors under the names of their content, within a bound of bytes; the least recently used go first.

    Parameters
    ----------
    max_bytes : int, default=2**30
        Most bytes held, over all networks and points.

    Examples
    --------
    >>> cache = ActivationCache()
    >>> cache.put(b"layer", [b"a", b"b"], torch.tensor([[1.0], [2.0]]))
    >>> cache.get(b"layer", [b"b", b"c"])
    {0: tensor([2.])}
    """

    def __init__(self, max_bytes: int = 2**30):
        self.max_bytes = max_bytes
        self._rows: dict[bytes, torch.Tensor] = {}  # in order of last use
        self._bytes = 0
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """Positions among `keys` that are known, with their rows."""
        found = {}
        with self._lock:
            for i, key in enumerate(keys):
                row = self._rows.pop(space + key, None)
                if row is not None:
                    found[i] = self._rows[space + key] = row
        return found

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Keep rows, and drop the least recently used ones beyond the bound."""
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if row.nbytes > self.max_bytes or space + key in self._rows:
                    continue
                self._rows[space + key] = row.clone()
                self._bytes += row.nbytes
            while self._bytes > self.max_bytes:
                self._bytes -= self._rows.pop(next(iter(self._rows))).nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0


#: The cache of this process, shared by every estimator and profile, so that clones find what others computed.
CACHE = ActivationCache()


def frozen_activations(
    backbone: Backbone,
    inputs: Inputs,
    points: list[Point],
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    cache: ActivationCache | None = CACHE,
) -> Iterator[list[torch.Tensor]]:
    """Activations of the pre-trained network, in blocks of rows; what is cached is not computed again.

    Parameters
    ----------
    backbone : Backbone
    inputs : Inputs
    points : list of Point
        Where in the network. All points that an image lacks are computed in one pass.
    batch_size : int, default=64
        Images in a forward pass.
    device : torch.device or str, default="cpu"
    cache : ActivationCache or None, default=CACHE
        None computes everything anew.

    Yields
    ------
    activations : list of Tensor of shape (n_block, ...)
        One tensor a point, on the CPU; blocks of 512 rows in order.
    """
    segments: dict[tuple[int, ...], Callable[[torch.Tensor], list[torch.Tensor]]] = {}
    spaces = [backbone.space + f" {p.node.name} {p.pooled} ".encode() for p in points]

    def run(lacking: tuple[int, ...], x: torch.Tensor) -> list[torch.Tensor]:
        if lacking not in segments:
            ends = [points[p].node for p in lacking]
            segments[lacking] = backbone.layers.segment(backbone.layers.input, ends).to(device).eval()
        outputs = segments[lacking](x.to(device))
        return [pool(out, points[p].pooled).cpu() for p, out in zip(lacking, outputs, strict=True)]

    for start in range(0, len(inputs), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(inputs)))
        keys = inputs.keys(rows) if cache is not None else []
        known = [cache.get(space, keys) if cache is not None else {} for space in spaces]
        lacks = [tuple(p for p in range(len(points)) if i not in known[p]) for i in range(len(rows))]
        for lacking in sorted(set(lacks) - {()}):
            missing = np.array([i for i in range(len(rows)) if lacks[i] == lacking])
            for batch in np.array_split(missing, range(batch_size, len(missing), batch_size)):
                with torch.inference_mode():
                    outputs = run(lacking, inputs.load(rows[batch]))
                for p, values in zip(lacking, outputs, strict=True):
                    known[p].update(zip(batch.tolist(), values, strict=True))
                    if cache is not None:
                        cache.put(spaces[p], [keys[i] for i in batch], values)
        yield [torch.stack([rows_of[i] for i in range(len(rows))]) for rows_of in known]


def pool(activations: torch.Tensor, pooled: bool) -> torch.Tensor:
    """Average a map (n, channels, *space) over space where asked; other tensors stay as they are."""
    return activations.flatten(2).mean(2) if pooled and activations.ndim > 2 else activations
