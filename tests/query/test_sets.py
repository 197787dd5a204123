"""Random sets and the best of them, compared with cases worked by hand."""

import numpy as np
import pytest
from modAL.models import ActiveLearner, Committee
from sklearn.linear_model import LogisticRegression

from skal.query import emoc_set_sampling, set_sampling
from skal.query.sets import random_sets


class Known:
    """A classifier with given probabilities. Each row of the pool is its own index."""

    def __init__(self, proba):
        self.proba = np.asarray(proba, dtype=float)
        self.classes_ = np.array(list("abcdefg"))[: self.proba.shape[1]]

    def predict_proba(self, X):
        return self.proba[np.asarray(X)[:, 0].astype(int)]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def output_change(self, reference, X, *, labels, output):
        """10 times the index of the label, plus the index of the row."""
        assert output == "logit"
        return 10.0 * np.searchsorted(self.classes_, labels) + np.asarray(X)[:, 0]


def pool(n):
    return np.arange(n, dtype=float)[:, None]


def test_sets_are_of_one_group_and_distinct():
    groups = np.repeat([0, 1, 2, 3], [3, 10, 25, 4])
    sets = random_sets(groups, 4, 400, random_state=0)
    assert sets.shape == (400, 4)
    assert all(len(set(members)) == 4 for members in sets.tolist())
    of_set = groups[sets]
    assert (of_set == of_set[:, :1]).all()
    assert set(of_set[:, 0]) == {1, 2, 3}  # three images cannot form a set of four
    counts = np.bincount(of_set[:, 0])[1:]
    assert counts.min() > 100  # groups, not images, are equally probable
    np.testing.assert_array_equal(sets, random_sets(groups, 4, 400, random_state=0))


def test_where_no_group_is_large_enough_sets_are_of_all():
    sets = random_sets(["a", "b", "c"], 2, 50, random_state=0)
    assert {tuple(sorted(members)) for members in sets.tolist()} == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize(("size", "n"), [(0, 5), (4, 5), (2, 0), (True, 5), (1.5, 2)])
def test_impossible_sets_are_named(size, n):
    with pytest.raises(ValueError, match=r"set_size=|n_sets="):
        random_sets(["a", "b", "c"], size, n)


PROBA = [[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.45, 0.5, 0.05], [0.45, 0.55, 0.0]]


@pytest.mark.parametrize(
    ("score", "best"),
    [("least_confident", {2, 3}), ("most_confident", {0, 1}), ("margin", {4, 5}), ("entropy", {2, 3})],
)
def test_the_best_set_by_hand(score, best):
    rows = set_sampling(
        Known(PROBA), pool(6), 2, score=score, groups="truth", y_pool=[0, 0, 1, 1, 2, 2], n_sets=50, random_state=0
    )
    assert set(rows.tolist()) == best


def test_any_score_of_rows_is_averaged():
    rows = set_sampling(
        Known(PROBA), pool(6), 3, score=lambda learner, X: -np.abs(X[:, 0] - 4), n_sets=200, random_state=0
    )
    assert set(rows.tolist()) <= {0, 1, 2, 3}  # of the predicted class "a", the only one with three
    assert set(rows.tolist()) == {1, 2, 3}
    with pytest.raises(ValueError, match=r"score returned shape \(6, 1\)"):
        set_sampling(Known(PROBA), pool(6), 2, score=lambda learner, X: X, random_state=0)


def test_a_set_is_scored_with_the_label_of_its_mean():
    """Rows 0 and 1: own labels a and b, mean posterior b. With own labels they would score 5.5, the others 7.5."""
    proba = [[0.51, 0.49, 0.0], [0.05, 0.95, 0.0], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]]
    rows = emoc_set_sampling(Known(proba), pool(4), 2, groups="truth", y_pool=[0, 0, 1, 1], n_sets=50, random_state=0)
    assert set(rows.tolist()) == {0, 1}


def test_members_of_a_committee_have_labels_of_their_own():
    committee = Committee([ActiveLearner(LogisticRegression()) for _ in range(2)])
    for member, proba in zip(committee.learner_list, ([[0.9, 0.1]] * 4, [[0.2, 0.8]] * 4), strict=True):
        member.estimator = Known(proba)
    committee.predict_proba = lambda X: np.full((len(X), 2), 0.5)
    rows = emoc_set_sampling(committee, pool(4), 2, groups="truth", y_pool=[0, 0, 1, 1], n_sets=50, random_state=0)
    rows = rows[0] if isinstance(rows, tuple) else rows
    assert set(rows.tolist()) == {2, 3}


@pytest.mark.parametrize("strategy", [set_sampling, emoc_set_sampling])
def test_true_classes_are_asked_for(strategy):
    with pytest.raises(ValueError, match=r"each of the 6 images as y_pool, but got none"):
        strategy(Known(PROBA), pool(6), 2, groups="truth")
    with pytest.raises(ValueError, match=r"but got shape \(2,\)"):
        strategy(Known(PROBA), pool(6), 2, groups="truth", y_pool=[0, 1])
    with pytest.raises(ValueError, match=r"The 'groups' parameter of .* must be a str among"):
        strategy(Known(PROBA), pool(6), 2, groups="class")


def test_clusters_are_those_of_the_features():
    X = np.concatenate([np.random.default_rng(0).normal(c, 0.01, size=(12, 1)) for c in (0.0, 10.0, 20.0)])
    model = LogisticRegression().fit([[0.0], [20.0]], [0, 1])
    rows = set_sampling(model, X, 3, groups="cluster", n_sets=200, random_state=0)
    assert len({row // 12 for row in rows.tolist()}) == 1
    assert rows[0] // 12 == 1  # the cluster on the boundary


def test_impossible_numbers_of_sets_are_named_before_any_work():
    class Untouchable:
        def predict_proba(self, X):
            raise AssertionError("asked")

    for strategy in (set_sampling, emoc_set_sampling):
        with pytest.raises(ValueError, match=r"The 'n_sets' parameter of .* must be an int"):
            strategy(Untouchable(), pool(6), 2, n_sets=0)
    with pytest.raises(ValueError, match="X_reference is empty"):
        emoc_set_sampling(Untouchable(), pool(6), 2, X_reference=[])


def test_an_unknown_score_is_named():
    with pytest.raises(ValueError, match=r"The 'score' parameter of set_sampling must be .*1-vs-2"):
        set_sampling(Known(PROBA), pool(6), 2, score="1-vs-2")
