"""MK-MMD and the queries built on it, from their specification alone: double loops and hand-worked cases as oracles."""

import itertools
import random
from math import exp, sqrt

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group
from sklearn.linear_model import LogisticRegression

import skal.query
from skal.numerics.discrepancy import kernel_weights, median_bandwidths, mmd2
from skal.query.discrepancy import discrepancy_coreset_sampling, mmd_sampling

ESTIMATORS = ("biased", "unbiased", "linear")
TIE = 1e-6  # biased MMD² nearer than this may come in either order
TIE_SCALED = 1e-4  # the same after scaling to [0, 1]


@pytest.fixture(autouse=True)
def global_generators_stay():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == before[0]
    for old, new in zip(before[1], np.random.get_state(), strict=True):  # noqa: NPY002
        assert_array_equal(new, old)
    assert_array_equal(torch.get_rng_state(), before[2])


def two_samples(n=12, m=9, n_features=4, shift=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)), rng.normal(shift, 1.3, size=(m, n_features))


# ---------------------------------------------------------------------------------------------------------- oracles


def uniform(bandwidths):
    return [1 / len(bandwidths)] * len(bandwidths)


def kernel(x, y, bandwidths, weights):
    d2 = sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))
    return sum(b * exp(-d2 / (2 * float(s) ** 2)) for b, s in zip(weights, bandwidths, strict=True))


def gram(X, Y, bandwidths, weights=None):
    weights = uniform(bandwidths) if weights is None else weights
    return np.array([[kernel(x, y, bandwidths, weights) for y in Y] for x in X])


def off_diagonal_mean(K):
    n = len(K)
    return sum(K[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


def linear_terms(X, Y, bandwidths, weights):
    terms = []
    for i in range(min(len(X), len(Y)) // 2):
        x1, x2, y1, y2 = X[2 * i], X[2 * i + 1], Y[2 * i], Y[2 * i + 1]
        terms.append(
            kernel(x1, x2, bandwidths, weights)
            + kernel(y1, y2, bandwidths, weights)
            - kernel(x1, y2, bandwidths, weights)
            - kernel(x2, y1, bandwidths, weights)
        )
    return np.array(terms)


def oracle_mmd2(X, Y, bandwidths, weights=None, estimator="unbiased"):
    weights = uniform(bandwidths) if weights is None else weights
    if estimator == "linear":
        return linear_terms(X, Y, bandwidths, weights).mean()
    XX, YY, XY = (gram(A, B, bandwidths, weights) for A, B in ((X, X), (Y, Y), (X, Y)))
    if estimator == "biased":
        return XX.mean() + YY.mean() - 2 * XY.mean()
    return off_diagonal_mean(XX) + off_diagonal_mean(YY) - 2 * XY.mean()


def oracle_bandwidths(X, Y, n=5):
    Z = np.vstack([X, Y])
    squared = [((Z[i] - Z[j]) ** 2).sum() for i in range(len(Z)) for j in range(i)]
    return np.array([sqrt(2 ** (u - (n - 1) / 2) * np.median(squared) / 2) for u in range(n)])


def programme(X, Y, bandwidths, eps):
    """d and P = Q + εI of the quadratic programme."""
    terms = np.array([linear_terms(X, Y, [s], [1.0]) for s in bandwidths])
    return terms.mean(1), np.atleast_2d(np.cov(terms, ddof=1)) + eps * np.eye(len(bandwidths))


def oracle_weights(d, P):
    """The programme's solution by enumeration of the kernels that take part; the optimum is one of these points."""
    best, best_value = np.full(len(d), 1 / len(d)), np.inf
    if (d > 0).any():
        for size in range(1, len(d) + 1):
            for part in map(list, itertools.combinations(range(len(d)), size)):
                direction = np.linalg.solve(P[np.ix_(part, part)], d[part])
                beta = np.zeros(len(d))
                beta[part] = direction / (d[part] @ direction)
                if (beta >= -1e-12).all() and beta @ P @ beta < best_value:
                    best, best_value = beta.clip(0), beta @ P @ beta
    return best / best.sum()


# ------------------------------------------------------------------------------------------------ median_bandwidths


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (7, 6), (1, 1)])
def test_bandwidths_are_a_geometric_family_around_the_median(n, sizes):
    X, Y = two_samples(*sizes)
    found = median_bandwidths(X, Y, n=n)
    assert np.asarray(found).shape == (n,)
    assert_allclose(found, oracle_bandwidths(X, Y, n), rtol=1e-6)
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
    assert_allclose(np.asarray(found), oracle_bandwidths(X, Y), rtol=1e-5)
    assert_allclose(median_bandwidths(Y, X), median_bandwidths(X, Y), rtol=1e-9)
    assert_allclose(median_bandwidths(3 * X + 1, 3 * Y + 1), 3 * median_bandwidths(X, Y), rtol=1e-6)


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


# ------------------------------------------------------------------------------------------------------------- mmd2


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("sizes", [(12, 9), (9, 12), (2, 2), (3, 2), (7, 7)])
@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3], [2.0, 0.0, 0.5]])
def test_mmd2_against_loops(estimator, sizes, weights):
    X, Y = two_samples(*sizes)
    bandwidths = [0.7, 1.5, 4.0]
    value = mmd2(X, Y, bandwidths=bandwidths, weights=weights, estimator=estimator)
    assert type(value) is float
    expected = oracle_mmd2(X, Y, bandwidths, weights, estimator)
    assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    as_arrays = {"bandwidths": np.array(bandwidths), "weights": None if weights is None else np.array(weights)}
    tensor = mmd2(torch.tensor(X), torch.tensor(Y), estimator=estimator, **as_arrays)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == ()
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
    bandwidths = oracle_bandwidths(X.astype(float), Y.astype(float))
    expected = oracle_mmd2(X, Y, bandwidths, estimator=estimator)
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
    for bandwidths in ([0.0], [1.0, -2.0], [float("nan")]):
        with pytest.raises(ValueError, match="bandwidths"):
            mmd2(X, Y, bandwidths=bandwidths)
    for weights in ([1.0], [0.2, 0.3, 0.5], [1.5, -0.5]):
        with pytest.raises(ValueError, match="weights"):
            mmd2(X, Y, bandwidths=[1.0, 2.0], weights=weights)


