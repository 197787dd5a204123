"""Final representations of images under a suffix, computed once per image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch

from skal.backbones.backbone import hash_tensors
from skal.features.activations import BLOCK
from skal.features.memory import ActivationCache
from skal.features.prefix import Prefix, mean_of_views, run_batched
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
    keyed = KeyedInputs(inputs)
    context = f" {prefix.n_frozen} {prefix.mirrors} "
    space = prefix.backbone.space + f"{context}{hash_tensors(suffix.body.state_dict().items())}".encode()
    blocks = [range(start, min(start + BLOCK, len(keyed))) for start in range(0, len(keyed), BLOCK)]
    missing = [row for rows in blocks for row in _missing(known, space, keyed.names, rows)]
    computed = _computed(prefix, keyed, suffix, missing, space, known)
    if len(missing) == len(keyed):
        yield from computed
        return
    lacking, fresh = set(missing), chain.from_iterable(computed)
    for rows in blocks:
        found = known.get(space, keyed.names[rows.start : rows.stop])
        yield torch.stack([next(fresh) if row in lacking else found[row - rows.start] for row in rows])


def _missing(known: ActivationCache, space: bytes, names: list[bytes], rows: range) -> list[int]:
    found = known.get(space, names[rows.start : rows.stop])
    return [row for row in rows if row - rows.start not in found]


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
