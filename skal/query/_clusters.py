"""Clusters of images, where no labels tell them apart."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

_MANY = 50


def clusters(X: np.ndarray, n_clusters: int, generator: np.random.RandomState) -> np.ndarray:
    """Cluster of each row (n, D), by k-means; with mini-batches where there are more than 50 clusters."""
    kmeans = KMeans if n_clusters <= _MANY else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # images that are alike make fewer clusters
        return kmeans(n_clusters, n_init=1, random_state=generator).fit_predict(X)
