"""ADMA's equations compared with loops and scipy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skal.query.adma import (
    distance_weights,
    distinctiveness,
    expected_pattern,
    pattern_variance,
    trade_off,
    transformation_pattern,
)
from skal.query.uncertainty import uncertainty
from tests.reference.adma import tau
from tests.reference.uncertainty import plain_uncertainty

KINDS = ["gini", "entropy", "margin", "least_confident"]
PRECISIONS = [(np.float64, 1e-6), (np.float32, 1e-4)]


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
@pytest.mark.parametrize("K", [1, 2, 3, 8, 61])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_distinctiveness_against_scipy(K, levels, dtype, tol):
    rng = np.random.default_rng(K)
    x, y = (rng.integers(0, levels, size=(2, 25, K)) / 7).astype(dtype) - dtype(0.5)
    x[0], y[1] = x[0, 0], y[1, 0]  # constant rows
    x[2], y[3] = y[2], -x[3]
    want = np.array([tau(a, b, constant=np.nan) for a, b in zip(x, y, strict=True)])
    assert np.isnan(want[:2]).all()
    d = distinctiveness(x, y)
    assert_allclose(d, np.where(np.isnan(want), 0.5, (1 - want) / 2), atol=tol)
    assert ((d >= 0) & (d <= 1)).all()
    assert_allclose(distinctiveness(x, -y), 1 - d, atol=tol)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert_allclose(distinctiveness(np.arctan(x), 3 * y**3), d, atol=tol)  # only the order matters


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
def test_pattern_functions(dtype, tol):
    rng = np.random.default_rng(0)
    to_A, to_B = rng.uniform(0.1, 9, size=(2, 11, 6)).astype(dtype)
    to_A[4, 2] = 0
    source, patterns = rng.normal(size=(6, 6)).astype(dtype), rng.normal(size=(3, 11, 6)).astype(dtype)
    n, K, P = range(11), range(6), range(3)
    assert_allclose(transformation_pattern(to_A, to_B), [[to_A[i, k] - to_B[i, k] for k in K] for i in n], atol=tol)
    weights = distance_weights(to_A)
    want = [[(1 / to_A[i, k]) / sum(1 / to_A[i, j] for j in K) if i != 4 else float(k == 2) for k in K] for i in n]
    assert_allclose(weights, want, atol=tol)
    assert_array_equal(weights[4], np.eye(6)[2])
    want = [[sum(weights[i, j] * source[j, k] for j in K) for k in K] for i in n]
    assert_allclose(expected_pattern(weights, source), want, atol=tol)
    scaled = [[[patterns[p, i, k] / np.sqrt(sum(patterns[p, i] ** 2)) for p in P] for k in K] for i in n]
    variances = [[sum((s - sum(over_p) / 3) ** 2 for s in over_p) / 3 for over_p in scaled[i]] for i in n]
    want = [sum(variances[i]) / 6 for i in n]
    assert_allclose(pattern_variance(patterns), want, atol=tol)
    assert_allclose(pattern_variance(patterns * dtype(5)), want, atol=tol)


def test_degenerate_patterns_stay_finite():
    assert_allclose(distance_weights([[1e-310, 1.0]]), [[1.0, 0.0]], atol=1e-12)
    assert_allclose(distance_weights([[0.0, 0.0, 1.0]]).sum(1), 1.0)
    assert np.isfinite(pattern_variance([[[0.0, 0.0]], [[3.0, 4.0]]])).all()


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
@pytest.mark.parametrize("C", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_uncertainty(kind, C, dtype, tol):
    proba = np.random.default_rng(C).dirichlet(np.full(C, 0.4), size=30).astype(dtype)
    proba = np.concatenate([proba, np.eye(C, dtype=dtype), np.full((1, C), 1 / C, dtype)])
    u = uncertainty(proba, kind)
    assert_allclose(u, plain_uncertainty(proba, kind), atol=tol)
    assert ((u >= 0) & (u <= 1 + tol / 10)).all()
    assert_allclose(u[30 : 30 + C], 0, atol=tol)
    assert u[-1] >= u.max() - tol


@pytest.mark.parametrize(("lam", "t"), [(0.01, 1), (0.1, 5), (0.5, 2), (0.5, 9), (0.0, 4), (1.0, 1), (7.0, 1)])
def test_trade_off(lam, t):
    rng = np.random.default_rng(t)
    d, u = rng.uniform(size=(2, 20))
    w = min(lam * t, 1)
    score = trade_off(d, u, lam, t)
    assert_allclose(score, [(1 - w) * a + w * b for a, b in zip(d, u, strict=True)], atol=1e-12)
    assert ((score >= 0) & (score <= 1)).all()
