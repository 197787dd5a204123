"""Kernel weights against enumeration, an independent optimiser and cases worked by hand."""

from math import exp, sqrt

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from skal.numerics.discrepancy import kernel_weights
from tests.conftest import two_samples
from tests.reference.numerics.kernel_weights import ref_kernel_weights, ref_programme
from tests.reference.numerics.mmd2 import ref_bandwidths

PROGRAMMES = [(seed, n, shift) for seed in range(6) for n, shift in ((3, 0.4), (5, 0.05), (5, 1.0))]


def weighted_samples(seed, n, shift):
    X, Y = two_samples(25, 22, n_features=2, shift=shift, seed=seed)
    return X, Y, ref_bandwidths(X, Y, n)


@pytest.mark.parametrize(("seed", "n", "shift"), PROGRAMMES)
@pytest.mark.parametrize("eps", [1e-3, 1e-1])
def test_weights_against_enumeration(seed, n, shift, eps):
    X, Y, bandwidths = weighted_samples(seed, n, shift)
    beta = kernel_weights(X, Y, bandwidths=bandwidths, eps=eps)
    d, P = ref_programme(X, Y, bandwidths, eps)
    assert np.asarray(beta).shape == (n,)
    assert (beta >= 0).all()
    assert_allclose(np.sum(beta), 1, rtol=1e-6)
    assert_allclose(beta, ref_kernel_weights(d, P), atol=1e-4)
    if eps == 1e-3:
        assert_array_equal(kernel_weights(X, Y, bandwidths=bandwidths), beta)  # the default


def test_the_programmes_cover_every_case():
    cases = set()
    for case in PROGRAMMES:
        d, P = ref_programme(*weighted_samples(*case), 1e-3)
        beta = ref_kernel_weights(d, P)
        cases.add("none" if (d <= 0).all() else "all" if (d > 0).all() else "some")
        cases.add("at the bound" if ((beta == 0) & (d > 0)).any() else "inside")
        if (d > 0).any():  # the enumeration against an independent optimiser
            starts = [np.eye(len(d))[np.argmax(d)] / d.max(), np.clip(d, 0, None) / (np.clip(d, 0, None) @ d)]
            for start in starts:
                scale = start @ P @ start
                found = minimize(
                    lambda b, P=P, scale=scale: b @ P @ b / scale,
                    start,
                    jac=lambda b, P=P, scale=scale: 2 * P @ b / scale,
                    method="SLSQP",
                    bounds=[(0, None)] * len(d),
                    constraints={"type": "eq", "fun": lambda b, d=d: d @ b - 1, "jac": lambda b, d=d: d},
                    options={"ftol": 1e-14, "maxiter": 500},
                ).x
                ratio = (beta @ P @ beta) / (d @ beta) ** 2
                assert_allclose(ratio, (found @ P @ found) / (d @ found) ** 2, rtol=1e-5)
    assert cases >= {"none", "all", "some", "at the bound", "inside"}, cases


@pytest.mark.parametrize("eps", [1e-8, 1e-3, 10.0])
def test_no_other_weights_have_a_better_ratio(eps):
    X, Y, bandwidths = weighted_samples(1, 5, 0.8)
    d, P = ref_programme(X, Y, bandwidths, eps)
    assert (d > 0).any()
    beta = np.asarray(kernel_weights(X, Y, bandwidths=bandwidths, eps=eps))
    ratio = (d @ beta) / sqrt(beta @ P @ beta)
    others = np.random.default_rng(0).dirichlet(np.full(5, 0.3), 2000)
    others = np.vstack([others, np.eye(5), 0.99 * beta + 0.01 * others])
    assert (others @ d / np.sqrt(((others @ P) * others).sum(1)) <= ratio * (1 + 1e-6)).all()


def test_weights_worked_by_hand():
    X, Y, bandwidths = weighted_samples(0, 5, 1.0)
    d, _ = ref_programme(X, Y, bandwidths, 0)
    assert_allclose(kernel_weights(X, Y, bandwidths=bandwidths[:1]), [1.0])
    # without Q, min ε|β|² with dᵀβ = 1 has β in the direction of d, where that is positive
    beta = kernel_weights(X, Y, bandwidths=bandwidths, eps=1e6)
    assert_allclose(beta, d.clip(0) / d.clip(0).sum(), atol=1e-5)
    # one repeated quadruple: no covariance. x = (0, 1), y = (2, 4): h = k(1) + k(2) - k(4) - k(1) = k(2) - k(4)
    X, Y = np.tile([[0.0], [1.0]], (3, 1)), np.tile([[2.0], [4.0]], (3, 1))
    d = np.array([exp(-4) - exp(-16), exp(-1) - exp(-4)])
    beta = kernel_weights(X, Y, bandwidths=[sqrt(0.5), sqrt(2)])
    assert_allclose(beta, d / d.sum(), atol=1e-5)


def test_weights_are_uniform_where_no_kernel_tells_the_samples_apart():
    X = np.random.default_rng(0).normal(size=(10, 2))
    Y = X[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8]]  # h = 2k(x1, x2) - 2 < 0 for every kernel
    assert_allclose(kernel_weights(X, Y, bandwidths=[0.5, 1.0, 2.0, 4.0]), np.full(4, 0.25))
    Z = np.zeros((8, 2))  # h = 0
    assert_allclose(kernel_weights(Z, Z, bandwidths=[0.5, 1.0]), [0.5, 0.5])


@pytest.mark.parametrize("sizes", [(3, 9), (9, 3), (2, 2)])
def test_fewer_than_two_quadruples_have_no_covariance(sizes):
    with pytest.raises(ValueError, match=rf"{sizes[0]} and {sizes[1]} rows, but at least 4 of each are required"):
        kernel_weights(*two_samples(*sizes), bandwidths=[1.0, 2.0])