# --------------------------------------------------------------------------------------------------- kernel_weights

PROGRAMMES = [(seed, n, shift) for seed in range(6) for n, shift in ((3, 0.4), (5, 0.05), (5, 1.0))]


def weighted_samples(seed, n, shift):
    X, Y = two_samples(25, 22, n_features=2, shift=shift, seed=seed)
    return X, Y, oracle_bandwidths(X, Y, n)


@pytest.mark.parametrize(("seed", "n", "shift"), PROGRAMMES)
@pytest.mark.parametrize("eps", [1e-3, 1e-1])
def test_weights_against_enumeration(seed, n, shift, eps):
    X, Y, bandwidths = weighted_samples(seed, n, shift)
    beta = kernel_weights(X, Y, bandwidths=bandwidths, eps=eps)
    d, P = programme(X, Y, bandwidths, eps)
    assert np.asarray(beta).shape == (n,)
    assert (beta >= 0).all()
    assert_allclose(np.sum(beta), 1, rtol=1e-6)
    assert_allclose(beta, oracle_weights(d, P), atol=1e-4)
    if eps == 1e-3:
        assert_array_equal(kernel_weights(X, Y, bandwidths=bandwidths), beta)  # the default


def test_the_programmes_cover_every_case():
    cases = set()
    for case in PROGRAMMES:
        d, P = programme(*weighted_samples(*case), 1e-3)
        beta = oracle_weights(d, P)
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
    d, P = programme(X, Y, bandwidths, eps)
    assert (d > 0).any()
    beta = np.asarray(kernel_weights(X, Y, bandwidths=bandwidths, eps=eps))
    ratio = (d @ beta) / sqrt(beta @ P @ beta)
    others = np.random.default_rng(0).dirichlet(np.full(5, 0.3), 2000)
    others = np.vstack([others, np.eye(5), 0.99 * beta + 0.01 * others])
    assert (others @ d / np.sqrt(((others @ P) * others).sum(1)) <= ratio * (1 + 1e-6)).all()


def test_weights_worked_by_hand():
    X, Y, bandwidths = weighted_samples(0, 5, 1.0)
    d, _ = programme(X, Y, bandwidths, 0)
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


