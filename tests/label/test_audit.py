"""The audit: coverage of the intervals, a reserve drawn by hash, and no accuracy from too few answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom

from skal.label import audit
from skal.label.audit import Estimate, accept_above, class_recalls, estimate, wilson_interval
from tests.reference.label import audit as reference


def coverage(interval, accuracies, sizes):
    """Probability that the interval contains the truth, by enumeration: (accuracies, sizes)."""
    covered = np.zeros((len(accuracies), len(sizes)))
    for j, n in enumerate(sizes):
        right = np.arange(n + 1)
        low, high = np.array([interval(int(k), int(n)) for k in right]).T
        for i, p in enumerate(accuracies):
            covered[i, j] = binom.pmf(right, n, p)[(low <= p) & (p <= high)].sum()
    return covered


def test_wilson_covers_everywhere_by_enumeration():
    covered = coverage(wilson_interval, np.arange(60, 100) / 100, range(30, 401, 10))
    assert covered.mean() >= 0.94
    assert covered.min() >= 0.90


@pytest.mark.slow
def test_wilson_covers_at_every_size():
    covered = coverage(wilson_interval, np.arange(60, 100) / 100, range(30, 401))
    assert covered.mean() >= 0.94
    below = np.argwhere(covered < 0.90)
    assert covered.min() >= 0.89
    assert {0.60 + i / 100 for i in below[:, 0].tolist()} <= {0.99}  # a few sizes at an accuracy of .99
    assert len(below) <= 20


@pytest.mark.parametrize("n", [1, 2, 30, 57, 400])
def test_intervals_solve_their_equations(n):
    for n_right in {0, 1, n // 2, n - 1, n}:
        assert_allclose(wilson_interval(n_right, n), reference.wilson_interval(n_right, n), atol=1e-9)
        for alpha in (0.05, 0.0125):
            assert_allclose(audit.lower_bound(n_right, n, alpha), reference.lower_bound(n_right, n, alpha), atol=1e-9)


def test_wilson_against_a_printed_case():
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998, table I.
    assert_allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=5e-5)
    assert_allclose(wilson_interval(15, 148), (0.0624, 0.1605), atol=5e-5)
    assert_allclose(wilson_interval(0, 20), (0, 0.1611), atol=5e-5)
    assert_allclose(wilson_interval(1, 29), (0.0061, 0.1718), atol=5e-5)


@pytest.mark.parametrize(("n_right", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts(n_right, n):
    for interval in (lambda: wilson_interval(n_right, n), lambda: audit.lower_bound(n_right, n, 0.05)):
        with pytest.raises(ValueError, match=f"n_right={n_right} of n={n}"):
            interval()


def test_the_reserve_is_a_uniform_draw_of_the_right_size():
    key = b"k" * 16
    places = np.array([audit.position(f"{i}".encode(), key) for i in range(20_000)], dtype=np.float64) / 2**64
    assert_allclose(np.histogram(places, 10, (0, 1))[0], 2_000, atol=170)  # 4 standard deviations
    n_reserved = (places < audit.reserve_threshold(20_000) / 2**64).sum()
    assert abs(n_reserved - 400) < 80
    assert audit.position(b"1", key) == reference.position(b"1", key)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1_199, 1_201, 10**6])
def test_never_more_than_a_third_is_reserved(n):
    threshold = audit.reserve_threshold(n)
    assert 0 <= threshold <= 2**64 / 3
    assert threshold == pytest.approx(2**64 * min(1 / 3, 400 / max(n, 1)))


def test_completeness_is_being_the_first_ones_in_keyed_order():
    rng = np.random.default_rng(0)
    for _ in range(300):
        reserved = rng.permutation(12)[: rng.integers(1, 10)].tolist()
        answered = [place for place in reserved if rng.random() < 0.6]
        assert audit.is_complete(reserved, answered) == reference.is_complete(reserved, answered)


def test_a_grown_folder_makes_a_gap_until_it_is_answered():
    assert audit.is_complete([2, 4, 8], [2, 4])
    assert not audit.is_complete([2, 3, 4, 8], [2, 4])
    assert audit.is_complete([2, 3, 4, 8], [2, 3, 4])
    assert audit.is_complete([2, 4, 6, 8], [2, 4])  # images after the last answer do not matter


def test_no_number_below_thirty():
    assert Estimate(29, 0).accuracy is None
    assert Estimate(20, 9, 100).interval is None
    assert Estimate(20, 9, 100).bounds is None
    assert Estimate(20, 10).accuracy == pytest.approx(2 / 3)


def test_unsure_gives_two_bounds():
    shown = Estimate(80, 10, 10)
    assert shown.bounds == (0.8, 0.9)
    assert shown.accuracy == pytest.approx(8 / 9)
    assert_allclose(shown.interval, (wilson_interval(80, 100)[0], wilson_interval(90, 100)[1]))
    for n_unsure in range(20):  # more unsure answers, a wider interval
        low, high = Estimate(80, 10, n_unsure).interval
        next_low, next_high = Estimate(80, 10, n_unsure + 1).interval
        assert next_low < low
        assert next_high > high


def test_agreement_is_counted():
    assert estimate([], []) == Estimate(0, 0)
    assert estimate(["a", "b", None, "a"], ["a", "a", "a", "a"]) == Estimate(2, 1, 1)
    with pytest.raises(ValueError):
        estimate(["a"], [])


def test_recall_of_each_class():
    labels = ["a"] * 4 + ["b"] * 2 + ["new", None]
    predictions = ["a", "a", "a", "b", "b", "a", "a", "a"]
    a, b, new = class_recalls(labels, predictions, ["a", "b", "c"])
    assert (a.label, a.n, a.recall, a.is_known) == ("a", 4, 0.75, True)
    assert (b.recall, new.recall) == (0.5, 0.0)
    assert not new.is_known
    assert a.interval == wilson_interval(3, 4)


def test_the_confidence_that_is_named_is_right_often_enough():
    """By simulation: if every threshold is just too low, at most one model in twenty passes."""
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(2_000):
        confidences = rng.choice([0.55, 0.75, 0.85, 0.92, 0.99], size=300)
        passed += accept_above(confidences, rng.random(300) < 0.899, 0.9) is not None
    assert passed / 2_000 <= 0.05
    assert accept_above([], [], 0.9) is None
    assert accept_above([0.6] * 400, [True] * 400, 0.95).confidence == 0.5
