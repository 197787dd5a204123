"""Median bandwidths and MK-MMD² against double loops, closed forms and cases worked by hand."""

import tracemalloc
from math import exp, sqrt

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group

from skal.numerics import discrepancy
from skal.numerics.discrepancy import kernel_weights, median_bandwidths, mmd2
from tests.conftest import two_samples
from tests.reference.numerics.mmd2 import ref_bandwidths, ref_gram, ref_mmd2

ESTIMATORS = ("biased", "unbiased", "linear")


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (7, 6), (1, 1)])
def test_bandwidths_are_a_geometric_family_around_the_median(n, sizes):
    X, Y = two_samples(*sizes)
    found = median_bandwidths(X, Y, n=n)
    assert np.asarray(found).shape == (n,)
    assert_allclose(found, ref_bandwidths(X, Y, n), rtol=1e-6)
    assert (np.diff(found) > 0).all()
    assert_allclose(np.sort(found)[::-1] * np.asarray(found), pdist_median(X, Y) / 2 * np.ones(n), rtol=1e-6)


def pdist_median(X, Y):
    return np.median(pdist(np.vstack([X, Y]), "sqeuclidean"))


def test_bandwidths_worked_by_hand():
    # rows 0, 1, 3: squared distances 1, 9, 4, whose median is 4; 2σ² = 1, 2, 4, 8, 16
    X, Y = np.array([[0.0], [1.0]]), np.array([[3.0]])
    assert_allclose(median_bandwidths(X, Y), np.sqrt([0.5, 1, 2, 4, 8]), rtol=1e-6)
    assert_allclose(median_bandwidths(X, Y, n=2), [sqrt(2 / sqrt(2)), sqrt(2 * sqrt(2))], rtol=1e-6)
    assert_allclose(median_bandwidths(X, Y, n=1), [sqrt(2)], rtol=1e-6)
    # rows 0, 1, 3, 7: 1, 4, 9, 16, 36, 49; an even number of pairs: halfway between 9 and 16
    X, Y = np.array([[0.0], [7.0]]), np.array([[1.0], [3.0]])
    assert_allclose(median_bandwidths(X, Y, n=1), [sqrt(12.5 / 2)], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bandwidths_of_tensors_are_detached(dtype):
    X, Y = two_samples()
    A, B = (torch.tensor(part, dtype=dtype, requires_grad=True) for part in (X, Y))
    found = median_bandwidths(A, B)
    assert not getattr(found, "requires_grad", False)
    assert_allclose(np.asarray(found), ref_bandwidths(X, Y), rtol=1e-5)
    assert_allclose(median_bandwidths(Y, X), median_bandwidths(X, Y), rtol=1e-9)
    assert_allclose(median_bandwidths(3 * X + 1, 3 * Y + 1), 3 * median_bandwidths(X, Y), rtol=1e-6)


def test_bandwidths_of_large_samples_are_those_of_rows_at_equal_steps(monkeypatch):
    X, Y = two_samples(30, 11)
    monkeypatch.setattr(discrepancy, "_MEDIAN_ROWS", 9)
    rows = np.vstack([X, Y])[[0, 5, 10, 15, 20, 25, 30, 35, 40]]
    assert_allclose(median_bandwidths(X, Y), ref_bandwidths(rows[:4], rows[4:]), rtol=1e-6)


def test_samples_are_not_copied(monkeypatch):
    """A large sample may be a memory map."""
    monkeypatch.setattr(discrepancy, "_MEDIAN_ROWS", 100)
    X, Y = two_samples(100_000, 50, n_features=16)
    X.flags.writeable = False
    tracemalloc.start()
    median_bandwidths(X, Y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes / 10


def test_sums_of_rows_do_not_depend_on_the_block(monkeypatch):
    X, Y = two_samples(23, 17)
    sigmas, beta = np.array([0.7, 2.0]), np.array([0.4, 0.6])
    monkeypatch.setattr(discrepancy, "_ROWS", 5)
    A, B = torch.from_numpy(X), torch.from_numpy(Y)
    assert_allclose(discrepancy.row_sums(A, B, sigmas, beta), ref_gram(X, Y, sigmas, beta).sum(1), rtol=1e-10)
    assert_allclose(discrepancy.row_sums(A, A, sigmas, beta), ref_gram(X, X, sigmas, beta).sum(1), rtol=1e-10)


@pytest.mark.parametrize("n", [0, -2])
def test_bandwidths_without_a_kernel(n):
    with pytest.raises(ValueError, match=rf"\bn\b.*{n}"):
        median_bandwidths(*two_samples(), n=n)


def test_bandwidths_of_rows_that_coincide():
    for value in (0.0, 0.1, 1e3):
        with pytest.raises(ValueError):
            median_bandwidths(np.full((3, 2), value), np.full((4, 2), value))
    with pytest.raises(ValueError):
        median_bandwidths(torch.ones(3, 2), torch.ones(4, 2))
    X = np.zeros((6, 2))  # most rows coincide: an error or a usable family, but never kernels of width 0
    try:
        found = median_bandwidths(X, np.array([[1.0, 0.0]]))
    except ValueError:
        return
    assert (found > 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("sizes", [(12, 9), (9, 12), (2, 2), (3, 2), (7, 7)])
@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3], [2.0, 0.0, 0.5]])
def test_mmd2_against_loops(estimator, sizes, weights, device):
    X, Y = two_samples(*sizes)
    bandwidths = [0.7, 1.5, 4.0]
    value = mmd2(X, Y, bandwidths=bandwidths, weights=weights, estimator=estimator)
    assert type(value) is float
    expected = ref_mmd2(X, Y, bandwidths, weights, estimator)
    assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    as_arrays = {"bandwidths": np.array(bandwidths), "weights": None if weights is None else np.array(weights)}
    tensor = mmd2(torch.tensor(X, device=device), torch.tensor(Y, device=device), estimator=estimator, **as_arrays)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == ()
    assert tensor.device.type == device
    assert_allclose(tensor.item(), expected, rtol=1e-9, atol=1e-12)


