"""Batches from scores: coverage compared with the kernel of all pairs, and the width of the kernel."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from skal.active import Learner
from skal.numerics.points import Points
from skal.query import entropy_sampling, least_confident_sampling, margin_sampling, most_confident_sampling
from skal.query._batch import cover, kernel_width, top
from skal.query._features import Features
from tests.reference import read_from_mean, unit
from tests.reference.herding import plain_cover, plain_width

DRAWS = np.random.RandomState(0)


def rows(n, D=20, seed=0):
    return np.random.default_rng(seed).random((n, D))


def tensor(X):
    return torch.from_numpy(unit(X))


def test_the_highest_scores_come_first():
    scores = np.array([0.1, 0.7, 0.3, 0.7])
    assert top(scores, 3).tolist() == [1, 3, 2]
    draws = {tuple(top(scores, 3, np.random.RandomState(seed))) for seed in range(20)}
    assert draws == {(1, 3, 2), (3, 1, 2)}


@pytest.mark.parametrize("duplicates", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 9, 60])
def test_the_width_is_the_least_distance_left(n, duplicates):
    X = rows(n) if n else np.empty((0, 20))
    assert kernel_width(tensor(X) if n else torch.empty(0, 20), duplicates) == pytest.approx(
        plain_width(unit(X) if n else X, duplicates)
    )


def test_the_width_of_many_labels_is_found_block_by_block():
    X = unit(rows(1500, 6))
    squared = np.maximum(2 - 2 * X @ X.T, 0)[np.triu_indices(1500, 1)]
    assert kernel_width(torch.from_numpy(X), 0.5) == pytest.approx(np.sqrt(np.sort(squared)[375]), rel=1e-6)


@pytest.mark.parametrize("n", [3, 10, 40])
@pytest.mark.parametrize("offset", [0.0, 0.02, 0.05])
def test_a_near_duplicate_does_not_set_the_width(n, offset):
    """With the paper's rule it does, and the batch is that of margin sampling."""
    X = rows(n)
    twin = X[:1] + offset * rows(1, seed=1)
    paper, ours = (kernel_width(tensor(X), duplicates) for duplicates in (0.0, 0.1))
    both = tensor(np.concatenate([X, twin]))
    assert 0.95 * paper < kernel_width(both) < 1.5 * ours
    if offset > 0:
        assert kernel_width(both, 0.0) < 0.3 * paper


def test_the_width_falls_as_labels_accumulate():
    widths = [kernel_width(tensor(rows(n, 4))) for n in (5, 20, 80, 320)]
    assert (np.diff(widths) < 0).all()


def test_images_labelled_twice_leave_the_usual_width():
    for seed in range(20):
        X = torch.nn.functional.normalize(torch.from_numpy(rows(30, 512, seed)).float())
        assert kernel_width(torch.cat([X, X[7:8]]), 0.0) == 1.0
        assert kernel_width(torch.cat([X, X])) == 1.0


@pytest.mark.parametrize("scale", [0.0, 1e-300])
def test_certainty_of_everything_leaves_coverage(scale):
    X = rows(60)
    features = Features(Points([tensor(X)]), tensor(X[:3]), torch.zeros(0), 2)
    weights = np.random.default_rng(0).random(60)
    expected = cover(features, 8, 1.0, DRAWS, weights if scale else None)
    assert cover(features, 8, 1.0, DRAWS, scale * weights).tolist() == expected.tolist()


SCORES = {
    least_confident_sampling: lambda p: 1 - p[:, -1],
    margin_sampling: lambda p: 1 - (p[:, -1] - p[:, -2]),
    entropy_sampling: lambda p: -(p * np.log(p)).sum(axis=1),
    most_confident_sampling: lambda p: p[:, -1] - p[:, -1].min(),
}


@pytest.mark.parametrize("n_labels", [0, 12, 30])
@pytest.mark.parametrize("strategy", SCORES, ids=lambda strategy: strategy.__name__)
def test_any_score_can_be_covered(strategy, n_labels):
    X, y = rows(90), np.arange(90) % 3
    X[np.arange(90), y] += 0.5
    learner = Learner(LogisticRegression(), X, y)
    learner.labelled = np.arange(n_labels)
    pool, labelled = read_from_mean(X[30:], X[:n_labels])
    weights, width = np.ones(60), 1.0
    if n_labels:
        learner.fit()
        weights, width = SCORES[strategy](np.sort(learner.predict_proba(X[30:]), axis=1)), plain_width(labelled)
    picks = strategy(learner, X[30:], 8, batch="herding", random_state=0)
    assert picks.tolist() == plain_cover(pool, 8, width, labelled, weights)
