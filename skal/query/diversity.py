"""Diversity: core-set, BADGE, TypiClust and ProbCover look at where images lie, not only at their predictions."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from skal.numerics.greedy import (
    d2_sampling,
    farthest_first,
    greedy_coverage,
    nearest_squared,
    squared_distances,
    squared_norms,
)
from skal.query._clusters import clusters
from skal.query._features import Features, features_of
from skal.query._learner import check_pool, predict_proba
from skal.query._pool import with_known_size
from skal.query._select import select_picks

_BALLS = 1000  # points whose purity is looked at to choose the radius of ProbCover's balls


def coreset_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, *, random_state: int | np.random.RandomState | None = None
) -> Any:
    """Query the images that are farthest from all labelled ones, and from each other (k-centre greedy).

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Whose features are compared: those of :meth:`FrozenPrefixClassifier.transform` (before its first fit, the
        pre-trained ones), of another transformer, or X itself.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None
        Draws the first image where nothing is labelled.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen; with modAL 0.4.2 and later with zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    References
    ----------
    .. [1] Sener, Savarese. "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
       Algorithm 1.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> pool = np.array([[0.0], [0.2], [5.0], [9.0]])
    >>> coreset_sampling(LogisticRegression(), pool, 2, random_state=0)
    array([0, 3])
    """
    features, generator = _prepared(learner, X_pool, n_instances, random_state)
    mean = features.pool.mean(0)  # subtracted, so that distances between near points stay exact
    X, taught = features.pool.sub_(mean), features.labelled.sub_(mean)
    first = None if len(taught) else int(generator.randint(len(X)))
    return select_picks(learner, farthest_first(X, n_instances, nearest_squared(X, taught), first))


def badge_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, *, random_state: int | np.random.RandomState | None = None
) -> Any:
    """Query uncertain images that differ: k-means++ on the gradients of the last layer, under the predicted label.

    A gradient is (p - e) ⊗ h, with p the probabilities, e the predicted class and h the features. The product is never
    made: inner products of gradients are products of inner products.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier; features as in :func:`coreset_sampling`. As long as it is not fitted, the features
        alone decide.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen; with modAL 0.4.2 and later with zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    References
    ----------
    .. [1] Ash, Zhang, Krishnamurthy, Langford, Agarwal. "Deep batch active learning by diverse, uncertain gradient
       lower bounds", ICLR 2020, Algorithm 1.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> sorted(badge_sampling(model, np.array([[0.5], [0.6], [-4.0], [4.0]]), 2, random_state=0).tolist())
    [1, 3]
    """
    features, generator = _prepared(learner, X_pool, n_instances, random_state)
    h = features.pool
    proba = predict_proba(learner, with_known_size(X_pool))
    q = h.new_ones(len(h), 1)
    if proba is not None:
        q = torch.as_tensor(np.asarray(proba)).to(h)
        q[torch.arange(len(q)), q.argmax(1)] -= 1
    norms = (q * q).sum(1) * (h * h).sum(1)
    picks = d2_sampling(lambda i: (q @ q[i]) * (h @ h[i]), norms, n_instances, generator)
    return select_picks(learner, picks)


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
        Features as in :func:`coreset_sampling`, scaled to length 1.
    X_pool : array-like of length n
    n_instances : int, default=1
    max_clusters : int, default=500
        Labelled and queried images together are as many clusters, but not more than this.
    n_neighbors : int, default=20
        Typicality is the inverse of the mean distance to so many neighbours in the cluster, at most half its size.
    random_state : int, RandomState or None, default=None
        Of the clustering.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen; with modAL 0.4.2 and later with zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

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
    array([4, 0])
    """
    features, generator = _prepared(learner, X_pool, n_instances, random_state)
    X = features.normalized().joined
    n = len(features.pool)
    is_free = np.arange(len(X)) < n
    n_clusters = min(len(X) - n + n_instances, max_clusters, len(X))
    of = clusters(X.cpu().numpy(), n_clusters, generator)
    taken = np.bincount(of[~is_free], minlength=n_clusters)
    sizes = np.bincount(of, minlength=n_clusters)
    order: dict[int, list[int]] = {}
    picks: list[int] = []
    while len(picks) < n_instances:
        free = np.bincount(of[is_free], minlength=n_clusters) > 0
        cluster = int(np.lexsort((-sizes, taken, ~free))[0])
        if cluster not in order:
            members = np.flatnonzero(of == cluster)
            order[cluster] = members[np.argsort(-_typicality(X[members], n_neighbors), kind="stable")].tolist()
        pick = next(row for row in order[cluster] if is_free[row])
        picks.append(pick)
        is_free[pick] = False
        taken[cluster] += 1
    return select_picks(learner, np.array(picks))


