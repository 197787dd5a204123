"""Greedy choices against plain loops over all pairs."""

from functools import partial

import numpy as np
import pytest
import torch

import skal.numerics.greedy as greedy
from skal.numerics.greedy import d2_sampling, farthest_first, greedy_coverage, nearest_squared, squared_distances


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
    first = None if n_labelled else 7
    picks = farthest_first(X, 12, nearest_squared(X, labelled), first)
    chosen = []
    for _ in range(12):
        centers = torch.cat([labelled, X[chosen]])
        distance = pairwise(X, centers).amin(1) if len(centers) else torch.eye(60, dtype=X.dtype)[7]
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    assert picks.tolist() == chosen


def test_farthest_first_of_points_that_coincide_are_distinct():
    X = torch.ones(5, 2)
    assert sorted(farthest_first(X, 5, nearest_squared(X, X[:1])).tolist()) == [0, 1, 2, 3, 4]


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


def gaussian(squared):
    return torch.exp(-squared)


def ball(squared, radius):
    return (squared <= radius**2).to(squared.dtype)


@pytest.mark.parametrize("kernel", [gaussian, partial(ball, radius=1.5)], ids=["gaussian", "ball"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_greedy_coverage(kernel, weighted, begun, kept, monkeypatch):
    monkeypatch.setattr(greedy, "_ROWS", 16)
    monkeypatch.setattr(greedy, "_AT_ONCE", 3)
    monkeypatch.setattr(greedy, "_KEPT", 1 << 30 if kept else 0)
    for seed in range(4):
        X = points(seed, 70, D=3, copies=4)
        rng = np.random.default_rng(seed)
        weights = torch.from_numpy(rng.integers(0, 4, 70).astype(float)) if weighted else None
        covered = kernel(pairwise(X, points(seed + 50, 5, D=3))).amax(1) if begun else None
        picks = greedy_coverage(X, 15, lambda squared: kernel(squared.clone()), weights, covered)
        similarity = kernel(pairwise(X, X))
        w = torch.ones(70, dtype=X.dtype) if weights is None else weights
        before = torch.zeros(70, dtype=X.dtype) if covered is None else covered
        for pick in picks:
            gains = (w[:, None] * (similarity - before[:, None]).clamp(min=0)).sum(0)
            gains[picks[: picks.tolist().index(pick)]] = -1
            assert gains[pick] >= gains.max() - 1e-10
            before = torch.maximum(before, similarity[:, pick])
        assert len(set(picks.tolist())) == 15


def test_of_equally_good_candidates_the_first_is_chosen():
    X = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    assert greedy_coverage(X, 4, partial(ball, radius=1.0)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("in_half_precision", [False, True])
@pytest.mark.parametrize("scale", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("kernel", [gaussian, partial(ball, radius=8.0)], ids=["gaussian", "ball"])
def test_no_candidate_adds_more_than_its_bound(kernel, scale, in_half_precision, monkeypatch):
    monkeypatch.setattr(greedy, "_half_precision_is_fast", lambda: in_half_precision)
    monkeypatch.setattr(greedy, "_ROWS", 64)
    X = (scale * points(0, 150, D=40, copies=20)).float()
    weights, covered = torch.from_numpy(np.random.default_rng(1).random((2, 150))).float()
    bounds = greedy._gain_bounds(X, lambda squared: kernel(squared / scale**2), weights, covered)
    similarity = kernel(pairwise(X.double(), X.double()) / scale**2)
    gains = weights.double() @ (similarity - covered[:, None]).clamp(min=0)
    assert (bounds >= gains).all()


def test_an_isolated_point_covers_itself_wholly():
    X = torch.nn.functional.normalize(points(0, 200, D=256).float())
    assert greedy_coverage(X, 200, lambda squared: torch.exp(squared / -1e-8)).tolist() == list(range(200))


def test_equal_candidates_are_not_all_computed_at_each_pick(monkeypatch):
    monkeypatch.setattr(greedy, "_AT_ONCE", 16)
    computed = []
    of = greedy._Similarities.of
    monkeypatch.setattr(greedy._Similarities, "of", lambda self, rows: computed.append(len(rows)) or of(self, rows))
    isolated = torch.nn.functional.normalize(points(0, 1000, D=64).float())
    greedy_coverage(isolated, 50, partial(ball, radius=0.3))
    assert sum(computed) <= 1000 + 2 * 50 * 16  # each once, and a few at each pick


def test_picks_do_not_depend_on_what_the_processor_is_fast_at(monkeypatch):
    X = torch.nn.functional.normalize(points(0, 300, D=64).float())
    picks = []
    for is_fast in (False, True):
        monkeypatch.setattr(greedy, "_half_precision_is_fast", lambda is_fast=is_fast: is_fast)
        picks.append(greedy_coverage(X, 40, gaussian).tolist())
    assert picks[0] == picks[1]
