"""The inputs of a strategy in one query."""

import numpy as np
import pytest
from modAL.models import ActiveLearner, Committee
from sklearn.linear_model import LogisticRegression

import skal.query._context
from skal.active import Learner
from skal.query._context import Context

X, Y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2


def taught(n_labels):
    learner = Learner(LogisticRegression(), X, Y)
    learner.labelled = np.arange(n_labels)
    if n_labels:
        learner.fit()
    return learner


def test_without_labels_there_are_no_probabilities():
    context = Context(taught(0), X, 3)
    assert context.proba is None
    assert context.X_labelled is context.y_labelled is None
    assert context.n_labels == 0
    np.testing.assert_array_equal(context.known_proba, np.ones((30, 1)))
    assert context.features().labelled.shape == (0, 3)


def test_a_generator_is_no_pool():
    with pytest.raises(ValueError, match="given as a generator, which has no length; pass a list or an array"):
        Context(LogisticRegression(), (row for row in X), 3)


def test_a_committee_predicts_for_lists():
    committee = Committee([ActiveLearner(LogisticRegression(C=C), X_training=X[:8], y_training=Y[:8]) for C in (1, 9)])
    np.testing.assert_array_equal(Context(committee, X.tolist(), 3).proba, committee.predict_proba(X))


def test_labelled_rows_and_probabilities():
    learner = taught(8)
    context = Context(learner, X[8:], 3)
    np.testing.assert_array_equal(context.X_labelled, X[:8])
    np.testing.assert_array_equal(context.y_labelled, Y[:8])
    assert (context.n, context.n_labels) == (22, 8)
    np.testing.assert_array_equal(context.proba, learner.predict_proba(X[8:]))
    features = context.features(normalized=True)
    np.testing.assert_allclose(np.linalg.norm(features.joined.whole(), axis=1), 1)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    from_mean = unit[8:] - unit.mean(axis=0)
    np.testing.assert_allclose(features.pool.whole(), from_mean / np.linalg.norm(from_mean, axis=1, keepdims=True))
    np.testing.assert_array_equal(context.rows(np.array([2, 0])), X[[10, 8]])


def test_probabilities_are_computed_once():
    class Counting(LogisticRegression):
        calls = 0

        def predict_proba(self, X):
            Counting.calls += 1
            return super().predict_proba(X)

    context = Context(Counting().fit(X, Y), X, 1)
    assert context.proba is context.proba is context.known_proba
    assert Counting.calls == 1


def test_features_that_are_given_are_not_copied():
    pool = X.copy()
    pool.flags.writeable = False
    features = Context(LogisticRegression(), pool, 1).features().pool
    assert features.whole().numpy().ctypes.data == pool.ctypes.data


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labelled_rows_of_another_precision_are_compared_in_that_of_the_pool(dtype):
    learner = taught(8)
    features = Context(learner, X[8:].astype(dtype), 3).features()
    assert features.labelled.numpy().dtype == features.joined.whole().numpy().dtype == dtype


def test_many_rows_of_features_are_scored_in_blocks(monkeypatch):
    monkeypatch.setattr(skal.query._context, "_AT_ONCE", 7)
    learner, sizes = taught(8), []
    context = Context(learner, X, 3)
    scores = context.score(lambda rows: sizes.append(len(rows)) or learner.predict_proba(rows))
    assert sizes == [7, 7, 7, 7, 2]
    np.testing.assert_allclose(scores, learner.predict_proba(X))


@pytest.mark.parametrize("n_instances", [0, 31, 1.5, True, "2", None])
def test_impossible_numbers_are_named(n_instances):
    with pytest.raises(ValueError, match=f"n_instances={n_instances!r} must be an integer from 1 to 30"):
        Context(LogisticRegression(), X, n_instances)


def test_equal_scores_are_drawn_or_stay_in_order():
    scores = np.zeros(30)
    assert Context(None, X, 3).batch(scores, random_ties=False).tolist() == [0, 1, 2]
    batches = {tuple(Context(None, X, 3, seed).batch(scores)) for seed in range(5)}
    assert len(batches) == 5


def test_the_result_is_what_the_learners_modal_wants():
    class Pairs:
        def query(self, X, return_metrics=False):
            pass

    positions, scores = Context(Pairs(), X, 2).result([4, 1], [0.5, 0.2])
    assert (positions.tolist(), scores.tolist()) == ([4, 1], [0.5, 0.2])
    assert Context(Pairs(), X, 2).result([4, 1])[1].tolist() == [0, 0]
    assert Context(taught(0), X, 2).result([4, 1]).tolist() == [4, 1]
    answer = Context(ActiveLearner(LogisticRegression()), X, 2).result([4, 1])
    assert (answer[0] if isinstance(answer, tuple) else answer).tolist() == [4, 1]
