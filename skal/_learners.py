"""Access to a learner's estimators and labelled rows."""

from __future__ import annotations

from typing import Any

from modAL.models.base import BaseCommittee, BaseLearner
from sklearn.base import BaseEstimator


def estimators_of(learner: Any) -> list[Any]:
    """The estimators of a learner: one, or one per member of a committee.

    Learners are recognised by their type, since an estimator may have a parameter named ``estimator``. Learners are
    those of modAL, its committees, and any other object that has an ``estimator`` or a ``learner_list`` and is not
    itself a scikit-learn estimator. Everything else is treated as an estimator.

    Examples
    --------
    >>> from modAL.models import ActiveLearner
    >>> from sklearn.ensemble import BaggingClassifier
    >>> bagging = BaggingClassifier()
    >>> estimators_of(bagging) == estimators_of(ActiveLearner(bagging)) == [bagging]
    True
    """
    if _is_committee(learner):
        return [member.estimator for member in learner.learner_list]
    if isinstance(learner, BaseEstimator) and not isinstance(learner, BaseLearner):
        return [learner]
    return [getattr(learner, "estimator", learner)]


def labelled_rows(learner: Any) -> Any:
    """The labelled rows of a learner, or None; for a committee, those of its first member."""
    return getattr(_first(learner), "X_training", None)


def labels_of(learner: Any) -> Any:
    """The labels of those rows, or None; for a committee, those of its first member."""
    return getattr(_first(learner), "y_training", None)


def gains_methods_by_fit(estimator: Any) -> bool:
    """Whether an estimator has no method ``predict`` before its fit, unlike its class, as a StackingClassifier."""
    return not hasattr(estimator, "predict") and hasattr(type(estimator), "predict")


def _first(learner: Any) -> Any:
    return learner.learner_list[0] if _is_committee(learner) else learner


def _is_committee(learner: Any) -> bool:
    if isinstance(learner, BaseEstimator):
        return isinstance(learner, BaseCommittee)
    return hasattr(learner, "learner_list")
