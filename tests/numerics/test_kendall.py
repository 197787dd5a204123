"""tau-b against scipy, its symmetries, and cases worked by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from skal.numerics import kendall
from skal.numerics.kendall import kendall_tau_b


def rows(rng, n, K, levels):
    return rng.normal(size=(n, K)) if levels is None else rng.integers(0, levels, size=(n, K)).astype(float)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # scipy's own, where a row is constant
@pytest.mark.parametrize("K", [2, 3, 15, 16, 17, 33, 100, 1000])
@pytest.mark.parametrize("levels", [2, 5, 40, None])
def test_equals_scipy(K, levels):
    rng = np.random.default_rng(K)
    x, y = rows(rng, 12, K, levels), rows(rng, 12, K, None if levels == 40 else levels)
    expected = [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(kendall_tau_b(x, y), expected, atol=1e-12)


def test_many_rows_and_long_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(700, 20)), rng.integers(0, 6, size=(700, 20))
    expected = [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(kendall_tau_b(x, y), expected, atol=1e-12)
    x, y = rng.normal(size=(1, 20000)), rng.integers(0, 9000, size=(1, 20000))
    np.testing.assert_allclose(kendall_tau_b(x, y), [kendalltau(x[0], y[0]).statistic], atol=1e-12)


def test_by_hand():
    # Pairs of (1,2,3,4) with (1,2,4,3): five concordant, one discordant; with (1,1,2,2): four concordant, two tied.
    tau = kendall_tau_b([[1, 2, 3, 4]] * 4, [[1, 2, 4, 3], [1, 1, 2, 2], [4, 3, 2, 1], [7, 7, 7, 7]])
    np.testing.assert_allclose(tau, [4 / 6, 4 / np.sqrt(6 * 4), -1, np.nan])


def test_only_ranks_count_and_the_arguments_are_symmetric():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 50)), rng.integers(0, 9, size=(5, 50))
    tau = kendall_tau_b(x, y)
    np.testing.assert_allclose(kendall_tau_b(y, x), tau)
    np.testing.assert_allclose(kendall_tau_b(np.exp(x), 3 * y - 7), tau)
    np.testing.assert_allclose(kendall_tau_b(-x, y), -tau)
    np.testing.assert_allclose(kendall_tau_b(x, x), 1)
    shuffled = rng.permutation(50)
    np.testing.assert_allclose(kendall_tau_b(x[:, shuffled], y[:, shuffled]), tau)


def test_empty_and_short_rows():
    assert kendall_tau_b(np.empty((0, 5)), np.empty((0, 5))).shape == (0,)
    assert np.isnan(kendall_tau_b([[1.0]], [[2.0]])).all()


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        kendall_tau_b(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="NaN"):
        kendall_tau_b([[1.0, np.nan]], [[1.0, 2.0]])


def test_threads_share_the_rows_and_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(50, 9)), rng.integers(0, 5, size=(50, 9))
    expected = kendall_tau_b(x, y)
    monkeypatch.setattr(kendall, "_BLOCK", 7)
    for n_threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        np.testing.assert_array_equal(kendall_tau_b(x, y), expected)
