"""The stop test: at most one false stop in twenty, however the accuracy changes between looks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom

from skal.label import stopping
from skal.label.stopping import StopTest, is_plateau, kappa
from tests.reference.label import audit as reference


@pytest.mark.parametrize("n_reserved", [1, 20, 49, 50, 51, 100, 133, 200, 400, 430])
def test_looks_are_those_a_perfect_audit_would_pass(n_reserved):
    for target in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
        assert StopTest.plan(target, n_reserved).looks == reference.looks(target, n_reserved)


def test_looks_worked_by_hand():
    assert StopTest.plan(0.95, 400).looks == (100, 200, 400)  # .01^(1/50) = .91 < .95; (.05/3)^(1/100) = .96
    assert StopTest.plan(0.9, 400).looks == (50, 100, 200, 400)
    assert StopTest.plan(0.95, 20).looks == ()
    assert StopTest.plan(0.95, 0).looks == ()


@pytest.mark.parametrize("target", [0, 1, 1.5, -0.1, float("nan")])
def test_targets_out_of_range(target):
    with pytest.raises(ValueError, match="target="):
        StopTest.plan(target, 400)


def false_stops(path, target, n_sessions, shared, seed=0):
    """Share of sessions that stop at a look where the model is below its target.

    `path` is the true accuracy at each look. Every refit scores the images again. With `shared` luck, the images that
    an earlier model got right by luck are also right for later ones.
    """
    test = StopTest.plan(target, 400)
    rng = np.random.default_rng(seed)
    wrong = np.zeros(n_sessions, dtype=bool)
    luck = rng.random((n_sessions, 400))
    for n, accuracy in zip(test.looks, path, strict=True):
        luck = luck if shared else rng.random((n_sessions, 400))
        right = (luck[:, :n] < accuracy).sum(axis=1)
        passed = {k: test.is_reached(k, n) for k in np.unique(right).tolist()}
        wrong |= np.array([passed[k] for k in right.tolist()]) & (accuracy < target)
    return wrong.mean()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("path", [(0.949, 0.949, 0.949), (0.85, 0.92, 0.949), (0.949, 0.96, 0.949), (0.949, 0.7, 0.94)])
def test_false_stops_are_rare(path, shared):
    assert false_stops(path, 0.95, 4_000, shared) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
def test_false_stops_are_rare_on_random_paths(target):
    rng = np.random.default_rng(2)
    n_looks = len(StopTest.plan(target, 400).looks)
    for seed in range(20):
        path = np.minimum(np.sort(rng.uniform(target - 0.1, target + 0.02, n_looks)), 1)
        assert false_stops(path, target, 20_000, False, seed) <= 0.05


def test_looking_after_every_answer_would_be_wrong():
    """Why the looks are fixed: an interval that is checked continually accepts models that are not good enough."""
    rng = np.random.default_rng(0)
    test = StopTest(0.95, (1,))
    first_pass = binom.isf(stopping.ALPHA, np.arange(1, 401), 0.95) + 1  # the fewest that pass among 1, 2, ... answers
    for n in (100, 250, 400):
        assert test.is_reached(int(first_pass[n - 1]), n)
        assert not test.is_reached(int(first_pass[n - 1]) - 1, n)
    stops = [(np.cumsum(rng.random(400) < 0.949) >= first_pass).any() for _ in range(1_000)]
    assert np.mean(stops) > 0.05


def test_a_good_model_is_seen():
    test = StopTest.plan(0.95, 400)
    assert test.is_reached(390, 400)
    assert not test.is_reached(380, 400)


def test_each_look_is_due_once_and_in_order():
    test = StopTest.plan(0.9, 300)
    assert test.looks == (50, 100, 200, 300)
    assert test.due(49, None, 0) is None
    assert test.due(50, None, 0) == 0
    assert test.due(60, None, 1) is None
    assert test.due(210, None, 1) == 2  # the one at 100 is over
    assert test.due(290, 290, 3) == 3  # the reserve was smaller than planned
    assert test.due(310, 310, 4) is None
    assert test.due(300, None, 3) is None  # not yet known to be complete
    assert StopTest(0.95, ()).due(100, 100, 0) is None


def test_kappa_is_cohens():
    rng = np.random.default_rng(0)
    for n_classes in (2, 3, 5):
        first, second = rng.integers(n_classes, size=(2, 40)).astype(str)
        assert_allclose(kappa(first, second), reference.kappa(first, second))
    assert kappa(["a"] * 5, ["a"] * 5) is None
    assert kappa([], []) is None
    assert kappa(["a", "b"], ["a", "b"]) == 1.0


def test_a_plateau_is_three_models_that_agree():
    assert is_plateau([0.99, 0.99, 0.99])
    assert not is_plateau([0.99, 0.99, 0.98])
    assert not is_plateau([1.0, 1.0])
    assert not is_plateau([1.0, 1.0, None])
    assert is_plateau([None, 1.0, 1.0, 0.98])


@pytest.mark.parametrize(("before", "enough"), [(0, 10), (20, 30), (200, 210), (400, 420), (1_000, 1_050)])
def test_how_far_models_must_be_apart(before, enough):
    assert stopping.is_apart(enough, before)
    assert not stopping.is_apart(enough - 1, before)


def test_the_answers_needed_are_the_fewest_that_pass():
    for target in (0.5, 0.9, 0.95, 0.99):
        test = StopTest.plan(target, 333)
        for n in (1, 20, *test.looks):
            passing = [k for k in range(n + 1) if test.is_reached(k, n)]
            assert test.needed(n) == (passing[0] if passing else None)