def probcover_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    delta: float | None = None,
    purity: float = 0.95,
    n_classes: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose balls of radius delta cover most images that no labelled one covers.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`coreset_sampling`, scaled to length 1.
    X_pool : array-like of length n
    n_instances : int, default=1
    delta : float, default=None
        None takes the largest radius with which a share `purity` of the balls hold images of a single cluster; of more
        than 1,000 images, so many are drawn for it.
    purity : float, default=0.95
    n_classes : int, default=None
        Clusters that stand for the classes; None takes the known classes, or `n_instances` where there are fewer.
    random_state : int, RandomState or None, default=None
        Of the clustering and of the balls that are looked at.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen; with modAL 0.4.2 and later with zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, or delta or purity are out of range.

    References
    ----------
    .. [1] Yehuda, Dekel, Hacohen, Weinshall. "Active learning through a covering lens", NeurIPS 2022, Algorithm 1 and
       section 3.2.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> angle = np.array([0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 1.8])
    >>> pool = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> probcover_sampling(LogisticRegression(), pool, 2, delta=0.25)
    array([4, 0])
    """
    if delta is not None and not delta > 0:
        raise ValueError(f"delta={delta!r} is not a positive radius")
    if not 0 < purity <= 1:
        raise ValueError(f"purity={purity!r} is not a share above 0 and up to 1")
    features, generator = _prepared(learner, X_pool, n_instances, random_state)
    features = features.normalized()
    if delta is None:
        n_clusters = n_classes or max(n_instances, features.n_classes)
        delta = pure_radius(features.joined, min(n_clusters, len(features.joined)), purity, generator)
    covered = (nearest_squared(features.pool, features.labelled) <= delta**2).to(features.pool)
    picks = greedy_coverage(features.pool, n_instances, partial(_ball, radius=delta), covered=covered)
    return select_picks(learner, picks)


def pure_radius(X: torch.Tensor, n_clusters: int, purity: float, generator: np.random.RandomState) -> float:
    """Largest radius with which a share `purity` of the balls hold points of one cluster only.

    A ball is pure as long as it does not reach the nearest point of another cluster, so the radius is a quantile of the
    distances to those.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    n_clusters : int
        Of k-means.
    purity : float
    generator : RandomState

    Returns
    -------
    radius : float
    """
    of = clusters(X.cpu().numpy(), n_clusters, generator)
    balls = np.sort(generator.permutation(len(X))[:_BALLS])
    by_cluster = X[np.argsort(of, kind="stable")]  # so that those of a ball's own cluster are a range
    norms = squared_norms(by_cluster)
    starts = np.searchsorted(np.sort(of), np.arange(n_clusters + 1))
    reach = []
    for cluster in np.unique(of[balls]):
        for few in X[balls[of[balls] == cluster]].split(256):
            squared = squared_distances(few, by_cluster, None, norms)
            squared[:, starts[cluster] : starts[cluster + 1]] = torch.inf
            reach.append(squared.amin(1))
    nearest = torch.cat(reach).sqrt().sort().values
    impure = int(np.floor((1 - purity) * len(nearest) + 1e-9))  # balls that may be impure
    radius = nearest[min(impure, len(nearest) - 1)]
    if not torch.isfinite(radius):  # a single cluster: every ball is pure
        return 2.0
    return float(np.nextafter(np.float32(radius.item()), np.float32(0)))  # at this distance the ball is still pure


def _ball(squared: torch.Tensor, radius: float) -> torch.Tensor:
    return (squared <= radius**2).to(squared.dtype)


def _typicality(X: torch.Tensor, n_neighbors: int) -> np.ndarray:
    """Inverse of the mean distance of each row from its nearest others."""
    k = max(1, min(n_neighbors, len(X) // 2))
    if len(X) == 1:
        return np.zeros(1)
    means = []
    for start in range(0, len(X), 1024):
        squared = squared_distances(X[start : start + 1024], X)
        squared[torch.arange(len(squared)), torch.arange(start, start + len(squared))] = torch.inf
        means.append(squared.topk(k, largest=False).values.sqrt().mean(1))
    return (1 / torch.cat(means).clamp(min=1e-12)).cpu().numpy()


def _prepared(
    learner: Any, X_pool: Any, n_instances: int, random_state: int | np.random.RandomState | None
) -> tuple[Features, np.random.RandomState]:
    X_pool = with_known_size(X_pool)
    check_pool(X_pool, n_instances)
    return features_of(learner, X_pool), check_random_state(random_state)
