"""Select a batch from scores: the highest scores, or the images that together cover the most score."""

from __future__ import annotations

from functools import partial
from math import ceil

import numpy as np
import torch

from skal.numerics.coverage import MAX_REFERENCE, sampled_coverage
from skal.numerics.greedy import nearest_squared, squared_distances
from skal.query._features import Features

_ROWS = 1024
_COINCIDE = 1e-5  # rows of length 1 with a smaller squared distance are the same image; rounding leaves 1e-6

#: Share of the labelled images that may have a labelled near-duplicate without narrowing the kernel.
DUPLICATES = 0.1


def top(scores: np.ndarray, n_instances: int, generator: np.random.RandomState | None = None) -> np.ndarray:
    """Positions of the highest scores, best first. Ties keep their order, or are shuffled if `generator` is given.

    Examples
    --------
    >>> top(np.array([0.1, 0.7, 0.3, 0.7]), 3)
    array([1, 3, 2])
    """
    among_equals = np.arange(len(scores)) if generator is None else generator.permutation(len(scores))
    return np.lexsort((among_equals, -scores))[:n_instances]


def cover(
    features: Features,
    n_instances: int,
    sigma: float,
    generator: np.random.RandomState,
    weights: np.ndarray | None = None,
    max_reference: int = MAX_REFERENCE,
) -> np.ndarray:
    """Greedy coverage of the pool under a Gaussian kernel, starting from the coverage by the labelled images.

    Parameters
    ----------
    features : Features
        Scaled to length 1.
    n_instances : int
    sigma : float
        Width of the kernel ``exp(-d² / sigma²)``.
    generator : RandomState
        Draws a sample of a pool larger than `max_reference`.
    weights : ndarray of shape (n,), default=None
        Non-negative weight of the coverage of each image. None, or all zeros (from a classifier certain of everything),
        gives all images the same weight.
    max_reference : int, default=8192
        Gains are exact for pools up to this size. For larger pools they are estimated on a sample of this size.

    Returns
    -------
    picks : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen.

    References
    ----------
    .. [1] Bae, Noh, Choi, Sutherland. "Generalized coverage for more robust low-budget active learning", ECCV 2024,
       section 3.2.
    """
    kernel = partial(_gaussian, sigma=sigma)
    covered = kernel(nearest_squared(features.pool, features.labelled))
    pool_weights = None if weights is None or not weights.any() else torch.as_tensor(weights / weights.max())
    return sampled_coverage(
        features.pool, n_instances, kernel, pool_weights, covered, max_reference=max_reference, generator=generator
    )


def kernel_width(labelled: torch.Tensor, duplicates: float = DUPLICATES) -> float:
    """Width of the kernel: a low quantile of the distances between labelled images.

    The paper uses the smallest distance, so the kernel narrows as labels accumulate. A single pair of near-duplicates
    then sets the width. If a share `duplicates` of the n labelled images has a labelled near-duplicate, the shortest
    ``ceil(n * duplicates / 2)`` distances belong to these pairs. The next distance is the width: the quantile at
    ``duplicates / (n - 1)`` of all pairs. It decreases with n like the smallest distance; a fixed quantile would not.

    Parameters
    ----------
    labelled : Tensor of shape (n, D)
        Features scaled to length 1.
    duplicates : float, default=0.1
        0 uses the smallest distance.

    Returns
    -------
    width : float
        1 if there are too few pairs, or if the images of the remaining pairs coincide.

    References
    ----------
    .. [1] Bae, Oliveira, Sutherland. "Uncertainty herding: one active learning method for all label budgets", ICLR
       2025, section 4.

    Examples
    --------
    >>> labelled = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8], [-0.61, 0.79]])
    >>> round(kernel_width(labelled), 2), round(kernel_width(labelled, duplicates=0), 2)
    (0.63, 0.01)
    """
    n = len(labelled)
    skipped = ceil(n * duplicates / 2)
    if n * (n - 1) // 2 <= skipped:
        return 1.0
    shortest = labelled.new_empty(0)
    for start in range(0, n, _ROWS):
        rows = labelled[start : start + _ROWS]
        squared = squared_distances(rows, labelled)
        is_later = torch.arange(n) > torch.arange(start, start + len(rows))[:, None]  # each pair once
        shortest = torch.cat([shortest, squared[is_later]])
        shortest = shortest.topk(min(skipped + 1, len(shortest)), largest=False).values
    width = float(shortest.max()) ** 0.5
    return width if width**2 > _COINCIDE else 1.0


def _gaussian(squared: torch.Tensor, sigma: float) -> torch.Tensor:
    return squared.mul_(-1 / sigma**2).exp_()
