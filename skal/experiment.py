"""The labelling loop as an experiment: a strategy, an oracle and a test set give the records of a learning curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from modAL.models import ActiveLearner
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score, roc_auc_score


def label_rounds(
    estimator: BaseEstimator,
    strategy: Callable[..., Any],
    X_pool: ArrayLike,
    y_pool: ArrayLike,
    X_test: ArrayLike,
    y_test: ArrayLike,
    *,
    n_rounds: int,
    n_instances: int,
) -> Iterator[dict[str, Any]]:
    """Query, label and fit, from zero labels, one record a round.

    Parameters
    ----------
    estimator : classifier
        Cloned.
    strategy : callable
        A modAL query strategy.
    X_pool, y_pool : array-like of length n
        The pool and the labels its oracle gives when asked.
    X_test, y_test : array-like of length m
        Where each round is scored.
    n_rounds : int
    n_instances : int
        Labels a round; the last round takes what is left.

    Yields
    ------
    record : dict
        ``n_labels``, ``n_classes`` (seen so far), ``accuracy``, ``macro_auc``, ``query_seconds``, ``fit_seconds`` and
        ``indices``, the positions in `X_pool` queried in this round.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skal import random_sampling
    >>> X, y = load_iris(return_X_y=True)
    >>> X, y = X[::-1], y[::-1]
    >>> rounds = label_rounds(LogisticRegression(), lambda *a, **k: random_sampling(*a, **k, random_state=0),
    ...                       X, y, X, y, n_rounds=3, n_instances=10)
    >>> [record["n_labels"] for record in rounds]
    [10, 20, 30]
    """
    X_pool, y_pool, y_test = np.asarray(X_pool), np.asarray(y_pool), np.asarray(y_test)
    learner = ActiveLearner(clone(estimator), query_strategy=strategy)
    left = np.arange(len(X_pool))
    for _ in range(n_rounds):
        start = time.perf_counter()
        chosen, images = learner.query(X_pool[left], n_instances=min(n_instances, len(left)))
        queried = time.perf_counter()
        learner.teach(images, y_pool[left[chosen]])
        fitted = time.perf_counter()
        proba, classes = learner.predict_proba(X_test), learner.estimator.classes_
        yield {
            "n_labels": len(learner.y_training),
            "n_classes": len(classes),
            "accuracy": float(accuracy_score(y_test, classes[proba.argmax(axis=1)])),
            "macro_auc": macro_auc(y_test, proba, classes),
            "query_seconds": queried - start,
            "fit_seconds": fitted - queried,
            "indices": left[chosen],
        }
        left = np.delete(left, chosen)
        if len(left) == 0:
            return


def macro_auc(y: ArrayLike, proba: np.ndarray, classes: ArrayLike) -> float:
    """Area under the ROC curve of each class against the rest, averaged over the classes of `y`.

    Parameters
    ----------
    y : array-like of shape (n,)
    proba : ndarray of shape (n, C)
        Probabilities of `classes`; a class of `y` that is not among them has probability 0, and so an area of 1/2.
    classes : array-like of shape (C,)

    Returns
    -------
    auc : float

    Examples
    --------
    >>> macro_auc(["a", "b", "c"], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), ["a", "b"])
    0.8333333333333334
    """
    y = np.asarray(y)
    column = {label: k for k, label in enumerate(np.asarray(classes).tolist())}
    areas = [
        roc_auc_score(y == label, proba[:, column[label]]) if label in column else 0.5
        for label in np.unique(y).tolist()
    ]
    return float(np.mean(areas))
