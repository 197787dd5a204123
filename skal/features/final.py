"""Final representations of images under a suffix, each computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from skal.backbones.backbone import hash_tensors
from skal.features.memory import ActivationCache
from skal.features.prefix import Prefix, run_batched
from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, JoinedInputs

#: Most bytes of final representations that a fitted classifier keeps.
FINAL_BYTES = 2**28


def final_features(prefix: Prefix, inputs: Inputs, suffix: Any, known: ActivationCache) -> Iterator[torch.Tensor]:
    """Final representations in blocks of rows.

    The end of a fit, and a query for features and for probabilities, ask for those of the same pool: what one has
    computed the others take.

    Parameters
    ----------
    prefix : Prefix
    inputs : Inputs
    suffix : Suffix
        What follows the prefix.
    known : ActivationCache
        Rows that were computed before, by the content of images and the weights of the suffix. Not used where the
        prefix has no cache, nor for more images than it can hold.

    Yields
    ------
    features : Tensor of shape (n_block, n_features)
    """
    suffix = suffix.to(prefix.device).eval()
    if prefix.cache is None or 4 * len(inputs) * suffix.head.in_features > known.max_bytes:
        for block in prefix.activations(inputs):
            yield run_batched(suffix.features, block, prefix.device)
        return
    keyed = KeyedInputs(inputs)
    space = prefix.backbone.space + f" {prefix.n_frozen} {hash_tensors(suffix.body.state_dict().items())}".encode()
    found = known.get(space, keyed.names)
    missing = [row for row in range(len(keyed)) if row not in found]
    ready = done = 0
    for block in prefix.activations(JoinedInputs((keyed, missing))) if missing else ():
        features = run_batched(suffix.features, block, prefix.device)
        rows = missing[done : done + len(block)]
        known.put(space, [keyed.names[row] for row in rows], features)
        found.update(zip(rows, features, strict=True))
        done += len(block)
        end = missing[done] if done < len(missing) else len(keyed)
        yield torch.stack([found.pop(row) for row in range(ready, end)])
        ready = end
    if ready < len(keyed):
        yield torch.stack([found[row] for row in range(ready, len(keyed))])
