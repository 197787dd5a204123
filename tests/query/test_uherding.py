"""UHerding: near-duplicates among the labelled images, and its temperature."""

import numpy as np
import pytest
from modAL.models import ActiveLearner
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import SelfTrainingClassifier

from skal.active import Learner
from skal.query import margin_sampling, uherding_sampling
from skal.query._context import Context
from skal.query.uherding import temperature, tempered
from tests.conftest import on_features, toy_mlp


@pytest.fixture
def taught():
    """Three blobs, 12 labels, and the pool."""
    rng = np.random.default_rng(0)
    y = np.arange(312) % 3
    X = rng.normal(size=(312, 3)) + 2 * np.eye(3)[y]
    learner = Learner(LogisticRegression(), X, y)
    learner.labelled = np.arange(12)
    learner.fit()
    return learner, X[12:]


def with_twin(learner):
    """The same labels, with a slightly shifted copy of one row."""
    X, y = np.concatenate([learner.X_training, 1.001 * learner.X_training[:1] + 0.01]), learner.y_training
    twin = Learner(learner.estimator, X, np.append(y, y[0]))
    twin.labelled = np.arange(13)
    return twin


def test_a_near_duplicate_leaves_the_batch(taught):
    learner, pool = taught
    alone, twin = (uherding_sampling(one, pool, 8, random_state=0) for one in (learner, with_twin(learner)))
    assert set(alone) == set(twin)
    paper = uherding_sampling(with_twin(learner), pool, 8, duplicates=0, random_state=0)
    margin = margin_sampling(learner, pool, 8, random_state=0)
    assert set(paper) == set(margin)  # the kernel is so narrow that no image covers another
    assert len(set(twin) & set(margin)) < 4


@pytest.mark.parametrize("estimator", [LogisticRegression(), on_features(net=toy_mlp(n_in=3))])
def test_the_temperature_does_not_depend_on_the_names_of_the_classes(taught, estimator):
    X, numbers = taught[0].X_training, taught[0].y_training

    def found(classes, y):
        weights = dict(zip(classes, [1, 3, 2], strict=True))
        learner = Learner(clone(estimator).set_params(class_weight=weights), X, y)
        learner.labelled = np.arange(12)
        return temperature(Context(learner, taught[1], 3, 0))

    expected = found([0, 1, 2], numbers)
    assert expected != 1
    assert found([4, 5, 6], numbers + 4) == expected
    assert found(["a", "b", "c"], np.array(["a", "b", "c"])[numbers]) == expected


def test_the_temperature_maximises_the_likelihood_of_cross_validated_probabilities(taught):
    learner, pool = taught
    folds = StratifiedKFold(3, shuffle=True, random_state=np.random.RandomState(0))
    X, y = learner.X_training, learner.y_training
    proba = cross_val_predict(LogisticRegression(), X, y, cv=folds, method="predict_proba")
    temperatures = np.exp(np.linspace(-3, 3, 6001))
    own = np.arange(len(y)), np.unique(y, return_inverse=True)[1]
    losses = [-np.log(tempered(proba, T)[own]).mean() for T in temperatures]
    assert temperature(Context(learner, pool, 3, 0)) == pytest.approx(temperatures[np.argmin(losses)], rel=2e-3)


@pytest.mark.parametrize("reject", ["fit", "predict_proba"])
def test_other_errors_of_an_estimator_in_a_fold_are_raised(taught, reject, monkeypatch):
    learner, pool = taught
    monkeypatch.setattr(LogisticRegression, reject, lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        temperature(Context(learner, pool, 3, 0))


def test_an_estimator_with_more_neighbours_than_a_fold_has_rows_has_no_temperature(taught):
    X, y = taught[0].X_training, taught[0].y_training
    learner = Learner(KNeighborsClassifier(9), X, y)
    learner.labelled = np.arange(12)
    assert temperature(Context(learner, taught[1], 3, 0)) == 1.0


def test_an_estimator_that_cannot_be_fitted_to_a_fold_has_no_temperature(taught):
    learner, pool = taught
    calibrated = Learner(CalibratedClassifierCV(LogisticRegression(), cv=4), learner.X_training, learner.y_training)
    calibrated.labelled = np.arange(12)
    calibrated.fit()
    assert temperature(Context(calibrated, pool, 3, 0)) == 1.0
    assert temperature(Context(learner, pool, 3, 0)) != 1.0
    assert len(set(uherding_sampling(calibrated, pool, 3, random_state=0))) == 3


def test_labels_that_are_no_classes_give_no_temperature(taught):
    learner, pool = taught
    y = np.where(np.arange(len(learner.y_training)) < 4, -1, learner.y_training)
    unsure = ActiveLearner(SelfTrainingClassifier(LogisticRegression()), X_training=learner.X_training, y_training=y)
    assert temperature(Context(unsure, pool, 3, 0)) == 1.0


def test_a_temperature_flattens_or_sharpens():
    p = np.array([[0.8, 0.2], [1.0, 0.0]])
    np.testing.assert_allclose(tempered(p, 1.0), p, atol=1e-12)
    np.testing.assert_allclose(tempered(p, 0.5)[0], [16 / 17, 1 / 17])
    assert np.isfinite(tempered(p, 0.01)).all()