def test_mmd2_worked_by_hand():
    one = {"bandwidths": [sqrt(0.5)]}  # k = exp(-d²)
    x, y = np.array([[0.0]]), np.array([[1.0]])
    assert_allclose(mmd2(x, y, estimator="biased", **one), 2 - 2 * exp(-1), rtol=1e-12)
    X, Y = np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])
    cross = exp(-4) + exp(-16) + exp(-1) + exp(-9)
    assert_allclose(mmd2(X, Y, **one), exp(-1) + exp(-4) - cross / 2, rtol=1e-12)  # unbiased is the default
    within = (2 + 2 * exp(-1)) / 4 + (2 + 2 * exp(-4)) / 4
    assert_allclose(mmd2(X, Y, estimator="biased", **one), within - cross / 2, rtol=1e-12)
    # k(x1, x2) + k(y1, y2) - k(x1, y2) - k(x2, y1)
    hand = exp(-1) + exp(-4) - exp(-16) - exp(-1)
    assert_allclose(mmd2(X, Y, estimator="linear", **one), hand, rtol=1e-12)
    # Two kernels, k = 0.25 exp(-d²) + 0.75 exp(-d²/4); the distance is squared: at d = 2, exp(-4) and exp(-1)
    two = {"bandwidths": [sqrt(0.5), sqrt(2)], "weights": [0.25, 0.75]}
    hand = 2 - 2 * (0.25 * exp(-4) + 0.75 * exp(-1))
    assert_allclose(mmd2(x, 2 * y, estimator="biased", **two), hand, rtol=1e-12)


