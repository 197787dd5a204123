"""Greedy coverage under a Gaussian kernel, with the kernel of all pairs."""

from math import ceil

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from tests.reference import pairwise, read_from_mean


def plain_cover(X, n, sigma, labelled, weights):
    K = np.exp(-pairwise(X, X) / sigma**2)
    covered = np.exp(-pairwise(X, labelled) / sigma**2).max(axis=1) if len(labelled) else np.zeros(len(X))
    chosen = []
    for _ in range(n):
        gains = (weights[:, None] * np.maximum(K - covered[:, None], 0)).mean(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, K[:, chosen[-1]])
    return chosen


def plain_width(labelled, duplicates=0.1):
    """The smallest distance without the pairs of near-duplicates; 1 if none remains."""
    n = len(labelled)
    distances = sorted(np.sqrt(((labelled[i] - labelled[j]) ** 2).sum()) for i in range(n) for j in range(i))
    left = distances[ceil(n * duplicates / 2) :]
    return left[0] if left else 1.0


def plain_tempered(proba, T):
    return proba ** (1 / T) / (proba ** (1 / T)).sum(axis=1, keepdims=True)


def plain_temperature(query):
    classes, counts = np.unique(query.y, return_counts=True)
    if len(classes) < 2 or counts.min() < 3:
        return 1.0
    folds = StratifiedKFold(3, shuffle=True, random_state=query.generator)
    proba = cross_val_predict(clone(query.model), query.labelled, query.y, cv=folds, method="predict_proba")
    own = np.searchsorted(classes, query.y)
    grid = np.exp(np.linspace(-3, 3, 6001))
    return grid[np.argmin([-np.log(plain_tempered(proba, t)[np.arange(len(own)), own]).mean() for t in grid])]


def ref_max_herding(query):
    pool, labelled = read_from_mean(query.pool, query.labelled)
    return plain_cover(pool, query.n, 1.0, labelled, np.ones(len(pool)))


def ref_uherding(query):
    if query.proba is None:
        return ref_max_herding(query)
    p = np.sort(plain_tempered(query.proba, plain_temperature(query)), axis=1)
    pool, labelled = read_from_mean(query.pool, query.labelled)
    return plain_cover(pool, query.n, plain_width(labelled), labelled, 1 - (p[:, -1] - p[:, -2]))


ALTERNATIVES = {
    "max_herding": {"sigma": [0.2], "max_reference": [10]},
    "uherding": {"duplicates": [0.0, 0.5], "max_reference": [10]},
}
