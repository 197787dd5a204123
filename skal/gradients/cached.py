"""Output change of an adapted network, from cached activations of its frozen layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from skal.features.prefix import Prefix
from skal.gradients.change import OutputChange, check_options


def cached_output_change(
    suffix: nn.Module,
    classes: np.ndarray,
    prefix: Prefix,
    X_reference: Any,
    X: Any,
    *,
    output: str = "logit",
    labels: str | ArrayLike = "map",
    norm: str = "l1",
    max_memory: int = 2 << 30,
) -> np.ndarray:
    """Scores of :func:`skal.gradients.output_change` for the layers after a frozen prefix.

    Parameters
    ----------
    suffix : nn.Module
        Maps activations at the cut to logits.
    classes : ndarray of shape (n_classes,)
        Class of each logit, sorted.
    prefix : Prefix
    X_reference, X : images
    output, labels, norm, max_memory
        As in :func:`skal.gradients.output_change`. If `labels` is an array, it contains classes.

    Returns
    -------
    scores : ndarray of shape (n,), or (n, n_classes) for ``labels="each"``
    """
    check_options(output, labels, norm, max_memory)
    inputs, references = prefix.check(X), prefix.check(X_reference)
    y = None
    if not isinstance(labels, str):
        y, labels = _outputs_of(np.asarray(labels), classes, len(inputs)), "map"
    reference = torch.cat([*prefix.activations(references)])
    module = suffix.to(prefix.device)
    change = OutputChange(module, reference.to(prefix.device), output, labels, norm, max_memory)
    scores: list[np.ndarray] = []
    waiting: list[torch.Tensor] = []
    done = start = 0
    for block in prefix.activations(inputs):
        waiting.append(block)
        done += len(block)
        if done == len(inputs) or sum(part.nbytes for part in waiting) > max_memory // 8:
            own = None if y is None else y[start:done]
            scores.append(change.scores(torch.cat(waiting).to(prefix.device), own))
            waiting, start = [], done
    return np.concatenate(scores)


def _outputs_of(labels: np.ndarray, classes: np.ndarray, n: int) -> np.ndarray:
    """Network output that corresponds to each given label."""
    if labels.shape != (n,):
        raise ValueError(f"labels has shape {labels.shape}, but there are {n} images")
    unknown = labels[~np.isin(labels, classes)]
    if len(unknown):
        raise ValueError(f"labels contains {unknown.tolist()[0]!r}, but the classes are {classes}")
    return np.searchsorted(classes, labels)
