"""From scores to a batch: the best images one by one, or those that together cover what the score prefers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from skal.numerics.greedy import greedy_coverage, nearest_squared, squared_distances
from skal.query._features import Features, features_of
from skal.query._select import query_result, select_top

BATCHES = ("top", "herding")


def select_batch(
    learner: Any,
    X_pool: Any,
    scores: np.ndarray,
    n_instances: int,
    batch: str,
    generator: np.random.RandomState | None = None,
) -> Any:
    """The images of a query, in the form that this learner's modAL expects.

    Parameters
    ----------
    learner, X_pool, n_instances
        As a strategy is given them.
    scores : ndarray of shape (n,)
    batch : {"top", "herding"}
        The highest scores, or the images that cover most score: repeatedly the one that adds most to the coverage of
        the pool, where that of each image counts by its score, above the lowest where that is negative.
    generator : RandomState, default=None
        Draws the order of equal scores.

    References
    ----------
    .. [1] Bae, Oliveira, Sutherland. "Uncertainty herding: one active learning method for all label budgets", ICLR
       2025, section 3.
    """
    if batch == "top":
        return select_top(learner, scores, n_instances, generator)
    features = features_of(learner, X_pool).normalized()
    weights = scores - min(scores.min(), 0)
    picks = cover(features, n_instances, label_width(features.labelled), weights)
    return query_result(learner, picks, scores[picks])


def cover(features: Features, n_instances: int, sigma: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Greedy coverage of the pool by a Gaussian kernel; labelled images cover already.

    Parameters
    ----------
    features : Features
        Scaled to length 1.
    n_instances : int
    sigma : float
    weights : ndarray of shape (n,), default=None
        What the coverage of each image counts, at least 0; all alike where it is None or 0 everywhere, as the
        uncertainty of a classifier is that is certain of everything.
    """
    kernel = partial(_gaussian, sigma=sigma)
    covered = kernel(nearest_squared(features.pool, features.labelled))
    of_images = None if weights is None or not weights.any() else torch.as_tensor(weights / weights.max())
    return greedy_coverage(features.pool, n_instances, kernel, of_images, covered)


def label_width(labelled: torch.Tensor) -> float:
    """Least distance between two labelled images of length 1; 1 where there are fewer than two, or two coincide."""
    if len(labelled) < 2:
        return 1.0
    least = torch.inf
    for start in range(0, len(labelled), 1024):
        squared = squared_distances(labelled[start : start + 1024], labelled)
        squared[torch.arange(len(squared)), torch.arange(start, start + len(squared))] = torch.inf
        least = min(least, float(squared.min()))
    return least**0.5 if least > 1e-5 else 1.0  # of lengths of 1, whose squared distances are rounded at 1e-6


def _gaussian(squared: torch.Tensor, sigma: float) -> torch.Tensor:
    return squared.mul_(-1 / sigma**2).exp_()
