"""MaxHerding: greedy coverage of the pool under a kernel."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from skal.numerics.coverage import MAX_REFERENCE
from skal.query._batch import cover
from skal.query._context import Context
from skal.query._registry import strategy


@strategy(
    {
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "max_reference": [Interval(Integral, 1, None, closed="left")],
    },
    cost="pool",
)
def max_herding_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    sigma: float = 1.0,
    max_reference: int = MAX_REFERENCE,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images that add most to the coverage of the pool, under a Gaussian kernel on the features.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`skal.query.coreset_sampling`, scaled to length 1, centred on the mean of pool and labelled
        images, and scaled again. Coverage by the labelled images is counted from the start.
    X_pool : array-like of length n
    n_instances : int, default=1
    sigma : float, default=1.0
        Width of the kernel ``exp(-d² / sigma²)``.
    max_reference : int, default=8192
        Pools up to this size are covered exactly. For larger pools, gains are estimated on a sample of this size, so
        time grows linearly with the pool.
    random_state : int, RandomState or None, default=None
        Draws that sample.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, or sigma or max_reference is not positive.

    References
    ----------
    .. [1] Bae, Noh, Choi, Sutherland. "Generalized coverage for more robust low-budget active learning", ECCV 2024,
       section 3.2.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> angle = np.array([0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 1.8])
    >>> pool = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> max_herding_sampling(LogisticRegression(), pool, 2, sigma=0.5)
    array([4, 1])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    features = context.features(normalized=True)
    return context.result(cover(features, n_instances, sigma, context.generator, max_reference=max_reference))
