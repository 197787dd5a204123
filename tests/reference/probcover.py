"""Balls that cover the most points, with all distances."""

import numpy as np
from sklearn.cluster import KMeans

from tests.reference import pairwise, read_from_mean


def pure_radius_of(X, clusters, purity):
    """Just below the largest radius at which a share `purity` of the balls contains rows of one cluster only."""
    others = np.where(clusters[:, None] == clusters, np.inf, np.sqrt(pairwise(X, X))).min(axis=1)
    return np.sort(others)[int((1 - purity) * len(X) + 1e-9)] * (1 - 1e-6)


def ref_probcover(query):
    pool, labelled = read_from_mean(query.pool, query.labelled)
    X = np.concatenate([pool, labelled])
    n_clusters = max(query.n, len(set(query.y)))
    clusters = KMeans(n_clusters, n_init=1, random_state=query.generator).fit_predict(X)
    delta = pure_radius_of(X, clusters, 0.95)
    covers = pairwise(pool, pool) <= delta**2
    covered = (pairwise(pool, X[len(pool) :]) <= delta**2).any(axis=1)
    picks = []
    for _ in range(query.n):
        gains = (covers & ~covered[:, None]).sum(axis=0).astype(float)
        gains[picks] = -1
        picks.append(int(gains.argmax()))
        covered |= covers[:, picks[-1]]
    return picks


ALTERNATIVES = {"probcover": {"delta": [0.5], "purity": [0.5], "n_classes": [3], "max_reference": [10]}}
