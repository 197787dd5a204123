"""Uncertainty of predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skal.query._context import Context
from skal.query._registry import strategy

KINDS = ("gini", "entropy", "margin", "least_confident")


def uncertainty(proba: ArrayLike, kind: str = "gini") -> np.ndarray:
    """Uncertainty of predictions, larger for less certain ones.

    Parameters
    ----------
    proba : array-like of shape (n, C)
        Class probabilities.
    kind : {"gini", "entropy", "margin", "least_confident"}, default="gini"
        "gini" is sum_k p_k (1 - p_k), Eq. 10 of [1]_ without its minus sign, which would prefer certain images.
        "entropy" is divided by log C. "margin" is 1 - (p_1 - p_2) of the two most probable classes. "least_confident"
        is 1 - p_1.

    Returns
    -------
    uncertainty : ndarray of shape (n,)
        In [0, 1]; 0 if there is a single class.

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
        raise ValueError(f"kind={kind!r} is not one of {KINDS}")
    p = np.asarray(proba, dtype=np.float64)
    if p.ndim != 2:
        raise ValueError(f"proba has shape {p.shape}, but must have shape (n, C)")
    if p.shape[1] == 1:
        return np.zeros(len(p))
    if kind == "gini":
        return (p * (1 - p)).sum(axis=1)
    if kind == "entropy":
        logs = np.log(p, where=p > 0, out=np.zeros_like(p))
        return np.clip(-(p * logs).sum(axis=1) / np.log(p.shape[1]), 0, 1)
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    return 1 - (first - second) if kind == "margin" else 1 - first


@strategy(cost="pool", needs_labels=True, without_labels="chance")
def least_confident_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    batch: str = "top",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose most probable class is least probable.

    This is "min" in [1]_.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier. Before its first fit, images are drawn at random.
    X_pool : array-like of length n
    n_instances : int, default=1
    batch : {"top", "herding"}, default="top"
        "top" queries the images with the highest scores. "herding" queries those that together cover the most score, as
        in :func:`skal.query.uherding_sampling`; they are not near-duplicates of each other.
    random_state : int, RandomState or None, default=None
        Orders images with equal scores.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, best first; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, or the estimator has no
        ``predict_proba``.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, section 3.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> least_confident_sampling(model, np.array([[0.0], [0.6], [3.0]]))
    array([1])
    """
    return _by_uncertainty(learner, X_pool, n_instances, "least_confident", batch, random_state)


@strategy(cost="pool", needs_labels=True, without_labels="chance")
def margin_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    batch: str = "top",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose two most probable classes have the closest probabilities ("1-vs-2").

    Parameters, returned values and errors are those of :func:`skal.query.least_confident_sampling`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> margin_sampling(model, np.array([[0.0], [0.6], [3.0]]), 2)
    array([1, 0])
    """
    return _by_uncertainty(learner, X_pool, n_instances, "margin", batch, random_state)


@strategy(cost="pool", needs_labels=True, without_labels="chance")
def entropy_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    batch: str = "top",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose class probabilities have the largest entropy.

    Parameters, returned values and errors are those of :func:`skal.query.least_confident_sampling`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> entropy_sampling(model, np.array([[0.0], [0.6], [3.0]]))
    array([1])
    """
    return _by_uncertainty(learner, X_pool, n_instances, "entropy", batch, random_state)


@strategy(cost="pool", needs_labels=True, without_labels="chance")
def most_confident_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    batch: str = "top",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose most probable class is most probable ("max"), a baseline proposed for noisy images.

    Parameters, returned values and errors are those of :func:`skal.query.least_confident_sampling`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> most_confident_sampling(model, np.array([[0.0], [0.6], [3.0]]))
    array([2])
    """
    return _by_uncertainty(learner, X_pool, n_instances, "most_confident", batch, random_state)


def _by_uncertainty(
    learner: Any,
    X_pool: Any,
    n_instances: int,
    kind: str,
    batch: str,
    random_state: int | np.random.RandomState | None,
) -> Any:
    context = Context(learner, X_pool, n_instances, random_state)
    return context.batch(confidence_scores(context.known_proba, kind), batch)


def confidence_scores(proba: np.ndarray, kind: str) -> np.ndarray:
    """Scores that each strategy maximises: :func:`uncertainty`, or its opposite for "most_confident"."""
    return -uncertainty(proba, "least_confident") if kind == "most_confident" else uncertainty(proba, kind)
