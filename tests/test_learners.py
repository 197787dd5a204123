"""Learners are recognised by type, not by the name of an attribute."""

import numpy as np
import pytest
from modAL.models import ActiveLearner, Committee
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skal import output_change
from skal._learners import estimators_of, gains_methods_by_fit, labelled_rows, labels_of
from skal.active import Learner
from skal.query import STRATEGIES, coreset_sampling, uherding_sampling
from tests.reference import indices_of


class Adapted(LogisticRegression):
    """A classifier with a parameter that has the same name as the estimator of a learner."""

    def __init__(self, estimator="unbiased"):
        super().__init__()
        self.estimator = estimator

    def transform(self, X):
        return -np.asarray(X)


def test_an_estimator_is_itself_whatever_its_parameters_are_called():
    for estimator in (Adapted(), CalibratedClassifierCV(LogisticRegression()), BaggingClassifier(), None):
        assert estimators_of(estimator) == [estimator]


def test_a_stack_gains_predict_by_its_fit():
    stack = StackingClassifier([("a", LogisticRegression())], cv=2)
    for estimator in (stack, make_pipeline(stack)):
        assert gains_methods_by_fit(estimator)
        pool = np.array([[0.0], [0.2], [5.0]])
        assert len(indices_of(uherding_sampling)(ActiveLearner(estimator), pool, 2, random_state=0)) == 2
        assert not gains_methods_by_fit(clone(estimator).fit([[0.0], [0.1], [1.0], [1.1]], [0, 0, 1, 1]))
    for estimator in (LogisticRegression(), StandardScaler(), SVC(), None):
        assert not gains_methods_by_fit(estimator)
    with pytest.raises(ValueError, match="SVC has no method predict_proba"):
        uherding_sampling(SVC(), pool, 2)


def test_learners_are_those_of_modal_and_objects_that_have_an_estimator():
    X, y = np.array([[0.0], [1.0]]), np.array([0, 1])
    bagging = BaggingClassifier(LogisticRegression())
    assert estimators_of(ActiveLearner(bagging)) == [bagging]
    loop = Learner(bagging, X, y)
    assert estimators_of(loop) == [bagging]
    assert labelled_rows(loop) is labels_of(loop) is None
    loop.labelled = np.array([1])
    assert labelled_rows(loop).tolist() == [[1.0]]
    members = [ActiveLearner(LogisticRegression(), X_training=X, y_training=y) for _ in range(2)]
    committee = Committee(members)
    assert estimators_of(committee) == [member.estimator for member in members]
    assert labels_of(committee).tolist() == [0, 1]


def test_the_features_are_those_of_the_estimator_itself():
    X = np.random.default_rng(0).normal(size=(30, 3))
    estimator = Adapted().fit(X, np.arange(30) % 2)
    picks = coreset_sampling(estimator, X, 5, random_state=0)
    np.testing.assert_array_equal(picks, coreset_sampling(LogisticRegression(), -X, 5, random_state=0))


@pytest.mark.parametrize("name", ["margin", "badge", "uherding", "set", "aift", "mmd"])
def test_strategies_take_a_bare_classifier_with_such_a_parameter(name):
    X = np.random.default_rng(0).normal(size=(30, 3))
    estimator, plain = Adapted().fit(X, np.arange(30) % 2), LogisticRegression().fit(X, np.arange(30) % 2)
    options = {"aift": {"patches": lambda rows: np.stack([rows, rows + 0.1], axis=1)}, "mmd": {"X_source": X[:9] + 2}}
    for one in (estimator, clone(estimator)):
        picks = STRATEGIES[name].function(one, X, 4, random_state=0, **options.get(name, {}))
        assert len(set(picks.tolist())) == 4
    if name in ("margin", "set", "aift"):
        expected = STRATEGIES[name].function(plain, X, 4, random_state=0, **options.get(name, {}))
        np.testing.assert_array_equal(
            STRATEGIES[name].function(estimator, X, 4, random_state=0, **options.get(name, {})), expected
        )


def test_output_change_asks_the_classifier_itself(classifier, pixels):
    X, y = pixels
    classifier.fit(X[:12], y[:12])
    expected = classifier.output_change(X[:3], X[12:20])
    classifier.estimator = "unbiased"
    for learner in (classifier, ActiveLearner(classifier), Learner(classifier, X, y)):
        np.testing.assert_array_equal(output_change(learner, X[:3], X[12:20]), expected)
    committee = Committee([ActiveLearner(classifier, X_training=X[:12], y_training=y[:12])] * 2)
    with pytest.raises(ValueError, match="one of its members"):
        output_change(committee, X[:3], X[12:20])
    assert len(indices_of(STRATEGIES["emoc"].function)(committee, X[12:], 3, random_state=0)) == 3
