"""Herding: batches that cover the pool, or those of its images that a score prefers."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils import check_random_state

from skal.query._cover import cover, label_width
from skal.query._features import features_of
from skal.query._learner import check_pool, labelled, labels_of, members, predict_proba
from skal.query._pool import with_known_size
from skal.query._select import select_picks
from skal.query.uncertainty import uncertainty

_FOLDS = 3


def max_herding_sampling(learner: Any, X_pool: Any, n_instances: int = 1, *, sigma: float = 1.0) -> Any:
    """Query the images that add most to the coverage of the pool, by a Gaussian kernel on the features.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`skal.query.coreset_sampling`, scaled to length 1. Labelled images cover already.
    X_pool : array-like of length n
    n_instances : int, default=1
    sigma : float, default=1.0
        Of the kernel ``exp(-d² / sigma²)``.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen; with modAL 0.4.2 and later with zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, or sigma is not positive.

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
    X_pool = with_known_size(X_pool)
    check_pool(X_pool, n_instances)
    if not sigma > 0:
        raise ValueError(f"sigma={sigma!r} is not a positive width")
    picks = cover(features_of(learner, X_pool).normalized(), n_instances, sigma)
    return select_picks(learner, picks)


def uherding_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, *, random_state: int | np.random.RandomState | None = None
) -> Any:
    """Query the images that add most to the coverage of what is uncertain: herding first, uncertainty more and more.

    The coverage of each image counts by its uncertainty, 1 - margin of the calibrated probabilities, and the kernel is
    as narrow as the nearest two labelled images are to each other. Without labels it is
    :func:`max_herding_sampling`.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier; features as in :func:`skal.query.coreset_sampling`, scaled to length 1. Where
        every class has 3 labels, clones of a single estimator are fitted on folds of the labelled images to find the
        temperature of the probabilities.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None
        Of the folds.

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
    .. [1] Bae, Oliveira, Sutherland. "Uncertainty herding: one active learning method for all label budgets", ICLR
       2025, sections 3 and 4.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[-1.0, 1.0], [1.0, 1.0]], [0, 1])
    >>> uherding_sampling(model, np.array([[-2.0, 1.0], [-0.1, 1.0], [0.1, 1.0], [3.0, 1.0]]), 1)
    array([1])
    """
    X_pool = with_known_size(X_pool)
    check_pool(X_pool, n_instances)
    features = features_of(learner, X_pool).normalized()
    proba = predict_proba(learner, X_pool)
    weights = None
    if proba is not None:
        generator = check_random_state(random_state)
        weights = uncertainty(tempered(np.asarray(proba), temperature(learner, generator)), "margin")
    picks = cover(features, n_instances, label_width(features.labelled), weights)
    return select_picks(learner, picks)


def temperature(learner: Any, generator: np.random.RandomState) -> float:
    """Temperature under which cross-validated probabilities of the labelled images are most likely.

    1 where a class has fewer than 3 labels, or the learner is a committee.
    """
    X, y = labelled(learner), labels_of(learner)
    if X is None or y is None or len(members(learner)) > 1:
        return 1.0
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or counts.min() < _FOLDS:
        return 1.0
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=generator)
    proba = cross_val_predict(clone(members(learner)[0]), X, y, cv=folds, method="predict_proba")
    own = np.searchsorted(classes, y)

    def loss(log_temperature: float) -> float:
        return -float(np.log(tempered(proba, np.exp(log_temperature))[np.arange(len(y)), own] + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def tempered(proba: np.ndarray, T: float) -> np.ndarray:
    """Probabilities at temperature T: softmax of their logarithms divided by it.

    Examples
    --------
    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    logs = np.log(np.clip(np.asarray(proba, dtype=np.float64), 1e-300, None)) / T
    exponentials = np.exp(logs - logs.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
