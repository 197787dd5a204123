"""What a strategy asks of a learner: a modAL learner or committee, or a bare estimator, perhaps in a Pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from skal.query._pool import is_dask, n_rows, score_pool


def check_pool(X_pool: Any, n_instances: int) -> int:
    """Size of the pool; a ValueError says why the query is impossible."""
    n = n_rows(X_pool)
    if n == 0:
        raise ValueError("X_pool is empty: there is nothing left to query")
    is_count = isinstance(n_instances, (int, np.integer)) and not isinstance(n_instances, bool)
    if not is_count or not 1 <= n_instances <= n:
        raise ValueError(f"n_instances={n_instances!r} is not possible: the pool allows integers from 1 to {n}")
    return n


def members(learner: Any) -> list[BaseEstimator]:
    """The estimators behind a learner: one, or each of a committee."""
    if hasattr(learner, "learner_list"):
        return [member.estimator for member in learner.learner_list]
    return [getattr(learner, "estimator", learner)]


def predict_proba(learner: Any, X_pool: Any) -> np.ndarray | None:
    """Class probabilities of the pool, or None as long as there is no classifier."""
    try:
        return score_pool(learner.predict_proba, X_pool) if is_dask(X_pool) else learner.predict_proba(X_pool)
    except NotFittedError:
        return None


def classifier_proba(learner: Any, X_pool: Any) -> np.ndarray:
    """Class probabilities of the pool, (n, C); a single column of ones as long as there is no classifier."""
    proba = predict_proba(learner, X_pool)
    return np.ones((n_rows(X_pool), 1)) if proba is None else np.asarray(proba)


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """Some rows of a pool; those of a Dask array in memory."""
    return np.asarray(X[rows]) if is_dask(X) else _safe_indexing(X, rows)


def labelled(learner: Any) -> Any:
    """The rows the learner has been taught, or None."""
    return getattr(_first(learner), "X_training", None)


def labels_of(learner: Any) -> Any:
    """The labels the learner has been taught, or None."""
    return getattr(_first(learner), "y_training", None)


def n_labels(learner: Any) -> int:
    """Number of labels the learner has been taught."""
    y = labels_of(learner)
    return 0 if y is None else len(y)


def _first(learner: Any) -> Any:
    return learner.learner_list[0] if hasattr(learner, "learner_list") else learner


def last_step(estimator: BaseEstimator, X_pool: Any) -> tuple[BaseEstimator, Callable[[Any], Any]]:
    """The final estimator of a Pipeline, and what its earlier steps make of rows of the pool.

    Steps that have learned nothing yet learn from the pool, in a copy.
    """
    if not isinstance(estimator, Pipeline):
        return estimator, _unchanged
    if len(estimator) == 1:
        return estimator[-1], _unchanged
    earlier = estimator[:-1]
    try:
        earlier.transform(X_pool[:1])
    except NotFittedError:
        earlier = clone(earlier).fit(X_pool)
    return estimator[-1], earlier.transform


def _unchanged(X: Any) -> Any:
    return X