# --------------------------------------------------------------------------------------------------------- sampling


def picks_of(result):
    """The picks, also where modAL 0.4.2 takes them with scores."""
    if isinstance(result, tuple):
        assert len(result) == 2
        assert len(result[0]) == len(result[1])
        return np.asarray(result[0])
    return np.asarray(result)


def world(n_labelled=6, n_pool=40, n_source=25, seed=0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n_source, 5))
    target = rng.normal(size=(n_pool + n_labelled, 5))
    target[::3] += 1.5
    X_labelled, pool = target[:n_labelled], target[n_labelled:]
    taught = {"X_training": X_labelled, "y_training": np.arange(n_labelled) % 2} if n_labelled else {}
    return ActiveLearner(LogisticRegression(), query_strategy=mmd_sampling, **taught), pool, source, X_labelled


class Removals:
    """The biased MMD² between source and target with some of the pool's rows removed, from scratch each time."""

    def __init__(self, pool, labelled, source, bandwidths=None):
        self.target = np.vstack([pool, labelled]).astype(float)
        self.bandwidths = oracle_bandwidths(self.target, source) if bandwidths is None else bandwidths
        self.n_pool = len(pool)
        self.TT = gram(self.target, self.target, self.bandwidths)
        self.TS = gram(self.target, source, self.bandwidths)
        self.SS = gram(source, source, self.bandwidths).mean()

    def __call__(self, removed):
        kept = np.setdiff1d(np.arange(len(self.target)), removed)
        return self.TT[np.ix_(kept, kept)].mean() - 2 * self.TS[kept].mean() + self.SS

    def left(self, picks):
        return np.setdiff1d(np.arange(self.n_pool), picks)


def check_picks(picks, n_instances, n_pool):
    assert picks.shape == (n_instances,)
    assert np.issubdtype(picks.dtype, np.integer)
    assert len(set(picks.tolist())) == n_instances
    assert ((picks >= 0) & (picks < n_pool)).all()


def assert_greedy_removal(picks, removals):
    clear = 0
    for step, pick in enumerate(picks):
        earlier = picks[:step].tolist()
        left = removals.left(earlier)
        if step == len(removals.target) - 1:
            break  # nothing would be left to compare with
        values = np.array([removals([*earlier, j]) for j in left])
        assert values[left == pick].item() <= values.min() + TIE, f"pick {step}"
        clear += len(values) > 1 and np.diff(np.sort(values)[:2]).item() > TIE
    assert clear >= 0.7 * (len(picks) - 1), "too many ties for a test"


