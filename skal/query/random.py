"""Random labelling: the baseline of every comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from skal.query._context import Context
from skal.query._registry import strategy


@strategy(cost="nothing", without_labels="chance", batch="one by one")
def random_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query images at random: the baseline of every comparison.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Not used.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None
        An int gives the same positions at every call; pass a RandomState for a sequence of draws.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    Examples
    --------
    >>> random_sampling(None, range(100), 3, random_state=0)
    array([26, 86,  2])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    return context.result(context.generator.permutation(context.n)[:n_instances])
