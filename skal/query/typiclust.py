"""TypiClust: the most typical image of each cluster."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval

from skal.numerics.greedy import squared_distances
from skal.numerics.points import Points
from skal.query._clusters import k_means, nearest_center
from skal.query._context import Context
from skal.query._registry import strategy

_FITTED = 65_536  # maximum number of images to which k-means is fitted
_MEMBERS = 8192  # maximum number of images of a cluster that are compared with each other


@strategy(
    {
        "max_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
    },
    cost="pool x clusters",
)
def typiclust_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    max_clusters: int = 500,
    n_neighbors: int = 20,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the most typical image of each of the largest clusters without a label.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`skal.query.coreset_sampling`, scaled to length 1, centred on the mean of pool and labelled
        images, and scaled again.
    X_pool : array-like of length n
    n_instances : int, default=1
    max_clusters : int, default=500
        There are as many clusters as labelled and queried images together, up to this number.
    n_neighbors : int, default=20
        Typicality is the inverse of the mean distance to this many nearest neighbours in the cluster, at most half its
        size.
    random_state : int, RandomState or None, default=None
        Seeds the clustering.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, or a parameter is out of range.

    References
    ----------
    .. [1] Hacohen, Dekel, Weinshall. "Active learning on a budget: opposite strategies suit high and low budgets", ICML
       2022, section 3.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> angle = np.array([0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 1.8])
    >>> pool = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> typiclust_sampling(LogisticRegression(), pool, 2, random_state=0)
    array([5, 0])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    X = context.features(normalized=True).joined
    is_free = np.arange(len(X)) < context.n
    n_clusters = min(len(X) - context.n + n_instances, max_clusters, len(X))
    clusters = _clusters(X, n_clusters, context.generator)
    taken = np.bincount(clusters[~is_free], minlength=n_clusters)
    sizes = np.bincount(clusters, minlength=n_clusters)
    order: dict[int, list[int]] = {}
    picks: list[int] = []
    while len(picks) < n_instances:
        free = np.bincount(clusters[is_free], minlength=n_clusters) > 0
        cluster = int(np.lexsort((-sizes, taken, ~free))[0])
        if cluster not in order:
            members = np.flatnonzero(clusters == cluster)
            if len(members) > max(_MEMBERS, n_instances):
                free_members = context.generator.permutation(members[is_free[members]])
                members = np.sort(free_members[: max(_MEMBERS, n_instances)])
            order[cluster] = members[np.argsort(-_typicality(X[members], n_neighbors), kind="stable")].tolist()
        pick = next(row for row in order[cluster] if is_free[row])
        picks.append(pick)
        is_free[pick] = False
        taken[cluster] += 1
    return context.result(picks)


def _clusters(X: Points, n_clusters: int, generator: np.random.RandomState) -> np.ndarray:
    """The cluster (n,) of each point."""
    if len(X) <= _FITTED:
        return k_means(X.whole().numpy(), n_clusters, generator).labels_
    some = X[np.sort(generator.permutation(len(X))[:_FITTED])]
    centers = torch.from_numpy(k_means(some.numpy(), n_clusters, generator).cluster_centers_)
    return X.each(partial(nearest_center, centers=centers)).numpy()


def _typicality(X: torch.Tensor, n_neighbors: int) -> np.ndarray:
    """Inverse of the mean distance from each row to its nearest neighbours."""
    k = max(1, min(n_neighbors, len(X) // 2))
    if len(X) == 1:
        return np.zeros(1)
    means = []
    for start in range(0, len(X), 1024):
        squared = squared_distances(X[start : start + 1024], X)
        squared[torch.arange(len(squared)), torch.arange(start, start + len(squared))] = torch.inf
        means.append(squared.topk(k, largest=False).values.sqrt().mean(1))
    return (1 / torch.cat(means).clamp(min=1e-12)).cpu().numpy()
