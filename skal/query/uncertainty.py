"""Uncertainty of predictions, and the baseline that ignores it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from skal.modal import query_result
from skal.query._learner import check_pool

KINDS = ("gini", "entropy", "margin", "least_confident")


def uncertainty(proba: ArrayLike, kind: str = "gini") -> np.ndarray:
    """Uncertainty of predictions, larger for less certain ones.

    Parameters
    ----------
    proba : array-like of shape (n, C)
        Class probabilities.
    kind : {"gini", "entropy", "margin", "least_confident"}, default="gini"
        "gini" is sum_k p_k (1 - p_k), Eq. 10 of [1]_ without its minus sign, which would prefer certain images;
        "entropy" is divided by log C; "margin" is 1 - (p_1 - p_2) of the two most probable classes; "least_confident"
        is 1 - p_1.

    Returns
    -------
    uncertainty : ndarray of shape (n,)
        In [0, 1]; 0 where there is a single class.

    Raises
    ------
    ValueError
        If `kind` is unknown or `proba` is not two-dimensional.

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep CNNs with active model adaptation", KDD 2018, Eq. 10.

    Examples
    --------
    >>> uncertainty([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], "margin")
    array([1., 0.])
    """
    if kind not in KINDS:
        raise ValueError(f"uncertainty {kind!r} is not one of {KINDS}")
    p = np.asarray(proba, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"proba has shape {p.shape}, but must be (n, C)")
    if p.shape[1] == 1:
        return np.zeros(len(p))
    if kind == "gini":
        return (p * (1 - p)).sum(axis=1)
    if kind == "entropy":
        logs = np.log(p, where=p > 0, out=np.zeros_like(p))
        return np.clip(-(p * logs).sum(axis=1) / np.log(p.shape[1]), 0, 1)
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    return 1 - (first - second) if kind == "margin" else 1 - first


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
        Not asked for anything.
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
    n = check_pool(X_pool, n_instances)
    indices = check_random_state(random_state).permutation(n)[:n_instances]
    return query_result(learner, indices, np.zeros(n))
