"""Activations of the frozen prefix, computed once per image.

modAL copies rows at every query and GridSearchCV at every fold, so arrays cannot be recognised by identity. Activations
are therefore cached by the content of the image (a hash of its bytes, or path, time and size of its file), the weights,
the pre-processing and the point in the network. Missing activations are computed from the deepest cached point before
them. If the network leaves processors idle, a thread loads the images of the next block while the current one is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

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
    layers = backbone.layers
    spaces = [_space(backbone, point) for point in points]
    # Pixels that are in memory already are not cached; those of files are, since decoding takes time.
    are_arrays = all(isinstance(own, (PixelInputs, TensorInputs)) for own in originals(inputs))
    caches = [None if are_arrays and point.node is layers.input else cache for point in points]
    kept = [node for node in layers.flow_points if cache is not None and cache.holds(_space(backbone, Point(node)))]

    def run(lacking: tuple[int, ...], start: fx.Node, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = layers.segment(start, [points[p].node for p in lacking]).to(device).eval()(x.to(device))
        return [pool(out, points[p].pooled).cpu().contiguous() for p, out in zip(lacking, outputs, strict=True)]

    def starts(lacking: tuple[int, ...], without: list[int], keys: list[bytes]) -> Iterator[tuple[fx.Node, dict]]:
        """Start points for the missing activations of these rows: the deepest cached point, or the input if none."""
        for node in reversed(kept):
            if cache is not None and without and not any(layers.is_before(points[p].node, node) for p in lacking):
                found = cache.get(_space(backbone, Point(node)), [keys[i] for i in without])
                yield node, {without[i]: row for i, row in found.items()}
                without = [row for i, row in enumerate(without) if i not in found]
        yield layers.input, dict.fromkeys(without)

    def planned(rows: np.ndarray) -> _Block:
        """Cached activations of a block, and batches of the missing ones; starts loading their images."""
        keys = inputs.keys(rows) if cache is not None else []
        known = [own.get(space, keys) if own is not None else {} for own, space in zip(caches, spaces, strict=True)]
        lacks = [tuple(p for p in range(len(points)) if i not in known[p]) for i in range(len(rows))]
        batches = []
        for lacking in sorted(set(lacks) - {()}):
            for start, begun in starts(lacking, [i for i in range(len(rows)) if lacks[i] == lacking], keys):
                missing = np.array(list(begun), dtype=int)
                for batch in np.split(missing, range(batch_size, len(missing), batch_size)) if begun else []:
                    if start is layers.input:
                        x = loader.submit(inputs.load, rows[batch])
                    else:
                        x = partial(torch.stack, [begun[i] for i in batch])
                    batches.append(_Batch(lacking, start, batch, x))
        return _Block(len(rows), keys, known, batches)

    loader = Loader(ahead=loads_ahead(inputs, device))
    all_rows = np.arange(len(inputs))
    blocks = (planned(all_rows[first : first + BLOCK]) for first in range(0, len(inputs), BLOCK))
    with loader, tqdm(total=len(inputs), unit="image", disable=not verbose) as progress:
        for block in one_ahead(blocks):
            for lacking, start, batch, load in block.batches:
                x = load()
                try:
                    with torch.inference_mode():
                        outputs = run(lacking, start, x)
                except RuntimeError as error:
                    _raise_for_size(backbone, x, error)
                    raise
                for p, values in zip(lacking, outputs, strict=True):
                    block.known[p].update(zip(batch.tolist(), values, strict=True))
                    if (own := caches[p]) is not None:
                        own.put(spaces[p], [block.keys[i] for i in batch], values)
            for rows_of in block.known:
                check_shapes(row.shape for row in rows_of.values())
            yield [torch.stack([rows_of[i] for i in range(block.n)]) for rows_of in block.known]
            progress.update(block.n)


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
