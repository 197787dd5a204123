"""The steps before the last one of a Pipeline, and the networks inside an estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline

from skal.query._pool import is_dask, rows_of, score_pool

_INNER = ("estimators_", "estimator_", "estimators", "estimator")  # of a meta-estimator, fitted ones first


@dataclass(frozen=True)
class Steps:
    """Functions of rows, applied in sequence. Picklable if the functions are."""

    functions: tuple[Callable[[Any], Any], ...] = ()

    def __call__(self, X: Any) -> Any:
        for function in self.functions:
            X = function(X)
        return X

    def then(self, function: Callable[[Any], Any]) -> Steps:
        """These steps followed by one more."""
        return Steps((*self.functions, function))


def last_step(estimator: Any, X_pool: Any, before: Steps | None = None) -> tuple[Any, Steps]:
    """The final estimator of a Pipeline, however deeply nested, and the steps applied to pool rows before it.

    A clone of a step that is not fitted yet is fitted to the pool. A network is used as pre-trained.

    Raises
    ------
    ValueError
        If such a step cannot be fitted without labels.
    """
    steps = before or Steps()
    *earlier, last = _flat(estimator)
    for step in earlier:
        steps = steps.then(_transformer(step, steps, X_pool))
    return last, steps


def feature_maps(estimator: Any, X_pool: Any, before: Steps | None = None) -> list[Steps]:
    """Functions from rows to features, to be concatenated: one, or one per network inside a meta-estimator.

    Features are the final representation of a network (the pre-trained one before its first fit), the output of another
    transformer, or the rows themselves.
    """
    last, steps = last_step(estimator, X_pool, before)
    if is_network(last):
        return [steps.then(partial(_representation, last))]
    inner = _inner(last)
    networks = [i for i, one in enumerate(inner) if _holds_network(one)]
    if networks:
        columns = getattr(last, "estimators_features_", None)  # bagging: the columns each estimator is given
        maps = []
        for i in networks:
            given = steps if columns is None else steps.then(partial(_columns, columns[i]))
            maps += feature_maps(inner[i], X_pool, given)
        return maps
    if hasattr(last, "transform") and not inner:  # transform of an ensemble returns its votes
        return [steps.then(partial(_transformed, last))]
    return [steps]


def is_network(estimator: Any) -> bool:
    """Whether it provides activations, as a FrozenPrefixClassifier does."""
    return hasattr(estimator, "activations")


def _flat(estimator: Any) -> Iterator[Any]:
    """The steps of a Pipeline, with nested Pipelines expanded in place. Any other estimator is the only step."""
    if not isinstance(estimator, Pipeline):
        yield estimator
        return
    for _, step in estimator.steps:
        if step is not None and not isinstance(step, str):  # "passthrough"
            yield from _flat(step)


def _transformer(step: Any, before: Steps, X_pool: Any) -> Callable[[Any], Any]:
    try:
        step.transform(before(rows_of(X_pool, np.arange(1))))
        return step.transform
    except (NotFittedError, AttributeError):  # the latter from an unfitted PCA in scikit-learn 1.6
        if is_network(step):
            return partial(_representation, step)
    X = score_pool(before, X_pool) if is_dask(X_pool) else before(X_pool)
    try:
        return clone(step).fit(X).transform
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(step).__name__} is not fitted yet and cannot be fitted to the pool without labels ({error}). Query "
            "the first batch with another strategy, such as random_sampling, or use a FrozenPrefixClassifier instead"
        ) from error


def _inner(estimator: Any) -> list[Any]:
    """The fitted estimators of a meta-estimator, or else those it will clone and fit."""
    if hasattr(estimator, "best_estimator_"):
        return [estimator.best_estimator_]
    if hasattr(estimator, "calibrated_classifiers_"):
        return [calibrated.estimator for calibrated in estimator.calibrated_classifiers_]
    for name in _INNER:
        values = getattr(estimator, name, None)
        values = values.ravel().tolist() if isinstance(values, np.ndarray) else values
        values = values if isinstance(values, (list, tuple)) else [values]
        values = [value[1] if isinstance(value, tuple) else value for value in values]
        found = [value for value in values if isinstance(value, BaseEstimator)]
        if found:
            return found
    return []


def _holds_network(estimator: Any) -> bool:
    if is_network(estimator):
        return True
    inner = list(_flat(estimator)) if isinstance(estimator, Pipeline) else _inner(estimator)
    return any(_holds_network(one) for one in inner)


def _representation(network: Any, X: Any) -> np.ndarray:
    try:
        return network.transform(X)
    except NotFittedError:
        return network.activations(X, [-2], pooled=True)[0]


def _transformed(transformer: Any, X: Any) -> Any:
    try:
        return transformer.transform(X)
    except NotFittedError:
        return X


def _columns(columns: np.ndarray, X: Any) -> Any:
    return (X if issparse(X) else np.asarray(X))[:, columns]