def test_linear_estimator_takes_leading_rows_in_pairs():
    X, Y = two_samples(11, 7)
    value = mmd2(X, Y, bandwidths=[1.0, 2.0], estimator="linear")
    assert value == pytest.approx(mmd2(X[:6], Y[:6], bandwidths=[1.0, 2.0], estimator="linear"), abs=1e-14)
    assert abs(value - mmd2(X[1:], Y, bandwidths=[1.0, 2.0], estimator="linear")) > 1e-4
    swapped = X[[1, 0, 3, 2, 5, 4]], Y[[1, 0, 3, 2, 5, 4]]  # within a quadruple the order does not matter
    assert_allclose(mmd2(*swapped, bandwidths=[1.0, 2.0], estimator="linear"), value, atol=1e-13)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mmd2_is_symmetric_and_blind_to_rigid_motion(estimator):
    X, Y = two_samples()
    options = {"bandwidths": median_bandwidths(X, Y), "estimator": estimator}
    value = mmd2(X, Y, **options)
    assert_allclose(mmd2(Y, X, **options), value, atol=1e-13)
    assert_allclose(mmd2(X + 50, Y + 50, **options), value, atol=1e-10)
    rotation = ortho_group.rvs(4, random_state=np.random.RandomState(0))
    assert_allclose(mmd2(X @ rotation, Y @ rotation, **options), value, atol=1e-12)
    scaled = {**options, "bandwidths": 7 * np.asarray(options["bandwidths"])}
    assert_allclose(mmd2(7 * X, 7 * Y, **scaled), value, atol=1e-12)
    if estimator != "linear":
        rng = np.random.default_rng(1)
        assert_allclose(mmd2(rng.permutation(X), rng.permutation(Y), **options), value, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_biased_estimate_is_a_squared_distance(seed):
    X, Y = two_samples(8, 5, shift=0.05, seed=seed)
    options = {"bandwidths": [0.5, 1.0, 3.0], "estimator": "biased"}
    assert mmd2(X, Y, **options) > 0
    assert_allclose(mmd2(X, X, **options), 0, atol=1e-12)
    assert_allclose(mmd2(X, X[::-1].copy(), **options), 0, atol=1e-12)
    assert_allclose(mmd2(X, np.vstack([X, X]), **options), 0, atol=1e-12)
    Z = two_samples(6, 6, shift=1.0, seed=seed + 10)[1]
    sides = [sqrt(mmd2(*pair, **options)) for pair in ((X, Z), (X, Y), (Y, Z))]
    assert sides[0] <= sides[1] + sides[2] + 1e-12


def test_unbiased_estimates_average_to_zero_on_equal_distributions():
    rng = np.random.default_rng(3)
    draws = [(rng.normal(size=(6, 2)), rng.normal(size=(4, 2))) for _ in range(300)]
    for estimator in ESTIMATORS:
        values = np.array([mmd2(X, Y, bandwidths=[0.8, 1.6], estimator=estimator) for X, Y in draws])
        error = values.std(ddof=1) / sqrt(len(values))
        if estimator == "biased":
            assert (values > 0).all()
            assert values.mean() > 20 * error
        else:
            assert abs(values.mean()) < 4 * error
            assert (values < 0).any()  # which is right


def test_mmd2_of_large_samples_is_that_of_one_block():
    X, Y = two_samples(2100, 1100, n_features=3, shift=0.2)
    bandwidths, weights = np.array([0.6, 2.0]), np.array([0.7, 0.3])

    def dense(A, B):
        d2 = cdist(A, B, "sqeuclidean")
        return sum(w * np.exp(-d2 / (2 * s * s)) for w, s in zip(weights, bandwidths, strict=True))

    XX, YY, XY = dense(X, X), dense(Y, Y), dense(X, Y)
    n, m = len(X), len(Y)
    options = {"bandwidths": bandwidths, "weights": weights}
    biased = XX.mean() + YY.mean() - 2 * XY.mean()
    assert_allclose(mmd2(X, Y, estimator="biased", **options), biased, atol=1e-11)
    unbiased = (XX.sum() - n) / (n * (n - 1)) + (YY.sum() - m) / (m * (m - 1)) - 2 * XY.mean()
    assert_allclose(mmd2(X, Y, **options), unbiased, atol=1e-11)

    # the gradient, Σ_j -k_u(x_i, z_j)(x_i - z_j)/σ_u², in closed form
    A, B = torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True)
    mmd2(A, B, **options).backward()
    slope = np.zeros_like(X)
    for Z, factor in ((X, 2 / (n * (n - 1))), (Y, -2 / (n * m))):
        d2 = cdist(X, Z, "sqeuclidean")
        L = sum(w / s**2 * np.exp(-d2 / (2 * s * s)) for w, s in zip(weights, bandwidths, strict=True))
        slope -= factor * (L.sum(1, keepdims=True) * X - L @ Z)
    assert_allclose(A.grad.numpy(), slope, atol=1e-12)
    assert B.grad.abs().max() > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case", ["distinct", "coinciding"])
