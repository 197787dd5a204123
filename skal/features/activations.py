"""Activations of the frozen prefix, computed once per image.

modAL copies rows at every query and GridSearchCV at every fold, so arrays cannot be recognised by identity. Activations
are therefore cached by the content of the image (a hash of its bytes, or path, time and size of its file), the weights,
the pre-processing and the point in the network. Missing activations are computed from the deepest cached point before
them. If the network leaves processors idle, a thread loads the images of the next block while the current one is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx
from tqdm import tqdm

from skal.backbones.backbone import Backbone
from skal.features.ahead import Loader, loads_ahead, one_ahead
from skal.features.cache import CACHE, Cache
from skal.features.originals import originals
from skal.features.pooling import pool
from skal.images.inputs import Inputs, PixelInputs, TensorInputs, check_shapes

#: Rows per block. Results do not depend on it, except for float32 rounding.
BLOCK = 128


class _Batch(NamedTuple):
    """Rows of a block that lack the same points and are computed from the same start point."""

    lacking: tuple[int, ...]
    start: fx.Node
    rows: np.ndarray
    load: Callable[[], torch.Tensor]


class _Block(NamedTuple):
    """Consecutive rows: their number, their keys, known activations by point and row, and batches to compute."""

    n: int
    keys: list[bytes]
    known: list[dict[int, torch.Tensor]]
    batches: list[_Batch]


class Point(NamedTuple):
    """A tensor in a network: a node of its graph, optionally averaged over space."""

    node: fx.Node
    pooled: bool = False


def frozen_activations(
    backbone: Backbone,
    inputs: Inputs,
    points: list[Point],
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    cache: Cache | None = CACHE,
    verbose: bool = False,
) -> Iterator[list[torch.Tensor]]:
    """Activations of the pre-trained network, in blocks of rows; cached activations are not computed again.

    Parameters
    ----------
    backbone : Backbone
    inputs : Inputs
    points : list of Point
        Points in the network. All points that are missing for an image are computed in one pass, from the deepest
        cached point before them.
    batch_size : int, default=64
        Images per forward pass.
    device : torch.device or str, default="cpu"
    cache : ActivationCache, FolderCache or None, default=CACHE
        None computes everything without a cache.
    verbose : bool, default=False
        Whether to show a progress bar.

    Yields
    ------
    activations : list of Tensor of shape (n_block, ...)
        One tensor per point, on the CPU. Blocks have 128 rows, in order.
    """
    computation = _Computation(
        backbone, inputs, points, cache, batch_size, device, Loader(ahead=loads_ahead(inputs, device))
    )
    all_rows = np.arange(len(inputs))
    blocks = (computation.planned(all_rows[first : first + BLOCK]) for first in range(0, len(inputs), BLOCK))
    with computation.loader, tqdm(total=len(inputs), unit="image", disable=not verbose) as progress:
        for block in one_ahead(blocks):
            yield computation.finished(block)
            progress.update(block.n)


@dataclass(frozen=True)
class _Computation:
    """What the blocks of :func:`frozen_activations` have in common; its parameters, and what loads images."""

    backbone: Backbone
    inputs: Inputs
    points: list[Point]
    cache: Cache | None
    batch_size: int
    device: torch.device | str
    loader: Loader

    @cached_property
    def spaces(self) -> list[bytes]:
        """The name of each point in the cache."""
        return [_space(self.backbone, point) for point in self.points]

    @cached_property
    def caches(self) -> list[Cache | None]:
        """The cache of each point. Pixels that are in memory are not cached; decoding those of files takes time."""
        are_arrays = all(isinstance(own, (PixelInputs, TensorInputs)) for own in originals(self.inputs))
        is_input = [are_arrays and point.node is self.backbone.layers.input for point in self.points]
        return [None if skipped else self.cache for skipped in is_input]

    @cached_property
    def kept(self) -> list[fx.Node]:
        """Nodes whose activations are in the cache, at least of some images."""
        if self.cache is None:
            return []
        nodes = self.backbone.layers.flow_points
        return [node for node in nodes if self.cache.holds(_space(self.backbone, Point(node)))]

    def planned(self, rows: np.ndarray) -> _Block:
        """Cached activations of a block, and batches of the missing ones; starts loading their images."""
        n, keys = len(rows), self.inputs.keys(rows) if self.cache is not None else []
        known = [
            own.get(space, keys) if own is not None else {} for own, space in zip(self.caches, self.spaces, strict=True)
        ]
        lacks = [tuple(p for p, found in enumerate(known) if i not in found) for i in range(n)]
        batches = []
        for lacking in sorted(set(lacks) - {()}):
            for start, begun in self._starts(lacking, [i for i in range(n) if lacks[i] == lacking], keys):
                missing = np.array(list(begun), dtype=int)
                for batch in np.split(missing, range(self.batch_size, len(missing), self.batch_size)) if begun else []:
                    if start is self.backbone.layers.input:
                        x = self.loader.submit(self.inputs.load, rows[batch])
                    else:
                        x = partial(torch.stack, [begun[i] for i in batch])
                    batches.append(_Batch(lacking, start, batch, x))
        return _Block(n, keys, known, batches)

    def _starts(
        self, lacking: tuple[int, ...], without: list[int], keys: list[bytes]
    ) -> Iterator[tuple[fx.Node, dict[int, Any]]]:
        """Start points for the missing activations of these rows: the deepest cached point, or the input if none."""
        layers = self.backbone.layers
        for node in reversed(self.kept):
            if self.cache is None or not without or any(layers.is_before(self.points[p].node, node) for p in lacking):
                continue
            found = self.cache.get(_space(self.backbone, Point(node)), [keys[i] for i in without])
            yield node, {without[i]: row for i, row in found.items()}
            without = [row for i, row in enumerate(without) if i not in found]
        yield layers.input, dict.fromkeys(without)

    def finished(self, block: _Block) -> list[torch.Tensor]:
        """Activations of a block, one tensor per point, after what is missing has been computed and cached."""
        for batch in block.batches:
            for p, values in zip(batch.lacking, self._run(batch), strict=True):
                block.known[p].update(zip(batch.rows.tolist(), values, strict=True))
                if (own := self.caches[p]) is not None:
                    own.put(self.spaces[p], [block.keys[i] for i in batch.rows], values)
        for rows_of in block.known:
            check_shapes(row.shape for row in rows_of.values())
        return [torch.stack([rows_of[i] for i in range(block.n)]) for rows_of in block.known]

    def _run(self, batch: _Batch) -> list[torch.Tensor]:
        """Activations of the points that the rows of a batch lack."""
        points = [self.points[p] for p in batch.lacking]
        segment = self.backbone.layers.segment(batch.start, [point.node for point in points])
        x = batch.load()
        try:
            with torch.inference_mode():
                outputs = segment.to(self.device).eval()(x.to(self.device))
                return [pool(out, point.pooled).cpu().contiguous() for point, out in zip(points, outputs, strict=True)]
        except RuntimeError as error:
            _raise_for_size(self.backbone, x, error)
            raise


def _raise_for_size(backbone: Backbone, x: torch.Tensor, error: RuntimeError) -> None:
    """Raise a clear error if pre-processed images are smaller than the network's strides and kernels allow."""
    transform = backbone.inputs.transform
    is_small = transform is not None and x.ndim == 4 and min(x.shape[2:]) < transform.crop
    if is_small and not isinstance(error, torch.OutOfMemoryError):
        raise ValueError(
            f"X contains pre-processed images of shape {tuple(x.shape[1:])}, which the network cannot process: {error}"
        ) from error


def _space(backbone: Backbone, point: Point) -> bytes:
    return backbone.space + f" {point.node.name} {point.pooled} ".encode()
