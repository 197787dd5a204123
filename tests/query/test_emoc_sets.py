"""The best of many sets, for EMOC and other scores, compared with all sets."""

import numpy as np
import pytest
from modAL.models import ActiveLearner
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression

from skal import query as strategies
from tests.query.vectors import CLASSES, POOL, REFERENCE, blank, oracle_each, vectors
from tests.reference import indices_of
from tests.reference.emoc import scores_of
from tests.reference.sets import same_prediction, set_score

OUTPUTS, NORMS = ["logit", "probability"], ["l1", "l2"]

emoc_sets, sets = indices_of(strategies.emoc_set_sampling), indices_of(strategies.set_sampling)


@pytest.fixture(scope="module")
def fitted():
    return blank().fit(vectors(24, 0), CLASSES[np.arange(24) % 3])


@pytest.mark.parametrize("output", OUTPUTS)
def test_members_are_scored_with_the_label_of_their_set(fitted, output):
    change, proba = oracle_each(fitted, output)
    each, own = scores_of(change, proba, "each"), scores_of(change, proba)
    rng, told_apart = np.random.default_rng(0), 0
    for trial in range(30):
        truth = rng.permutation(np.arange(20) % 4)
        groups = [np.flatnonzero(truth == k) for k in range(4)]
        values = np.array([set_score(each, proba, members) for members in groups])
        best = groups[values.argmax()]
        told_apart += values.argmax() != np.argmax([own[members].sum() for members in groups])
        options = {"groups": "truth", "y_pool": truth, "n_sets": 60, "X_reference": REFERENCE, "output": output}
        picks = emoc_sets(fitted, POOL, 5, random_state=trial, **options)
        assert_array_equal(np.sort(picks), best)
        if trial == 0:
            learner = ActiveLearner(fitted, query_strategy=strategies.emoc_set_sampling)
            indices, rows = learner.query(POOL, n_instances=5, random_state=trial, **options)
            assert_array_equal(np.sort(indices), best)
            assert_array_equal(rows, POOL[indices])
    assert told_apart  # individual labels would have picked other sets


@pytest.mark.parametrize("K", [1, 2])
def test_the_best_of_all_sets(fitted, K):
    pool = POOL[:9]
    change, proba = oracle_each(fitted, pool=pool)
    each = scores_of(change, proba, "each")
    possible = same_prediction(proba, K)
    assert len(possible) > 3
    best = max(possible, key=lambda members: set_score(each, proba, members))
    picks = emoc_sets(fitted, pool, K, X_reference=REFERENCE, n_sets=2000, random_state=0)
    assert sorted(picks.tolist()) == best
    top = np.sort(proba, 1)[:, ::-1]
    scores = {
        "least_confident": -top[:, 0],
        "margin": top[:, 1] - top[:, 0],
        "entropy": -(proba * np.log(proba)).sum(1),
        "gini": (proba * (1 - proba)).sum(1),
        "most_confident": top[:, 0],
        "callable": pool[:, 2],
    }
    for kind, values in scores.items():
        score = (lambda learner, X: X[:, 2]) if kind == "callable" else kind
        best = max(possible, key=lambda members: values[members].mean())
        picks = sets(fitted, pool, K, score=score, n_sets=2000, random_state=1)
        assert sorted(picks.tolist()) == best, kind


def test_sets_of_any_probabilistic_classifier():
    model = LogisticRegression().fit(POOL[:6], np.arange(6) % 2)
    proba = model.predict_proba(POOL[:8])
    for kind, sign in [("least_confident", -1), ("most_confident", 1)]:
        best = max(same_prediction(proba, 2), key=lambda members: sign * proba[members].max(1).mean())
        learner = ActiveLearner(model, query_strategy=strategies.set_sampling)
        for one in (model, learner):
            picks = sets(one, POOL[:8], 2, score=kind, random_state=0)
            assert sorted(picks.tolist()) == best
        indices, rows = learner.query(POOL[:8], n_instances=2, score=kind, random_state=0)
        assert sorted(indices.tolist()) == best
        assert_array_equal(rows, POOL[indices])


def test_random_sets_are_drawn_evenly(fitted):
    label = fitted.predict(POOL)
    seen = np.zeros(20)
    for seed in range(40):
        picks = sets(fitted, POOL, 2, score="random", n_sets=20, random_state=seed)
        assert len(set(label[picks])) == 1
        assert len(set(picks.tolist())) == 2
        seen[picks] += 1
    assert (seen[[(label == one).sum() >= 2 for one in label]] > 0).mean() > 0.9


@pytest.mark.parametrize("strategy", [emoc_sets, sets])
def test_clusters_keep_together(fitted, strategy):
    centres = 2 * vectors(3, 8)
    pool = np.repeat(centres, 20, axis=0) + 1e-3 * vectors(60, 4)
    features = fitted.transform(pool).reshape(3, 20, -1)
    apart = np.linalg.norm(features.mean(1)[:, None] - features.mean(1), axis=2)[np.triu_indices(3, 1)].min()
    assert features.std(1).max() < 0.01 * apart
    picks = strategy(fitted, pool, 4, groups="cluster", n_sets=50, random_state=0)
    assert len(set(picks.tolist())) == 4
    assert len(set(picks // 20)) == 1


def test_truth_may_be_words(fitted):
    truth = np.array(["a", "b"])[np.arange(20) % 2]
    for strategy in (emoc_sets, sets):
        picks = strategy(fitted, POOL, 10, groups="truth", y_pool=truth, random_state=0)
        assert len(set(truth[picks])) == 1
        assert len(set(picks.tolist())) == 10
