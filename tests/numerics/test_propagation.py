"""Labels that spread over a graph, and class shares that follow predictions."""

import numpy as np
import pytest

from skal.numerics.propagation import align, propagate
from tests.reference.numerics.propagation import plain_align, plain_propagate


@pytest.mark.parametrize("n_neighbors", [1, 3, 50])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_scores_are_the_solution_of_the_linear_system(n_neighbors, alpha):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6))
    seeds = np.zeros((40, 3))
    seeds[[1, 5, 9, 20], [0, 1, 2, 0]] = [1.0, 1.0, 0.5, 2.0]
    expected = plain_propagate(X, seeds, n_neighbors, alpha)
    np.testing.assert_allclose(propagate(X, seeds, n_neighbors=n_neighbors, alpha=alpha), expected, atol=1e-4)


def test_a_share_of_nearly_one_ends():
    X, seeds = np.random.default_rng(0).normal(size=(60, 5)), np.zeros((60, 2))
    seeds[[0, 1], [0, 1]] = 1
    assert np.isfinite(propagate(X, seeds, alpha=1 - 1e-7)).all()


def test_blocks_change_nothing():
    X = np.random.default_rng(0).normal(size=(2100, 4))
    seeds = np.zeros((2100, 2))
    seeds[[0, 2099], [0, 1]] = 1.0
    whole = propagate(X, seeds)
    order = np.random.default_rng(1).permutation(2100)
    np.testing.assert_allclose(propagate(X[order], seeds[order]), whole[order], atol=1e-6)


def test_by_hand_on_a_path_of_three():
    """a - b - c by single nearest neighbours: equal weights, so S holds 1/sqrt(2), and F solves three equations."""
    X = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # cosines: ab = bc = .707, ac = 0
    a, s = 0.5, 1 / np.sqrt(2)
    b = (1 - a) * a * s / (1 - 2 * (a * s) ** 2)
    expected = np.array([[(1 - a) + a * s * b], [b], [a * s * b]])
    np.testing.assert_allclose(propagate(X, [[1.0], [0.0], [0.0]], n_neighbors=2, alpha=a), expected, atol=1e-4)


def test_what_no_path_joins_to_a_label_has_no_score():
    X = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]])
    assert propagate(X, [[1.0], [0.0], [0.0], [0.0]], n_neighbors=1)[2:].max() == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [({"alpha": 1.0}, "alpha=1.0"), ({"alpha": -0.1}, "alpha=-0.1"), ({"n_neighbors": 0}, "n_neighbors=0")],
)
def test_parameters_out_of_range_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        propagate(np.eye(3), np.eye(3), **options)


def test_bad_tables_are_named():
    with pytest.raises(ValueError, match=r"X and seeds .* \(3, 3\) and \(2, 2\)"):
        propagate(np.eye(3), np.eye(2))
    with pytest.raises(ValueError, match=r"seeds contains -1.0, but"):
        propagate(np.eye(2), -np.eye(2))


@pytest.mark.parametrize("n_prior", [0.0, 5.0, 1e9])
def test_shares_are_those_of_the_plain_iteration(n_prior):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), 60)
    prior = np.array([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(
        align(proba, prior=prior, n_prior=n_prior), plain_align(proba, prior, n_prior), atol=1e-4
    )


def test_a_strong_prior_leaves_probabilities_as_they_are():
    proba = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    np.testing.assert_allclose(align(proba, n_prior=1e9), proba, atol=1e-6)


def test_shares_of_two_normal_classes_are_recovered():
    """Posteriors under equal shares of two overlapping normal classes; 80 % of the rows are of the first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000) + np.where(rng.random(20_000) < 0.8, -1.0, 1.0)
    posterior = 1 / (1 + np.exp(2 * x))
    aligned = align(np.column_stack([posterior, 1 - posterior]))
    assert aligned[:, 0].mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"prior": [1.0]}, "prior"), ({"prior": [1.0, 0.0]}, "prior"), ({"n_prior": -1}, "n_prior=-1")],
)
def test_bad_shares_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        align(np.full((2, 2), 0.5), **options)
