"""Diversity strategies and herding against plain versions that make every distance and every gradient."""

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from skal.query import (
    badge_sampling,
    coreset_sampling,
    entropy_sampling,
    least_confident_sampling,
    margin_sampling,
    max_herding_sampling,
    most_confident_sampling,
    probcover_sampling,
    typiclust_sampling,
    uherding_sampling,
)
from skal.query._cover import cover, label_width
from skal.query._features import Features
from skal.query.diversity import pure_radius
from skal.query.herding import tempered

X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = X_DIGITS / 16


@pytest.fixture(params=[0, 12, 60])
def learner(request):
    rows = np.argsort(Y_DIGITS[:300], kind="stable")[:: 300 // request.param] if request.param else []
    model = LogisticRegression(max_iter=3000)
    if not request.param:
        return ActiveLearner(model)
    return ActiveLearner(model, X_training=X_DIGITS[rows], y_training=Y_DIGITS[rows])


POOL = X_DIGITS[300:550]


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def pairwise(X, Y):
    return ((X[:, None] - Y[None]) ** 2).sum(axis=2)


def indices(answer):
    return answer[0] if isinstance(answer, tuple) else answer


def taught(learner):
    return np.empty((0, 64)) if learner.X_training is None else learner.X_training


def test_core_set(learner):
    picks = indices(coreset_sampling(learner, POOL, 8, random_state=3))
    chosen = [] if len(taught(learner)) else [picks[0]]
    while len(chosen) < 8:
        distance = pairwise(POOL, np.concatenate([taught(learner), POOL[chosen]])).min(axis=1)
        distance[chosen] = -1
        chosen.append(distance.argmax())
    assert picks.tolist() == chosen


def test_badge(learner):
    picks = indices(badge_sampling(learner, POOL, 8, random_state=3))
    gradients = POOL
    if len(taught(learner)):
        p = learner.predict_proba(POOL)
        p[np.arange(len(p)), p.argmax(axis=1)] -= 1
        gradients = (p[:, :, None] * POOL[:, None, :]).reshape(len(POOL), -1)
    draws = np.random.RandomState(3)
    chosen = [int((gradients**2).sum(axis=1).argmax())]
    while len(chosen) < 8:
        D2 = pairwise(gradients, gradients[chosen]).min(axis=1)
        D2[chosen] = 0
        chosen.append(int(np.searchsorted(np.cumsum(D2), draws.random_sample() * D2.sum(), side="right")))
    assert picks.tolist() == chosen


def test_typiclust(learner):
    picks = indices(typiclust_sampling(learner, POOL, 8, random_state=3))
    X = unit(np.concatenate([POOL, taught(learner)]))
    n_clusters = len(taught(learner)) + 8
    if n_clusters > 50:  # then clustered by mini-batches: the same call
        from sklearn.cluster import MiniBatchKMeans as KMeansUsed
    else:
        KMeansUsed = KMeans
    of = KMeansUsed(n_clusters, n_init=1, random_state=np.random.RandomState(3)).fit_predict(X)
    labelled = [set(np.flatnonzero(of == c)) & set(range(len(POOL), len(X))) for c in range(n_clusters)]
    empty = [c for c in range(n_clusters) if not labelled[c] and (of == c).any()]
    largest = sorted(empty, key=lambda c: -(of == c).sum())[:8]
    expected = []
    for cluster in largest:
        members = np.flatnonzero(of == cluster)
        k = max(1, min(20, len(members) // 2))
        distances = np.sqrt(pairwise(X[members], X[members]))
        nearest = np.sort(distances, axis=1)[:, 1 : k + 1]
        expected.append(members[nearest.mean(axis=1).argmin()] if len(members) > 1 else members[0])
    assert picks.tolist() == expected


def test_typiclust_where_clusters_run_out():
    X = np.random.default_rng(0).normal(size=(12, 3))
    picks = typiclust_sampling(LogisticRegression(), X, 12, max_clusters=3, random_state=0)
    assert sorted(picks.tolist()) == list(range(12))
    of = KMeans(3, n_init=1, random_state=np.random.RandomState(0)).fit_predict(unit(X))
    assert len(set(of[picks[:3]])) == 3


def test_probcover(learner):
    delta = 0.6
    picks = indices(probcover_sampling(learner, POOL, 8, delta=delta))
    X, labelled = unit(POOL), taught(learner)
    covers = pairwise(X, X) <= delta**2
    covered = (pairwise(X, unit(labelled)) <= delta**2).any(axis=1) if len(labelled) else np.zeros(len(X), bool)
    for i, pick in enumerate(picks):
        gains = (covers & ~covered[:, None]).sum(axis=0).astype(float)
        gains[picks[:i]] = -1
        assert gains[pick] == gains.max()
        covered |= covers[:, pick]


@pytest.mark.parametrize("purity", [1.0, 0.95, 0.5])
def test_the_radius_of_probcover_is_the_largest_that_is_pure(purity):
    X = unit(POOL)
    radius = pure_radius(torch.from_numpy(X), 10, purity, np.random.RandomState(0))
    of = KMeans(10, n_init=1, random_state=np.random.RandomState(0)).fit_predict(X)
    distances, same = np.sqrt(pairwise(X, X)), of[:, None] == of

    def share(r):
        return ((distances > r) | same).all(axis=1).mean()

    assert share(radius) >= purity
    larger = np.sort(distances[~same])
    larger = larger[np.searchsorted(larger, radius * (1 + 1e-5))]
    assert share(larger) < purity


def brute_herding(X, n, sigma, labelled, weights):
    K = np.exp(-pairwise(X, X) / sigma**2)
    covered = np.exp(-pairwise(X, labelled) / sigma**2).max(axis=1) if len(labelled) else np.zeros(len(X))
    chosen = []
    for _ in range(n):
        gains = (weights[:, None] * np.maximum(K - covered[:, None], 0)).mean(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, K[:, chosen[-1]])
    return chosen


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_max_herding(learner, sigma):
    labelled = unit(taught(learner)) if len(taught(learner)) else taught(learner)
    expected = brute_herding(unit(POOL), 8, sigma, labelled, np.ones(len(POOL)))
    assert indices(max_herding_sampling(learner, POOL, 8, sigma=sigma)).tolist() == expected


def test_uherding(learner):
    picks = indices(uherding_sampling(learner, POOL, 8, random_state=3)).tolist()
    X, y = taught(learner), learner.y_training
    if not len(X):
        assert picks == brute_herding(unit(POOL), 8, 1.0, X, np.ones(len(POOL)))
        return
    distances = pairwise(unit(X), unit(X)) + 100 * np.eye(len(X))
    sigma = np.sqrt(distances.min())
    assert label_width(torch.from_numpy(unit(X))) == pytest.approx(sigma)
    T = 1.0
    if np.bincount(y).min() >= 3:
        folds = StratifiedKFold(3, shuffle=True, random_state=np.random.RandomState(3))
        proba = cross_val_predict(LogisticRegression(max_iter=3000), X, y, cv=folds, method="predict_proba")
        grid = np.exp(np.linspace(-3, 3, 6001))
        T = grid[np.argmin([-np.log(tempered(proba, t)[np.arange(len(y)), y]).mean() for t in grid])]
        assert not 0.9 < T < 1.1
    p = np.sort(tempered(learner.predict_proba(POOL), T), axis=1)
    assert picks == brute_herding(unit(POOL), 8, sigma, unit(X), 1 - (p[:, -1] - p[:, -2]))


def test_an_image_that_is_labelled_twice_leaves_the_usual_width():
    for seed in range(20):
        X = torch.nn.functional.normalize(torch.from_numpy(np.random.default_rng(seed).random((30, 512))).float())
        assert label_width(torch.cat([X, X[7:8]])) == 1.0


@pytest.mark.parametrize("scale", [0.0, 1e-300])
def test_certainty_of_everything_leaves_coverage(scale):
    features = Features(torch.from_numpy(unit(POOL)), torch.from_numpy(unit(POOL[:3])), torch.zeros(0), 2)
    weights = np.random.default_rng(0).random(len(POOL))
    expected = cover(features, 8, 1.0, weights if scale else None)
    assert cover(features, 8, 1.0, scale * weights).tolist() == expected.tolist()


KINDS = {
    least_confident_sampling: lambda p: 1 - p[:, -1],
    margin_sampling: lambda p: 1 - (p[:, -1] - p[:, -2]),
    entropy_sampling: lambda p: -(p * np.log(p)).sum(axis=1),
    most_confident_sampling: lambda p: p[:, -1] - p[:, -1].min(),
}


@pytest.mark.parametrize("strategy", KINDS, ids=lambda strategy: strategy.__name__)
def test_any_score_can_be_covered(strategy, learner):
    picks = indices(strategy(learner, POOL, 8, batch="herding", random_state=0)).tolist()
    X = taught(learner)
    if not len(X):
        assert picks == brute_herding(unit(POOL), 8, 1.0, X, np.ones(len(POOL)))
        return
    sigma = np.sqrt((pairwise(unit(X), unit(X)) + 100 * np.eye(len(X))).min())
    weights = KINDS[strategy](np.sort(learner.predict_proba(POOL), axis=1))
    assert picks == brute_herding(unit(POOL), 8, sigma, unit(X), weights)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (margin_sampling, {"batch": "all"}, "batch='all' is not one of"),
        (max_herding_sampling, {"sigma": 0}, "sigma=0 is not a positive width"),
        (probcover_sampling, {"delta": -1}, "delta=-1 is not a positive radius"),
        (probcover_sampling, {"purity": 0}, "purity=0 is not a share"),
    ],
)
def test_options_are_checked(strategy, options, message):
    with pytest.raises(ValueError, match=message):
        strategy(LogisticRegression(), POOL, 2, **options)