def test_gradients_to_both_samples(estimator, case):
    X, Y = two_samples(5, 4, n_features=2)
    if case == "coinciding":  # a distance of 0 must not give NaN
        X[1], Y[0], Y[3] = X[0], X[0], X[4]
    A, B = torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True)

    def value(a, b):
        return mmd2(a, b, bandwidths=[0.7, 2.0], weights=[0.4, 0.6], estimator=estimator)

    assert value(A, B).requires_grad
    assert torch.autograd.gradcheck(value, (A, B))
    for one, other in ((A, B.detach()), (B, A.detach())):
        assert torch.autograd.gradcheck(lambda a, other=other: value(a, other), (one,))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("offset", [0, 1000])
def test_float32_agrees_with_float64(estimator, offset):
    """Also far from the origin, where |x|² + |y|² - 2xy in float32 would lose every digit unless centred."""
    X, Y = (np.float32(part + offset) for part in two_samples(40, 30))
    bandwidths = ref_bandwidths(X.astype(float), Y.astype(float))
    expected = ref_mmd2(X, Y, bandwidths, estimator=estimator)
    assert_allclose(mmd2(X, Y, bandwidths=bandwidths, estimator=estimator), expected, atol=2e-5)
    A, B = torch.tensor(X, requires_grad=True), torch.tensor(Y, requires_grad=True)
    value = mmd2(A, B, bandwidths=bandwidths, estimator=estimator)
    assert_allclose(value.item(), expected, atol=2e-5)
    value.backward()
    C, D = (torch.tensor(part.astype(float), requires_grad=True) for part in (X, Y))
    mmd2(C, D, bandwidths=bandwidths, estimator=estimator).backward()
    assert_allclose(A.grad, C.grad, atol=2e-5)
    assert_allclose(B.grad, D.grad, atol=2e-5)


def test_mmd2_leaves_its_input():
    X, Y = two_samples()
    copies = X.copy(), Y.copy()
    for estimator in ESTIMATORS:
        mmd2(X, Y, bandwidths=[1.0], estimator=estimator)
        mmd2(torch.from_numpy(X), torch.from_numpy(Y), bandwidths=[1.0], estimator=estimator)
    median_bandwidths(torch.from_numpy(X), Y=torch.from_numpy(Y))
    kernel_weights(X, Y, bandwidths=[1.0, 2.0])
    assert_array_equal(X, copies[0])
    assert_array_equal(Y, copies[1])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_mmd2_refuses(kind):
    convert = np.asarray if kind == "numpy" else torch.as_tensor
    X, Y = map(convert, two_samples())
    with pytest.raises(ValueError, match="quadratic") as error:
        mmd2(X, Y, bandwidths=[1.0], estimator="quadratic")
    for allowed in ESTIMATORS:
        assert allowed in str(error.value)
    for estimator in ("unbiased", "linear"):
        for few in ((X[:1], Y), (X, Y[:1])):
            with pytest.raises(ValueError, match="1"):
                mmd2(*few, bandwidths=[1.0], estimator=estimator)
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match=r"4.*3|3.*4"):
            mmd2(X, Y[:, :3], bandwidths=[1.0], estimator=estimator)
    for sample in (X[:, 0], X[:0], X[None]):
        with pytest.raises(ValueError, match=r"X has shape .*, but must have shape \(n, D\)"):
            mmd2(sample, Y, bandwidths=[1.0])
    for bandwidths in ([0.0], [1.0, -2.0], [float("nan")]):
        with pytest.raises(ValueError, match="bandwidths"):
            mmd2(X, Y, bandwidths=bandwidths)
    for weights in ([1.0], [0.2, 0.3, 0.5], [1.5, -0.5]):
        with pytest.raises(ValueError, match="weights"):
            mmd2(X, Y, bandwidths=[1.0, 2.0], weights=weights)
