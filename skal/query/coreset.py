"""Core-set: cover the pool with as small a radius as possible."""

from __future__ import annotations

from typing import Any

import numpy as np

from skal.numerics.greedy import farthest_first
from skal.query._context import Context
from skal.query._registry import strategy


@strategy(cost="pool x (labels + batch)")
def coreset_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, *, random_state: int | np.random.RandomState | None = None
) -> Any:
    """Query the images that are farthest from all labelled ones, and from each other (k-centre greedy).

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Its features are compared: the output of :meth:`skal.FrozenPrefixClassifier.transform` (of the pre-trained
        network before the first fit), the output of another transformer, or X itself.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None
        Draws the first image if nothing is labelled.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

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
    context = Context(learner, X_pool, n_instances, random_state)
    features = context.features().centered()  # keeps distances between near points exact
    first = 0 if len(features.labelled) else int(context.generator.randint(context.n))
    return context.result(farthest_first(features.pool, n_instances, features.labelled, first))
