"""Greedy choices against plain loops over all pairs."""

import numpy as np
import pytest
import torch

from skal.numerics.greedy import d2_sampling, farthest_first, nearest_squared, squared_distances
from skal.numerics.points import Points


def points(seed, n, D=6, copies=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    X[rng.integers(0, max(n, 1), copies)] = X[:1]
    return torch.from_numpy(X)


def pairwise(X, Y):
    return ((X[:, None] - Y[None]) ** 2).sum(2)


def test_distances():
    X, Y = points(0, 30), points(1, 20)
    torch.testing.assert_close(squared_distances(X, Y), pairwise(X, Y))
    torch.testing.assert_close(nearest_squared(X, Y), pairwise(X, Y).amin(1))
    assert torch.isinf(nearest_squared(X, Y[:0])).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_labelled", [0, 4])
def test_farthest_first(seed, n_labelled):
    X, labelled = points(seed, 60, copies=5), points(seed + 100, n_labelled)
    picks = farthest_first(X, 12, labelled, first=7)
    chosen = []
    for _ in range(12):
        centers = torch.cat([labelled, X[chosen]])
        distance = pairwise(X, centers).amin(1) if len(centers) else torch.eye(60, dtype=X.dtype)[7]
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    assert picks.tolist() == chosen


def test_farthest_first_of_points_that_coincide_are_distinct():
    X = torch.ones(5, 2)
    assert sorted(farthest_first(X, 5, X[:1]).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "seed", [5, 8, 28]
)  # it did not end where more points were equally far than are updated at once
def test_farthest_first_of_many_equally_far_points(seed):
    X = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (200, 2)).astype(float))
    distance, chosen = pairwise(X, X[:1])[:, 0], []
    for pick in farthest_first(X, 80, X[:1]).tolist():
        assert pick == int(distance.argmax())
        chosen.append(pick)
        distance = torch.minimum(distance, pairwise(X, X[[pick]])[:, 0])
        distance[chosen] = -1


def test_farthest_first_of_distances_that_overflow_are_distinct():
    X = 1e25 * points(0, 8).float()
    assert sorted(farthest_first(X, 8, X[:1]).tolist()) == list(range(8))


def test_farthest_first_reads_all_points_once(monkeypatch):
    passes = []
    each = Points.each
    monkeypatch.setattr(Points, "each", lambda self, function: (passes.append(len(self)), each(self, function))[1])
    X = points(0, 1500)
    farthest_first(Points([X]), 20, X[:3])
    assert passes.count(1500) == 1


@pytest.mark.parametrize("seed", range(5))
def test_d2_sampling_with_the_same_draws(seed):
    X = points(seed, 50, copies=6)
    picks = d2_sampling(lambda i: X @ X[i], (X * X).sum(1), 10, np.random.RandomState(seed))
    draws = np.random.RandomState(seed)
    chosen = [int((X**2).sum(1).argmax())]
    for _ in range(9):
        D2 = pairwise(X, X[chosen]).amin(1).numpy()
        D2[chosen] = 0
        chosen.append(int(np.searchsorted(np.cumsum(D2), draws.random_sample() * D2.sum(), side="right")))
    assert picks.tolist() == chosen


def test_d2_sampling_of_points_that_coincide_is_distinct():
    X = torch.ones(6, 2)
    picks = d2_sampling(lambda i: X @ X[i], (X * X).sum(1), 6, np.random.RandomState(0))
    assert sorted(picks.tolist()) == list(range(6))
