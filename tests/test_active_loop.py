"""ActiveClassifier against the loop a user would write, and inside scikit-learn's searches."""

import pickle

import numpy as np
import pandas as pd
import pytest
from modAL.uncertainty import margin_sampling
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skal import (
    ActiveClassifier,
    Query,
    adma_sampling,
    random_sampling,
)
from tests.conftest import adma_grid, blobs, first_rows, greatest, indices_of, logistic, on_features, toy_mlp


def plain_loop(estimator, X, y, initial, strategy, n_queries, batch_size):
    """The loop a user would write, with modAL's own strategy on a bare estimator."""
    labelled, rounds = list(initial), []
    for _ in range(n_queries):
        pool = np.array([i for i in range(len(y)) if i not in set(labelled)])
        if not len(pool):
            break
        model = clone(estimator).fit(X[labelled], y[labelled]) if labelled else clone(estimator)
        picks = indices_of(strategy(model, X[pool], n_instances=min(batch_size, len(pool))))
        labelled.extend(pool[picks])
        rest = np.array([i for i in range(len(y)) if i not in set(labelled)])
        score_on = rest if len(rest) else np.arange(len(y))
        model = clone(estimator).fit(X[labelled], y[labelled])
        rounds.append((len(labelled), accuracy_score(y[score_on], model.predict(X[score_on]))))
    return np.array(labelled), rounds, model


@pytest.mark.parametrize(("n_initial", "batch_size", "seed"), [(10, 1, 0), (12, 7, 1), (30, 25, 2)])
def test_active_is_the_plain_margin_loop(n_initial, batch_size, seed):
    X, y = blobs(seed=seed)
    active = ActiveClassifier(
        logistic(), Query(margin_sampling), n_queries=6, batch_size=batch_size, n_initial=n_initial, random_state=seed
    ).fit(X, y)
    queried, rounds, model = plain_loop(logistic(), X, y, active.queried_[:n_initial], margin_sampling, 6, batch_size)
    np.testing.assert_array_equal(active.queried_, queried)
    history = dict(zip(active.history_["labels"].tolist(), active.history_["score"].tolist(), strict=True))
    for labels, score in rounds:
        assert history[labels] == pytest.approx(score, abs=1e-12)
    assert set(history) - {labels for labels, _ in rounds} <= {n_initial}
    np.testing.assert_allclose(active.predict_proba(X), model.predict_proba(X), atol=1e-10)
    np.testing.assert_array_equal(active.predict(X), model.predict(X))


def test_active_in_hand_worked_order():
    X = np.array([[3.0], [9.0], [1.0], [7.0], [5.0], [8.0]])
    y = np.array(["lo", "hi", "lo", "hi", "lo", "hi"])
    active = ActiveClassifier(logistic(), Query(greatest), n_queries=2, batch_size=2, random_state=0).fit(X, y)
    assert active.queried_.tolist() == [1, 5, 3, 4]
    assert active.history_["labels"].tolist() == [2, 4]
    assert np.isnan(active.history_["score"][0])  # only "hi" is known
    assert active.history_["score"][1] == 1.0  # 1 and 3 lie below 5, which is "lo"
    active.set_params(query__sign=-1.0).fit(X, y)
    assert active.queried_.tolist() == [2, 0, 4, 3]


def test_active_takes_what_is_left_and_then_scores_on_all():
    X, y = blobs(23)
    active = ActiveClassifier(logistic(), first_rows, n_queries=20, batch_size=10, random_state=0).fit(X, y)
    assert active.queried_.tolist() == list(range(23))
    assert active.history_["labels"].tolist() == [10, 20, 23]
    assert active.history_["score"][-1] == logistic().fit(X, y).score(X, y)
    everything = ActiveClassifier(logistic(), first_rows, n_queries=1, batch_size=500, random_state=0).fit(X, y)
    assert everything.queried_.tolist() == list(range(23))


