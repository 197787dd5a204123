"""What a strategy asks of a learner: a modAL learner or committee, or a bare estimator, perhaps in a Pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

BLOCK = 512  # rows of the pool at a time; scores do not depend on it


def check_pool(X_pool: Any, n_instances: int) -> int:
    """Size of the pool; a ValueError says why the query is impossible."""
    n = n_rows(X_pool)
    if n == 0:
        raise ValueError("X_pool is empty: there is nothing left to query")
    is_count = isinstance(n_instances, (int, np.integer)) and not isinstance(n_instances, bool)
    if not is_count or not 1 <= n_instances <= n:
        raise ValueError(f"n_instances={n_instances!r} is not possible: the pool allows integers from 1 to {n}")
    return n


def n_rows(X: Any) -> int:
    """Number of rows of an array, sparse matrix, data frame or list."""
    return X.shape[0] if hasattr(X, "shape") else len(X)


def blocks(X_pool: Any) -> Iterator[Any]:
    """The pool in blocks of rows."""
    return (X_pool[start : start + BLOCK] for start in range(0, n_rows(X_pool), BLOCK))


def members(learner: Any) -> list[BaseEstimator]:
    """The estimators behind a learner: one, or each of a committee."""
    if hasattr(learner, "learner_list"):
        return [member.estimator for member in learner.learner_list]
    return [getattr(learner, "estimator", learner)]


def predict_proba(learner: Any, X_pool: Any) -> np.ndarray | None:
    """Class probabilities of the pool, or None as long as there is no classifier."""
    try:
        return learner.predict_proba(X_pool)
    except NotFittedError:
        return None


def n_labels(learner: Any) -> int:
    """Number of labels the learner has been taught."""
    first = learner.learner_list[0] if hasattr(learner, "learner_list") else learner
    y = getattr(first, "y_training", None)
    return 0 if y is None else len(y)


def last_step(estimator: BaseEstimator, X_pool: Any) -> tuple[BaseEstimator, Any]:
    """The final estimator of a Pipeline with what its earlier steps make of the pool; else both as they are.

    Steps that have learned nothing yet learn from the pool, in a copy.
    """
    if not isinstance(estimator, Pipeline) or len(estimator) == 1:
        return (estimator[-1] if isinstance(estimator, Pipeline) else estimator), X_pool
    earlier = estimator[:-1]
    try:
        return estimator[-1], earlier.transform(X_pool)
    except NotFittedError:
        return estimator[-1], clone(earlier).fit(X_pool).transform(X_pool)
