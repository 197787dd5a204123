"""TypiClust when clusters run out, and the radius of ProbCover."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from skal.query import probcover_sampling, typiclust_sampling
from skal.query.probcover import pure_radius
from tests.reference import pairwise, read_from_mean, unit
from tests.reference.probcover import pure_radius_of


def test_typiclust_where_clusters_run_out():
    X = np.random.default_rng(0).normal(size=(12, 3))
    picks = typiclust_sampling(LogisticRegression(), X, 12, max_clusters=3, random_state=0)
    assert sorted(picks.tolist()) == list(range(12))
    clusters = KMeans(3, n_init=1, random_state=np.random.RandomState(0)).fit_predict(unit(X))
    assert len(set(clusters[picks[:3]])) == 3


@pytest.mark.parametrize("purity", [1.0, 0.95, 0.5])
def test_the_radius_is_the_largest_that_is_pure(purity):
    X = unit(np.random.default_rng(0).random((200, 9)))
    radius = pure_radius(torch.from_numpy(X), 10, purity, np.random.RandomState(0))
    clusters = KMeans(10, n_init=1, random_state=np.random.RandomState(0)).fit_predict(X)
    distances, same = np.sqrt(pairwise(X, X)), clusters[:, None] == clusters

    def share(r):
        return ((distances > r) | same).all(axis=1).mean()

    assert share(radius) >= purity
    larger = np.sort(distances[~same])
    assert share(larger[np.searchsorted(larger, radius * (1 + 1e-5))]) < purity
    assert radius == pytest.approx(pure_radius_of(X, clusters, purity), rel=1e-5)


def test_balls_of_a_given_radius():
    X = unit(np.random.default_rng(1).random((120, 5)))
    picks = probcover_sampling(LogisticRegression(), X, 6, delta=0.4)
    X, _ = read_from_mean(X, X[:0])
    covers, covered = pairwise(X, X) <= 0.4**2, np.zeros(120, bool)
    for i, pick in enumerate(picks):
        gains = (covers & ~covered[:, None]).sum(axis=0)
        gains[picks[:i]] = -1
        assert gains[pick] == gains.max()
        covered |= covers[:, pick]


def test_a_single_cluster_is_pure_everywhere():
    X = torch.from_numpy(unit(np.random.default_rng(1).random((20, 5))))
    assert pure_radius(X, 1, 0.95, np.random.RandomState(0)) == 2.0


def test_the_radius_of_many_points_is_that_of_clusters_of_a_sample():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(3, 20))[np.arange(400) % 3] + 0.02 * rng.normal(size=(400, 20)))
    every, sampled = (pure_radius(X, 3, 0.95, np.random.RandomState(0), most) for most in (400, 60))
    assert sampled == every