def test_active_classes_never_queried():
    X = np.linspace(0, 1, 12)[:, None]
    y = np.repeat(["a", "b", "c", "d"], 3)
    one = ActiveClassifier(on_features(net=toy_mlp(1)), first_rows, n_queries=1, batch_size=3, random_state=0).fit(X, y)
    assert one.classes_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(one.predict_proba(X), np.tile([1.0, 0, 0, 0], (12, 1)))
    with pytest.raises(ValueError, match="class"):  # the error of an estimator that rejects a single class is kept
        ActiveClassifier(logistic(), first_rows, n_queries=1, batch_size=3, random_state=0).fit(X, y)
    assert set(one.predict(X)) == {"a"}
    assert np.isnan(one.history_["score"]).all()
    two = ActiveClassifier(logistic(), Query(greatest), n_queries=2, batch_size=3, random_state=0).fit(
        X, y
    )  # d, then c
    proba = two.predict_proba(X)
    assert proba.shape == (12, 4)
    np.testing.assert_array_equal(proba[:, :2], 0)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(proba[:, 2:], logistic().fit(X[6:], y[6:]).predict_proba(X))
    assert set(two.predict(X)) <= {"c", "d"}
    assert two.score(X, y) == np.mean(two.predict(X) == y)


def test_active_target_score_is_a_prefix_of_the_budgeted_run():
    X, y = blobs(120, n_classes=2)
    settings = {"n_queries": 12, "batch_size": 3, "n_initial": 4, "random_state": 3}
    full = ActiveClassifier(logistic(), Query(random_sampling), **settings).fit(X, y)
    scores = full.history_["score"]
    target = float(np.sort(scores[~np.isnan(scores)])[len(scores) // 2])
    stopped = ActiveClassifier(logistic(), Query(random_sampling), target_score=target, **settings).fit(X, y)
    k = int(np.argmax(scores >= target)) + 1
    np.testing.assert_array_equal(stopped.history_["score"], scores[:k])
    np.testing.assert_array_equal(stopped.history_["labels"], full.history_["labels"][:k])
    np.testing.assert_array_equal(stopped.queried_, full.queried_[: full.history_["labels"][k - 1]])
    never = ActiveClassifier(logistic(), Query(random_sampling), target_score=1.0, **settings).fit(X, y)
    if scores.max() < 1:
        np.testing.assert_array_equal(never.queried_, full.queried_)


def test_active_is_deterministic_and_seeded():
    X, y = blobs()
    active = ActiveClassifier(logistic(), Query(random_sampling), n_queries=4, batch_size=5, n_initial=5)
    a, b, c = (clone(active).set_params(random_state=s).fit(X, y) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.queried_, b.queried_)
    assert a.queried_.tolist() != c.queried_.tolist()
    assert len(set(a.queried_)) == 25
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    rounds = [tuple(sorted(np.argsort(np.argsort(a.queried_))[i : i + 5])) for i in range(5, 25, 5)]
    assert len(set(rounds)) == 4
    again = clone(active).set_params(random_state=np.random.RandomState(0)).fit(X, y)
    assert len(set(again.queried_)) == 25
    fixed = ActiveClassifier(
        logistic(), Query(random_sampling, random_state=0), n_queries=2, batch_size=5, random_state=1
    )
    fixed.fit(X, y)
    assert fixed.queried_[:5].tolist() == random_sampling(None, X, 5, random_state=0).tolist()


def test_active_changes_nothing_it_was_given():
    X, y = blobs()
    X_before, y_before = X.copy(), y.copy()
    estimator, query = logistic(), Query(greatest, sign=-1.0)
    active = ActiveClassifier(estimator, query, n_queries=2, batch_size=10, n_initial=10, random_state=0).fit(X, y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    assert active.estimator is estimator
    assert active.query is query
    assert query.keywords == {"sign": -1.0}
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    back = pickle.loads(pickle.dumps(active))
    np.testing.assert_array_equal(back.predict_proba(X), active.predict_proba(X))
    np.testing.assert_array_equal(back.queried_, active.queried_)


def test_active_in_cross_val_score_is_its_own_fold_loop():
    X, y = blobs(60)
    folds = [(np.arange(0, 40), np.arange(40, 60)), (np.arange(20, 60), np.arange(0, 20))]
    active = ActiveClassifier(
        logistic(), Query(margin_sampling), n_queries=3, batch_size=4, n_initial=12, random_state=0
    )
    scores = cross_val_score(active, X, y, cv=folds)
    expected = [clone(active).fit(X[a], y[a]).score(X[b], y[b]) for a, b in folds]
    np.testing.assert_allclose(scores, expected)
    with_rare = np.where(np.arange(60) == 59, "rare", y)  # in no training part of the first fold
    assert np.isfinite(cross_val_score(active, X, with_rare, cv=folds)).all()


def test_active_beside_pipelines():
    X, y = blobs(60)
    X = X * [100, 1, 1, 0.01, 1, 1]
    settings = {"n_queries": 4, "batch_size": 5, "n_initial": 10, "random_state": 0}
    outside = make_pipeline(StandardScaler(), ActiveClassifier(logistic(), Query(margin_sampling), **settings))
    outside.fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    bare = ActiveClassifier(logistic(), Query(margin_sampling), **settings).fit(scaled, y)
    np.testing.assert_array_equal(outside[-1].queried_, bare.queried_)
    np.testing.assert_allclose(outside.predict_proba(X), bare.predict_proba(scaled))

    inside = ActiveClassifier(make_pipeline(StandardScaler(), logistic()), Query(margin_sampling), **settings)
    inside.fit(X, y)
    queried, _, _ = plain_loop(
        make_pipeline(StandardScaler(), logistic()), X, y, inside.queried_[:10], margin_sampling, 4, 5
    )
    np.testing.assert_array_equal(inside.queried_, queried)
    both = make_pipeline(FunctionTransformer(), clone(inside)).fit(X, y)
    np.testing.assert_array_equal(both[-1].queried_, inside.queried_)
    search = GridSearchCV(
        both, {"activeclassifier__estimator__logisticregression__C": [0.1, 1], "activeclassifier__n_queries": [1]}, cv=2
    ).fit(X, y)
    assert set(search.best_params_) == {
        "activeclassifier__estimator__logisticregression__C",
        "activeclassifier__n_queries",
    }


def test_active_in_halving_search_by_budget():
    X, y = blobs(80)
    active = ActiveClassifier(logistic(), Query(random_sampling), batch_size=5, n_initial=5, random_state=0)
    search = HalvingGridSearchCV(
        active,
        {"estimator__C": [1e-4, 1e-2, 1.0, 10.0]},
        resource="n_queries",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=2,
        random_state=0,
    ).fit(X, y)
    assert search.n_resources_ == [1, 2, 4]
    best = search.best_estimator_
    assert best.n_queries in (2, 4)
    assert len(best.queried_) == 5 + 5 * best.n_queries


@pytest.mark.parametrize("container", ["frame", "list", "sparse"])
def test_active_takes_what_the_estimator_takes(container):
    from scipy.sparse import csr_matrix

    X, y = blobs(40)
    active = ActiveClassifier(
        logistic(), Query(margin_sampling), n_queries=2, batch_size=5, n_initial=10, random_state=0
    )
    reference = clone(active).fit(X, y)
    given = {
        "frame": lambda: pd.DataFrame(X, columns=list("abcdef"), index=np.arange(40)[::-1]),
        "list": X.tolist,
        "sparse": lambda: csr_matrix(X),
    }[container]()
    active.fit(given, y.tolist())
    np.testing.assert_array_equal(active.queried_, reference.queried_)
    np.testing.assert_allclose(active.predict_proba(given), reference.predict_proba(X), atol=1e-5)


def test_active_with_frozen_prefix_in_a_grid_with_two_jobs(pixels, tmp_path):
    X, y = pixels
    one = adma_grid(True).fit(X, y)
    two = adma_grid(str(tmp_path / "cache"), n_jobs=2).fit(X, y)
    none = adma_grid(False).fit(X, y)
    for other in (two, none):
        np.testing.assert_array_equal(one.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"])
        assert one.best_params_ == other.best_params_
        np.testing.assert_array_equal(one.best_estimator_.queried_, other.best_estimator_.queried_)
    assert any((tmp_path / "cache").rglob("*.safetensors"))


def test_active_starts_adma_without_labels_and_is_what_the_bare_strategy_picks(pixels):
    X, y = pixels
    active = clone(adma_grid(True).estimator).fit(X, y)
    bare = adma_sampling(clone(active.estimator), X, 4, lam=0.1)
    assert active.queried_[:4].tolist() == np.asarray(bare).tolist()
    assert active.predict_proba(X).shape == (40, 4)
