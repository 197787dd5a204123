"""Clustering of unlabelled images."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

from skal.numerics.greedy import squared_distances

_MANY = 50


def k_means(
    X: np.ndarray, n_clusters: int, generator: np.random.RandomState, weights: np.ndarray | None = None
) -> KMeans | MiniBatchKMeans:
    """Fit k-means to the rows (n, D), optionally weighted; mini-batch k-means for more than 50 clusters."""
    kind = KMeans if n_clusters <= _MANY else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # identical images give fewer clusters
        return kind(n_clusters, n_init=1, random_state=generator).fit(X, sample_weight=weights)


def nearest_center(rows: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Index (n,) of the center nearest to each row."""
    return squared_distances(rows, centers).argmin(1)