def minmax(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 1e-10 else np.zeros(len(values))


def assert_greedy_mixture(picks, removals, balance):
    for step, pick in enumerate(picks):
        earlier = picks[:step].tolist()
        left = removals.left(earlier)
        if len(left) == 1:
            break
        gain = np.array([removals(earlier) - removals([*earlier, j]) for j in left])
        known = [*earlier, *range(removals.n_pool, len(removals.target))]
        T = removals.target
        distance = np.array([min((np.linalg.norm(T[j] - T[i]) for i in known), default=0.0) for j in left])
        scores = balance * minmax(gain) + (1 - balance) * minmax(distance)
        assert scores[left == pick].item() >= scores.max() - TIE_SCALED, f"pick {step}"


def test_the_strategies_are_exported():
    assert skal.query.mmd_sampling is mmd_sampling
    assert skal.query.discrepancy_coreset_sampling is discrepancy_coreset_sampling


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("n_instances", [1, 2, 12])
def test_mmd_picks_against_removal_from_scratch(n_labelled, n_instances):
    learner, pool, source, labelled = world(n_labelled)
    picks = picks_of(mmd_sampling(learner, pool, n_instances, X_source=source))
    check_picks(picks, n_instances, len(pool))
    removals = Removals(pool, labelled, source)
    assert_greedy_removal(picks, removals)
    assert removals(picks) < removals([])


@pytest.mark.parametrize("n_labelled", [0, 2])
@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
def test_the_whole_pool_can_be_picked(n_labelled, strategy):
    learner, pool, source, labelled = world(n_labelled, n_pool=9)
    picks = picks_of(strategy(learner, pool, 9, X_source=source))
    assert_array_equal(np.sort(picks), np.arange(9))
    if strategy is mmd_sampling:
        assert_greedy_removal(picks, Removals(pool, labelled, source))
    assert_array_equal(picks_of(strategy(learner, pool[:1], X_source=source)), [0])


def test_given_bandwidths_count_and_labelled_rows_count():
    learner, pool, source, labelled = world()
    narrow = [0.3, 0.6]
    picks = picks_of(mmd_sampling(learner, pool, 10, X_source=source, bandwidths=narrow))
    assert_greedy_removal(picks, Removals(pool, labelled, source, narrow))
    wide = picks_of(mmd_sampling(learner, pool, 10, X_source=source))
    assert not np.array_equal(picks, wide)
    given = oracle_bandwidths(np.vstack([pool, labelled]), source)
    assert_array_equal(picks_of(mmd_sampling(learner, pool, 10, X_source=source, bandwidths=given)), wide)
    untaught = ActiveLearner(LogisticRegression())
    alone = picks_of(mmd_sampling(untaught, pool, 10, X_source=source, bandwidths=given))
    assert_greedy_removal(alone, Removals(pool, labelled[:0], source, given))
    # labelled rows close to a removable group make that group heavier: the picks must depend on them
    crowd = np.tile(pool[wide[-1]], (15, 1)) + 0.01 * np.random.default_rng(0).normal(size=(15, 5))
    taught = ActiveLearner(LogisticRegression(), X_training=crowd, y_training=np.arange(15) % 2)
    crowded = picks_of(mmd_sampling(taught, pool, 10, X_source=source, bandwidths=given))
    assert_greedy_removal(crowded, Removals(pool, crowd, source, given))
    assert not np.array_equal(crowded, alone)


def test_mmd_picks_worked_by_hand():
    # removing 10 leaves the source itself; with n = 2 the other follows
    pool, source = np.array([[0.0], [10.0]]), np.array([[0.0]])
    learner = ActiveLearner(LogisticRegression())
    assert_array_equal(picks_of(mmd_sampling(learner, pool, 2, X_source=source)), [1, 0])
    # the source itself and a group that it lacks: the group goes first, before anything else
    rng = np.random.default_rng(0)
    source, group = rng.normal(size=(30, 3)), [4, 11, 17, 28]
    pool = np.insert(source, [4, 10, 15, 25], 6 + 0.1 * rng.normal(size=(4, 3)), axis=0)
    assert (pool[group] > 5).all()
    picks = picks_of(mmd_sampling(learner, pool, 4, X_source=source))
    assert sorted(picks.tolist()) == group


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("balance", [0.2, 0.5, 0.8, 1.0])
def test_mixed_picks_against_loops(n_labelled, balance):
    learner, pool, source, labelled = world(n_labelled, seed=1)
    picks = picks_of(discrepancy_coreset_sampling(learner, pool, 12, X_source=source, balance=balance))
    check_picks(picks, 12, len(pool))
    assert_greedy_mixture(picks, Removals(pool, labelled, source), balance)
    if balance == 0.5:
        assert_array_equal(picks_of(discrepancy_coreset_sampling(learner, pool, 12, X_source=source)), picks)


def test_given_bandwidths_count_in_the_mixture():
    learner, pool, source, labelled = world(seed=1)
    picks = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, bandwidths=[0.4], balance=0.6))
    assert_greedy_mixture(picks, Removals(pool, labelled, source, [0.4]), 0.6)


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_balance_at_its_ends(n_labelled, seed):
    learner, pool, source, labelled = world(n_labelled, seed=seed)
    only_mmd = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, balance=1))
    assert_array_equal(only_mmd, picks_of(mmd_sampling(learner, pool, 10, X_source=source)))
    only_cover = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, balance=0))
    if n_labelled:
        assert_array_equal(only_cover, picks_of(skal.query.coreset_sampling(learner, pool, 10)))
    else:
        assert only_cover[0] == 0  # all distances are 0: the first of equals
    centres, expected = list(labelled), []
    for _ in range(10):
        distances = [min((np.linalg.norm(x - c) for c in centres), default=0.0) for x in pool]
        expected.append(int(np.argmax(distances)))
        centres.append(pool[expected[-1]])
    assert_array_equal(only_cover, expected)


