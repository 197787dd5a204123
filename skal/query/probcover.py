"""ProbCover: balls that cover most of the pool."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval

from skal.numerics.coverage import MAX_REFERENCE, sampled_coverage
from skal.numerics.greedy import nearest_squared, squared_distances, squared_norms
from skal.numerics.points import Points
from skal.query._clusters import k_means, nearest_center
from skal.query._context import Context
from skal.query._registry import strategy

_BALLS = 1000  # balls whose purity determines the radius


@strategy(
    {
        "delta": [Interval(Real, 0, None, closed="neither"), None],
        "purity": [Interval(Real, 0, 1, closed="right")],
        "n_classes": [Interval(Integral, 1, None, closed="left"), None],
        "max_reference": [Interval(Integral, 1, None, closed="left")],
    },
    cost="pool",
)
def probcover_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    delta: float | None = None,
    purity: float = 0.95,
    n_classes: int | None = None,
    max_reference: int = MAX_REFERENCE,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose balls of radius delta cover the most images that are not covered yet.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`skal.query.coreset_sampling`, scaled to length 1, centred on the mean of pool and labelled
        images, and scaled again.
    X_pool : array-like of length n
    n_instances : int, default=1
    delta : float, default=None
        None uses the largest radius at which a share `purity` of the balls contains images of a single cluster. If
        there are more than 1,000 images, it is estimated on 1,000 drawn at random.
    purity : float, default=0.95
    n_classes : int, default=None
        Number of clusters, which stand in for the classes. None uses the number of known classes, at least
        `n_instances`.
    max_reference : int, default=8192
        Pools up to this size are covered exactly. For larger pools, gains are estimated on a sample of this size, so
        time grows linearly with the pool.
    random_state : int, RandomState or None, default=None
        Seeds the clustering, and draws that sample and the images on which the radius is estimated.

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
    context = Context(learner, X_pool, n_instances, random_state)
    features = context.features(normalized=True)
    if delta is None:
        n_clusters = n_classes or max(n_instances, features.n_classes)
        joined = features.joined
        n_clusters = min(n_clusters, len(joined), max_reference)
        delta = pure_radius(joined, n_clusters, purity, context.generator, max_reference)
    covered = _ball(nearest_squared(features.pool, features.labelled), delta)
    picks = sampled_coverage(
        features.pool,
        n_instances,
        partial(_ball, radius=delta),
        covered=covered,
        max_reference=max_reference,
        generator=context.generator,
    )
    return context.result(picks)


def pure_radius(
    X: Points | torch.Tensor,
    n_clusters: int,
    purity: float,
    generator: np.random.RandomState,
    max_reference: int = MAX_REFERENCE,
) -> float:
    """Largest radius at which a share `purity` of the balls contains points of one cluster only.

    A ball is pure until it reaches the nearest point of another cluster. The radius is therefore a quantile of the
    distances to those points.

    Parameters
    ----------
    X : Points or Tensor of shape (n, D)
    n_clusters : int
        Number of clusters for k-means.
    purity : float
    generator : RandomState
    max_reference : int, default=8192
        Maximum number of points to which k-means is fitted.

    Returns
    -------
    radius : float
    """
    X = Points.of(X)
    if len(X) <= max_reference:
        some = X.whole()
        X = Points([some])  # scaled once
    else:
        some = X[np.sort(generator.permutation(len(X))[:max_reference])]
    centers = torch.from_numpy(k_means(some.numpy(), n_clusters, generator).cluster_centers_)
    balls = X[np.sort(generator.permutation(len(X))[:_BALLS])]
    own = nearest_center(balls, centers)
    to_balls = partial(_reach, balls=balls, norms=squared_norms(balls), own=own, centers=centers)
    reach = X.reduced(to_balls, torch.minimum)
    nearest = reach.sqrt().sort().values
    impure = int(np.floor((1 - purity) * len(nearest) + 1e-9))  # balls that may be impure
    radius = nearest[min(impure, len(nearest) - 1)]
    if not torch.isfinite(radius):  # a single cluster: every ball is pure
        return 2.0
    return float(np.nextafter(np.float32(radius.item()), np.float32(0)))  # at this distance the ball is still pure


def _reach(
    rows: torch.Tensor, balls: torch.Tensor, norms: torch.Tensor, own: torch.Tensor, centers: torch.Tensor
) -> torch.Tensor:
    """Squared distance (n_balls,) from each ball to the nearest of the given rows that is in another cluster."""
    squared = squared_distances(rows, balls, None, norms)
    squared[nearest_center(rows, centers)[:, None] == own] = torch.inf
    return squared.amin(0)


def _ball(squared: torch.Tensor, radius: float) -> torch.Tensor:
    return (squared <= radius**2).to(squared.dtype)
