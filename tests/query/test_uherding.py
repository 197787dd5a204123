"""UHerding: near-duplicates among the labelled images, and its temperature."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression

from skal.active import Learner
from skal.query import margin_sampling, uherding_sampling
from skal.query._context import Context
from skal.query.uherding import temperature, tempered


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


def test_an_estimator_that_cannot_be_fitted_to_a_fold_has_no_temperature(taught):
    learner, pool = taught
    calibrated = Learner(CalibratedClassifierCV(LogisticRegression(), cv=4), learner.X_training, learner.y_training)
    calibrated.labelled = np.arange(12)
    calibrated.fit()
    assert temperature(Context(calibrated, pool, 3, 0)) == 1.0
    assert temperature(Context(learner, pool, 3, 0)) != 1.0
    assert len(set(uherding_sampling(calibrated, pool, 3, random_state=0))) == 3


def test_a_temperature_flattens_or_sharpens():
    p = np.array([[0.8, 0.2], [1.0, 0.0]])
    np.testing.assert_allclose(tempered(p, 1.0), p, atol=1e-12)
    np.testing.assert_allclose(tempered(p, 0.5)[0], [16 / 17, 1 / 17])
    assert np.isfinite(tempered(p, 0.01)).all()