def test_constant_quantities_scale_to_zero():
    """Rounding errors between equal rows must not be blown up to [0, 1]."""
    _, _, source, labelled = world()
    taught = ActiveLearner(LogisticRegression(), X_training=labelled, y_training=np.arange(6) % 2)
    pool = np.tile([[0.1, 0.7, -0.3, 1.1, 0.9]], (11, 1))
    for learner in (taught, ActiveLearner(LogisticRegression())):
        for balance in (0.0, 0.5, 1.0):
            picks = picks_of(discrepancy_coreset_sampling(learner, pool, 5, X_source=source, balance=balance))
            assert_array_equal(picks, np.arange(5))


def test_equal_rows_are_picked_once_each():
    learner, pool, source, _ = world()
    pool = np.repeat(pool[:8], 3, axis=0)
    for strategy in (mmd_sampling, discrepancy_coreset_sampling):
        check_picks(picks_of(strategy(learner, pool, 24, X_source=source)), 24, 24)


@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
class TestBoth:
    def test_greedy_picks_are_prefixes_and_repeat(self, strategy):
        learner, pool, source, _ = world()
        every = picks_of(strategy(learner, pool, 12, X_source=source, random_state=0))
        for n in (1, 5):
            assert_array_equal(picks_of(strategy(learner, pool, n, X_source=source, random_state=0)), every[:n])
        assert_array_equal(picks_of(strategy(learner, pool, X_source=source)), every[:1])
        # small data: bandwidths are computed on all rows, so that nothing is left to chance
        generator = np.random.RandomState(7)
        assert_array_equal(picks_of(strategy(learner, pool, 12, X_source=source, random_state=generator)), every)

    def test_learner_pool_and_source_stay(self, strategy):
        learner, pool, source, _ = world()
        before = pool.copy(), source.copy(), learner.X_training.copy(), learner.estimator.coef_.copy()
        strategy(learner, pool, 5, X_source=source)
        after = pool, source, learner.X_training, learner.estimator.coef_
        for old, new in zip(before, after, strict=True):
            assert_array_equal(new, old)

    def test_through_a_learners_query(self, strategy):
        _, pool, source, labelled = world()
        learner = ActiveLearner(
            LogisticRegression(), query_strategy=strategy, X_training=labelled, y_training=np.arange(6) % 2
        )
        picks, rows = learner.query(pool, n_instances=3, X_source=source)[:2]
        assert_array_equal(picks, picks_of(strategy(learner, pool, 3, X_source=source)))
        assert_array_equal(rows, pool[picks])
        learner.teach(rows, [0, 1, 0])  # what was picked is labelled now, and stays in the target sample
        left = np.delete(pool, picks, axis=0)
        later = picks_of(strategy(learner, left, 5, X_source=source))
        removals = Removals(left, np.vstack([labelled, rows]), source)
        if strategy is mmd_sampling:
            assert_greedy_removal(later, removals)
        else:
            assert_greedy_mixture(later, removals, 0.5)

    def test_a_bare_estimator_and_float32(self, strategy):
        _, pool, source, _ = world(0)
        expected = picks_of(strategy(ActiveLearner(LogisticRegression()), pool, 6, X_source=source))
        assert_array_equal(picks_of(strategy(LogisticRegression(), pool, 6, X_source=source)), expected)
        single = strategy(LogisticRegression(), np.float32(pool), 6, X_source=np.float32(source))
        assert_array_equal(picks_of(single), expected)

    def test_far_from_the_origin(self, strategy):
        learner, pool, source, _ = world(0)
        pool, source = (np.round(part * 64) / 64 for part in (pool, source))  # exact in float32 also far away
        expected = picks_of(strategy(learner, pool, 6, X_source=source))
        assert_array_equal(picks_of(strategy(learner, pool + 300, 6, X_source=source + 300)), expected)

    def test_refusals(self, strategy):
        learner, pool, source, _ = world()
        with pytest.raises(ValueError, match="X_source") as error:
            strategy(learner, pool, 2)
        assert "profile" in str(error.value)
        with pytest.raises(ValueError, match="41"):
            strategy(learner, pool, 41, X_source=source)
