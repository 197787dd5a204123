"""The temperature compared with the one that generated the labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.metrics import log_loss

from skal.label.calibration import calibrate, fit_temperature


def drawn(n, temperature, seed=0, n_classes=4):
    """Probabilities of a model that is overconfident by a temperature, and labels drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(n, n_classes))
    true = softmax(logits / temperature, axis=1)
    labels = (true.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return softmax(logits, axis=1), labels, true


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    proba, labels, true = drawn(20_000, temperature)
    found = fit_temperature(proba, labels)
    assert_allclose(found, temperature, rtol=0.05)
    assert_allclose(calibrate(proba, temperature), true, rtol=1e-6)


def test_few_answers_help_already():
    """40 audit answers, an overconfident model: the mean log loss on new images over 50 sessions decreases."""
    gains = []
    for seed in range(50):
        proba, labels, _ = drawn(40, 2.5, seed)
        new, answers, _ = drawn(500, 2.5, 1000 + seed)
        better = calibrate(new, fit_temperature(proba, labels))
        gains.append(log_loss(answers, new) - log_loss(answers, better))
    assert np.mean(gains) > 0.1
    assert np.mean(np.array(gains) > 0) > 0.9


@pytest.mark.parametrize("n_classes", [2, 6, 50])
@pytest.mark.parametrize("confidence", [0.7, 0.999])
def test_all_right_is_not_certain(confidence, n_classes):
    """Laplace's rule of succession, for a model that is always right, whatever the number of classes."""
    for n in (30, 100):
        proba = np.tile([confidence, *[(1 - confidence) / (n_classes - 1)] * (n_classes - 1)], (n, 1))
        sure = calibrate(proba, fit_temperature(proba, np.zeros(n, dtype=int)))
        assert_allclose(sure[:, 0], (n + 1) / (n + 2), rtol=1e-3)


def test_a_model_that_is_too_unsure_gains_with_many_classes():
    """30 answers and 20 classes, nearly all right: a mean of 50 sessions."""
    gains = []
    for seed in range(50):
        proba, labels, _ = drawn(30, 0.4, seed, n_classes=20)
        new, answers, _ = drawn(500, 0.4, 1000 + seed, n_classes=20)
        better = calibrate(new, fit_temperature(proba, labels))
        gains.append(log_loss(answers, new, labels=range(20)) - log_loss(answers, better, labels=range(20)))
    assert np.mean(gains) > 0.1
    assert min(gains) > 0


def test_the_best_class_stays():
    proba, labels, _ = drawn(200, 2)
    assert (calibrate(proba, fit_temperature(proba, labels)).argmax(axis=1) == proba.argmax(axis=1)).all()
    assert_allclose(calibrate([[1.0, 0.0]], 2.0).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("proba", "targets", "message"),
    [
        (np.ones((0, 2)), np.zeros(0, dtype=int), r"shape \(0, 2\) does not match 0 targets"),
        (np.ones((2, 2)) / 2, np.array([0]), r"shape \(2, 2\) does not match 1 targets"),
        (np.ones((1, 2)) / 2, np.array([2]), "between 0 and 1, not 2 to 2"),
    ],
)
def test_bad_input(proba, targets, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(proba, targets)
