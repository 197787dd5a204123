"""Greedy coverage against plain loops over all pairs, exact and estimated on a sample."""

from functools import partial

import numpy as np
import pytest
import torch

from skal.numerics import coverage
from skal.numerics.coverage import greedy_coverage, sampled_coverage
from tests.numerics.test_greedy import pairwise, points


def gaussian(squared):
    return torch.exp(-squared)


def ball(squared, radius):
    return (squared <= radius**2).to(squared.dtype)


@pytest.mark.parametrize("kernel", [gaussian, partial(ball, radius=1.5)], ids=["gaussian", "ball"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_greedy_coverage(kernel, weighted, begun, cached, monkeypatch):
    monkeypatch.setattr(coverage, "_ROWS", 16)
    monkeypatch.setattr(coverage, "_AT_ONCE", 3)
    monkeypatch.setattr(coverage, "_CACHED", 1 << 30 if cached else 0)
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
    monkeypatch.setattr(coverage, "_half_precision_is_fast", lambda: in_half_precision)
    monkeypatch.setattr(coverage, "_ROWS", 64)
    X = (scale * points(0, 150, D=40, copies=20)).float()
    weights, covered = torch.from_numpy(np.random.default_rng(1).random((2, 150))).float()
    bounds = coverage._gain_bounds(X, lambda squared: kernel(squared / scale**2), weights, covered)
    similarity = kernel(pairwise(X.double(), X.double()) / scale**2)
    gains = weights.double() @ (similarity - covered[:, None]).clamp(min=0)
    assert (bounds >= gains).all()


def test_an_isolated_point_covers_itself_wholly():
    X = torch.nn.functional.normalize(points(0, 200, D=256).float())
    assert greedy_coverage(X, 200, lambda squared: torch.exp(squared / -1e-8)).tolist() == list(range(200))


def test_equal_candidates_are_not_all_computed_at_each_pick(monkeypatch):
    monkeypatch.setattr(coverage, "_AT_ONCE", 16)
    computed = []
    of = coverage._Similarities.of
    monkeypatch.setattr(coverage._Similarities, "of", lambda self, rows: computed.append(len(rows)) or of(self, rows))
    isolated = torch.nn.functional.normalize(points(0, 1000, D=64).float())
    greedy_coverage(isolated, 50, partial(ball, radius=0.3))
    assert sum(computed) <= 2 * 1000 + 2 * 50 * 16  # each twice, and a few at each pick


def test_where_bounds_say_little_gains_are_brought_up_to_date(monkeypatch):
    """Points that are nearly as far from each other: computed anew at each pick, they would take 30 x 400 rows."""
    monkeypatch.setattr(coverage, "_AT_ONCE", 8)
    computed = []
    of = coverage._Similarities.of
    monkeypatch.setattr(coverage._Similarities, "of", lambda self, rows: computed.append(len(rows)) or of(self, rows))
    X = torch.nn.functional.normalize(points(0, 400, D=64))
    picks = greedy_coverage(X, 30, gaussian)
    assert sum(computed) < 8 * 400
    similarity = gaussian(pairwise(X, X))
    covered = torch.zeros(400, dtype=X.dtype)
    for pick in picks:
        gains = (similarity - covered).clamp(min=0).sum(1)
        assert gains[pick] >= gains.max() - 1e-10
        covered = torch.maximum(covered, similarity[pick])


def test_picks_do_not_depend_on_what_the_processor_is_fast_at(monkeypatch):
    X = torch.nn.functional.normalize(points(0, 300, D=64).float())
    picks = []
    for is_fast in (False, True):
        monkeypatch.setattr(coverage, "_half_precision_is_fast", lambda is_fast=is_fast: is_fast)
        picks.append(greedy_coverage(X, 40, gaussian).tolist())
    assert picks[0] == picks[1]


# Estimated on a sample ------------------------------------------------------------------------------------------------


def surface(n, seed=0):
    """Points of length 1 in ten clusters near a surface of few dimensions, in periodic order."""
    rng = np.random.default_rng(seed)
    latent = 2 * rng.normal(size=(10, 8))[np.arange(n) % 10] + rng.normal(size=(n, 8))
    return torch.nn.functional.normalize(torch.from_numpy(np.maximum(latent @ rng.normal(size=(8, 40)), 0)).float())


def coverage_by(X, picks, kernel, weights=None):
    best = kernel(pairwise(X, X[picks]).double()).amax(1)
    return float(np.average(best, weights=weights))


@pytest.mark.parametrize("n", [30, 40])
def test_of_few_points_it_is_exact(n):
    X, generator = points(0, n), np.random.RandomState(0)
    exact = greedy_coverage(X, 9, gaussian)
    assert sampled_coverage(X, 9, gaussian, max_reference=40, generator=generator).tolist() == exact.tolist()
    assert generator.random_sample() == np.random.RandomState(0).random_sample()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("width", "least"), [(0.3, 0.9), (1.0, 0.98)])
def test_a_sample_of_a_tenth_covers_what_exact_choices_cover(width, least, weighted):
    X = surface(4000)
    weights = torch.rand(4000, generator=torch.Generator().manual_seed(0)) ** 4 if weighted else None

    def kernel(squared):
        return torch.exp(squared / -(width**2))

    exact = coverage_by(X, greedy_coverage(X, 20, kernel, weights), kernel, weights)
    for seed in range(3):
        options = {"max_reference": 400, "generator": np.random.RandomState(seed)}
        picks = sampled_coverage(X, 20, kernel, weights, **options)
        assert coverage_by(X, picks, kernel, weights) > least * exact


def test_what_covers_already_counts():
    X = surface(1000)
    covered = gaussian(4 * pairwise(X, X[::10])).amax(1)  # one of the ten clusters
    picks = sampled_coverage(
        X,
        9,
        lambda squared: gaussian(4 * squared),
        covered=covered,
        max_reference=200,
        generator=np.random.RandomState(0),
    )
    assert not (picks % 10 == 0).any()


@pytest.mark.parametrize("n_picks", [1, 60, 150, 300])
def test_picks_are_distinct_beyond_the_sample(n_picks):
    for kernel in (gaussian, partial(ball, radius=0.2), partial(ball, radius=9.0)):
        draws = [
            sampled_coverage(surface(300), n_picks, kernel, max_reference=50, generator=np.random.RandomState(1))
            for _ in range(2)
        ]
        assert len(set(draws[0].tolist())) == n_picks
        np.testing.assert_array_equal(*draws)


def test_what_is_left_is_found_by_another_sample():
    """A thousand points in one place and ten isolated ones: the first sample of ten holds few of these."""
    X = torch.cat([torch.zeros(1000, 1), 5 + torch.arange(10.0)[:, None]])
    options = {"max_reference": 10, "generator": np.random.RandomState(0)}
    picks = sampled_coverage(X, 11, partial(ball, radius=0.1), **options)
    assert sorted(X[picks, 0].tolist()) == [0, *range(5, 15)]


def test_an_isolated_point_has_its_own_weight():
    """Not that of the points it was drawn for: the heaviest of the sample come first."""
    weights = 1 + torch.rand(500, generator=torch.Generator().manual_seed(0))
    X = 10 * torch.arange(500.0)[:, None]
    picks = sampled_coverage(
        X, 30, partial(ball, radius=1.0), weights, max_reference=100, generator=np.random.RandomState(0)
    )
    assert (weights[picks].diff() <= 0).all()


def test_estimated_gains_are_unbiased():
    X, weights = surface(200), torch.rand(200, generator=torch.Generator().manual_seed(0))
    similarity, covered = gaussian(4 * pairwise(X, X)).numpy(), 0.8 * weights.flip(0).numpy()
    left = weights.numpy() * (1 - covered)
    estimates = []
    for seed in range(2000):
        rows, counts = coverage._drawn(left, 20, np.random.RandomState(seed))
        assert counts.sum() == 20
        rises = np.maximum(similarity[:3, rows] - covered[rows], 0)
        estimates.append(rises @ (counts / (1 - covered[rows])) * left.sum() / 20)
    exact = np.maximum(similarity[:3] - covered, 0) @ weights.numpy()
    error = np.std(estimates, axis=0) / np.sqrt(2000)
    assert (np.abs(np.mean(estimates, axis=0) - exact) < 4 * error).all()


def test_only_what_is_left_is_drawn():
    left = np.zeros(50)
    left[[3, 30]] = 1e-3, 1.0
    rows, counts = coverage._drawn(left, 10_000, np.random.RandomState(0))
    assert rows.tolist() == [3, 30]
    np.testing.assert_allclose(counts, [10, 9990], atol=1)


def test_points_in_periodic_order_are_drawn_evenly():
    rows, counts = coverage._drawn(np.ones(10_000), 1000, np.random.RandomState(0))
    assert np.bincount(rows % 10, counts).min() > 60
