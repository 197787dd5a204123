"""CLUE: uncertainty-weighted clustering."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances
from sklearn.utils._param_validation import Interval

from skal.query._clusters import k_means
from skal.query._context import Context
from skal.query._registry import strategy
from skal.query.uherding import tempered
from skal.query.uncertainty import uncertainty


@strategy(
    {"temperature": [Interval(Real, 0, None, closed="neither")]},
    cost="pool x batch",
    needs_labels=True,
    without_labels="features",
)
def clue_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    temperature: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images nearest to the centres of clusters in which each image is weighted by its uncertainty.

    The features are clustered by k-means, weighted by the entropy of the predictions. There are as many clusters as
    images to query.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier; features as in :func:`skal.query.coreset_sampling`. Before its first fit, and if
        it is certain of everything, all images have the same weight.
    X_pool : array-like of length n
    n_instances : int, default=1
    temperature : float, default=1.0
        Divides the logits before the entropy is computed. Lower values leave only the most uncertain images.
    random_state : int, RandomState or None, default=None
        Draws the initial centres.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, or temperature is not positive.

    References
    ----------
    .. [1] Prabhu, Chandrasekaran, Saenko, Hoffman. "Active domain adaptation via clustering uncertainty-weighted
       embeddings", ICCV 2021, Eq. 3 and Algorithm 1.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> pool = np.array([[-9.0, 0.0], [0.0, -5.0], [2.0, -5.0], [0.0, 5.0], [9.0, 0.0]])
    >>> sorted(clue_sampling(model, pool, 2, random_state=0).tolist())
    [1, 3]
    """
    context = Context(learner, X_pool, n_instances, random_state)
    X = context.features().pool.whole().numpy()
    weights = uncertainty(tempered(context.known_proba, temperature), "entropy")
    relative = weights / weights.max() if weights.any() else None  # tiny ones would vanish in single precision
    centers = k_means(X, n_instances, context.generator, relative).cluster_centers_
    distances = pairwise_distances(centers, X)
    picks: list[int] = []
    for of_center in distances:
        of_center[picks] = np.inf
        picks.append(int(of_center.argmin()))
    return context.result(picks)
