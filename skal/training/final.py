"""Final representations of images under a suffix, computed once per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from skal.backbones.backbone import hash_tensors
from skal.features.activations import BLOCK
from skal.features.gathered import Gathered
from skal.features.memory import ActivationCache
from skal.features.pooling import flat, pool
from skal.features.prefix import INFERENCE_BATCH, Prefix, mean_of_views, run_batched
from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, JoinedInputs
from skal.training.suffix import Suffix

#: Maximum size, in bytes, of the final representations that a fitted classifier caches.
FINAL_BYTES = 2**28


def final_features(prefix: Prefix, inputs: Inputs, suffix: Suffix, known: ActivationCache) -> Iterator[torch.Tensor]:
    """Final representations in blocks of rows; if images are mirrored, the mean of both views.

    The end of a fit and queries for features and probabilities need the representations of the same pool. They are
    computed once and shared.

    Parameters
    ----------
    prefix : Prefix
    inputs : Inputs
    suffix : Suffix
        The layers after the prefix.
    known : ActivationCache
        Rows that were computed before, by image content and suffix weights. Not used if the prefix has no cache, or for
        more images than it can hold.

    Yields
    ------
    features : Tensor of shape (n_block, n_features)
    """
    suffix = suffix.to(prefix.device).eval()
    if prefix.cache is None or 4 * len(inputs) * suffix.head.in_features > known.max_bytes:
        for views in prefix.viewed(inputs):
            yield mean_of_views([run_batched(suffix.features, block, prefix.device) for block in views])
        return
    keyed, space = KeyedInputs(inputs), _space(prefix, suffix)
    found = known.get(space, keyed.names)  # held from here on, since computing the others may replace them
    computed = _computed(prefix, keyed, suffix, [row for row in range(len(keyed)) if row not in found], space, known)
    if not found:
        yield from computed
        return
    fresh = chain.from_iterable(computed)
    for start in range(0, len(keyed), BLOCK):
        rows = range(start, min(start + BLOCK, len(keyed)))
        yield torch.stack([found[row] if row in found else next(fresh) for row in rows])


def final_and_inner(
    prefix: Prefix, inputs: Inputs, suffix: Suffix, known: ActivationCache, layers: Sequence[int | str], pooled: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Final representations, and activations at layers between the cut and the end, from one pass.

    Parameters
    ----------
    prefix, inputs, suffix, known
        As in :func:`final_features`. Representations that are not known are cached.
    layers : sequence of int or str
    pooled : bool
        Whether the activations at these layers are averaged over space.

    Returns
    -------
    final : ndarray of shape (n, n_features)
    inner : list of ndarray of shape (n, D)
        Of the images that are not mirrored.
    """
    keyed, space = KeyedInputs(inputs), _space(prefix, suffix)
    ready = known.get(space, keyed.names)
    if len(ready) == len(keyed):
        inner = prefix.layer_activations(keyed, layers, pooled=pooled, trained=suffix.body)
        return torch.stack([ready[row] for row in range(len(keyed))]).numpy(), inner
    graph = prefix.backbone.layers
    nodes = [graph.resolve(layer) for layer in layers]
    run = graph.segment(prefix.cut, [*nodes, graph.features], root=suffix.to(prefix.device).body).eval()
    final, found, done = Gathered(len(keyed)), [Gathered(len(keyed)) for _ in nodes], 0
    for first, *others in prefix.viewed(keyed):
        own = []
        with torch.inference_mode():
            for batch in first.split(INFERENCE_BATCH):
                *values, features = run(batch.to(prefix.device))
                own.append(flat(features).cpu())
                for rows, value in zip(found, values, strict=True):
                    rows.add(pool(value, pooled).flatten(1))
        views = [torch.cat(own), *(run_batched(suffix.features, view, prefix.device) for view in others)]
        final.add(mean_of_views(views))
        known.put(space, keyed.names[done : done + len(first)], final.rows[done : done + len(first)].clone())
        done += len(first)
    return final.rows.numpy(), [rows.rows.numpy() for rows in found]


def _space(prefix: Prefix, suffix: Suffix) -> bytes:
    """What final representations depend on besides the image."""
    context = f" {prefix.n_frozen} {prefix.mirrors} "
    return prefix.backbone.space + f"{context}{hash_tensors(suffix.body.state_dict().items())}".encode()


def _computed(
    prefix: Prefix, keyed: KeyedInputs, suffix: Suffix, rows: list[int], space: bytes, known: ActivationCache
) -> Iterator[torch.Tensor]:
    """Compute and cache the representations of some rows, block by block."""
    done = 0
    for views in prefix.viewed(JoinedInputs((keyed, rows))) if rows else ():
        features = mean_of_views([run_batched(suffix.features, block, prefix.device) for block in views])
        known.put(space, [keyed.names[row] for row in rows[done : done + len(features)]], features)
        done += len(features)
        yield features
