"""Issue 3 from its specification alone: plain loops, hand-worked cases and independent optimisers as oracles."""

import pickle
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from modAL.models import ActiveLearner
from modAL.uncertainty import margin_sampling
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

import skal.features.activations
import skal.query._pool
from skal import (
    ActiveClassifier,
    FrozenPrefixClassifier,
    ImageTransform,
    Query,
    SourceProfile,
    adma_sampling,
    random_sampling,
)
from skal._random import seeded
from skal.experiment import Task, run_experiment
from skal.features.cache import CACHE
from skal.query._pool import score_pool
from skal.training.head import HeadPenalty, solve_head

SMALL = ImageTransform(16, 16)


def blobs(n=90, n_classes=3, seed=0, n_features=6):
    X, y = make_classification(
        n, n_features, n_informative=4, n_redundant=0, n_classes=n_classes, class_sep=1.0, random_state=seed
    )
    return X, np.array(["ant", "bee", "cat", "dog"])[y]


def logistic():
    return LogisticRegression(max_iter=2000)


def first_rows(learner, X_pool, n_instances=1):
    """A strategy whose picks are known by hand: the first rows of what is left."""
    return np.arange(n_instances)


def greatest(learner, X_pool, n_instances=1, *, sign=1.0):
    return np.argsort(-sign * np.asarray(X_pool)[:, 0], kind="stable")[:n_instances]


def toy_mlp(n_in=6, seed=0):
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(n_in, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4)
        )


def toy_cnn(seed=0):
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 7, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(7, 3),
        )


def on_features(**keywords):
    settings = {"n_frozen": 2, "random_state": 0, "max_epochs": 2, "min_steps": 3} | keywords
    return FrozenPrefixClassifier(settings.pop("net", None) or toy_mlp(), **settings)


def on_pixels(**keywords):
    settings = {"n_frozen": 2, "random_state": 0, "max_epochs": 2, "min_steps": 3, "preprocess": SMALL} | keywords
    return FrozenPrefixClassifier(settings.pop("net", None) or toy_cnn(), **settings)


@pytest.fixture
def stem_rows(monkeypatch):
    """Counts the images that pass a first convolution; batches below 5 are the checks of a graph, not data."""
    seen = []
    forward = nn.Conv2d._conv_forward

    def counted(self, x, *args, **kwargs):
        if self.in_channels == 3 and len(x) >= 5:
            seen.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counted)
    return seen


# ------------------------------------------------------------------------------------------------ ActiveClassifier


def indices_of(answer):
    """modAL 0.4.1 answers with indices, 0.4.2 with indices and scores."""
    return np.asarray(answer[0] if isinstance(answer, tuple) else answer)


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
    with pytest.raises(ValueError, match="class"):  # an estimator that refuses a single class is not overruled
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


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_queries": 0}, "n_queries"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_initial": -1}, "n_initial"),
        ({"query": 5}, "query"),
    ],
)
def test_active_names_what_is_wrong(wrong, match):
    X, y = blobs()
    with pytest.raises(ValueError, match=match):
        ActiveClassifier(logistic(), Query(random_sampling), random_state=0).set_params(**wrong).fit(X, y)


def test_active_refuses_lengths_that_differ():
    X, y = blobs()
    with pytest.raises(ValueError):
        ActiveClassifier(logistic(), Query(random_sampling), random_state=0).fit(X, y[:-1])


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


def adma_grid(folder, **keywords):
    net = toy_cnn()
    rng = np.random.default_rng(1)
    source = SourceProfile(net, preprocess=SMALL, layers=[(-3, -2)]).fit(
        rng.integers(0, 255, size=(9, 16, 16, 3), dtype=np.uint8), np.arange(9) % 3
    )
    classifier = on_pixels(net=net, source=source, cache=folder)
    active = ActiveClassifier(classifier, Query(adma_sampling, lam=0.1), n_queries=2, batch_size=4, random_state=0)
    return GridSearchCV(active, {"query__lam": [1], "estimator__n_frozen": [1, 2]}, cv=2, **keywords)


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


# ----------------------------------------------------------------------------------------------------------- Query


def test_query_is_a_partial_whose_keywords_show():
    query = Query(greatest, sign=-1.0)
    assert query.get_params() == {"strategy": greatest, "sign": -1.0}
    assert query(None, np.array([[2.0], [1.0], [3.0]]), 2).tolist() == [1, 0]
    copy = clone(query)
    assert copy is not query
    assert copy.get_params() == query.get_params()
    copy.set_params(sign=1.0)
    assert query.keywords == {"sign": -1.0}
    assert copy(None, np.array([[2.0], [1.0], [3.0]]), 1).tolist() == [2]
    back = pickle.loads(pickle.dumps(query))
    assert back.get_params() == query.get_params()
    assert back(None, np.array([[2.0], [1.0], [3.0]]), 1).tolist() == [1]
    assert "greatest" in repr(query)
    assert Query(random_sampling).takes("random_state")
    replaced = Query(greatest).set_params(strategy=random_sampling, random_state=0)
    assert replaced.get_params() == {"strategy": random_sampling, "random_state": 0}
    assert not Query(random_sampling, random_state=0).takes("random_state")
    assert not query.takes("random_state")


def test_query_keywords_win_over_those_of_the_loop():
    X = np.array([[2.0], [1.0], [3.0]])
    assert Query(greatest, sign=-1.0)(None, X, 1, sign=1.0).tolist() == [1]
    assert Query(greatest)(None, X, 1, sign=-1.0).tolist() == [1]


def test_query_refuses():
    with pytest.raises(ValueError, match="sign"):
        Query(greatest, sing=1)
    query = Query(greatest, sign=-1.0)
    with pytest.raises(ValueError, match="sing"):
        query.set_params(sing=1)
    assert query.get_params() == {"strategy": greatest, "sign": -1.0}
    with pytest.raises(ValueError):
        Query("greatest")
    assert query.set_params() is query


def test_query_drives_modal():
    X, y = blobs(30)
    learner = ActiveLearner(logistic(), query_strategy=Query(margin_sampling), X_training=X[:10], y_training=y[:10])
    indices, _ = learner.query(X[10:], n_instances=4)
    expected = indices_of(margin_sampling(logistic().fit(X[:10], y[:10]), X[10:], n_instances=4))
    assert indices.tolist() == expected.tolist()


# ------------------------------------------------------------------------------------- the head: a convex oracle


def probe_oracle(features, y, *, C, weight=None):
    """Multinomial logistic regression by scipy on centred features of unit mean squared norm; float64."""
    features = np.asarray(features, np.float64)
    center = features.mean(axis=0)
    scale = np.sqrt(((features - center) ** 2).sum(axis=1).mean())
    Z = (features - center) / scale
    classes, codes = np.unique(y, return_inverse=True)
    onehot = np.eye(len(classes))[codes]
    weight = np.ones(len(y)) if weight is None else weight
    shape = (len(classes), Z.shape[1] + 1)

    def loss(flat):
        W = flat.reshape(shape)
        logp = log_softmax(Z @ W[:, :-1].T + W[:, -1], axis=1)
        residual = (np.exp(logp) - onehot) * weight[:, None] * C
        gradient = np.column_stack([residual.T @ Z + W[:, :-1], residual.sum(axis=0)])
        return -C * (weight[:, None] * onehot * logp).sum() + 0.5 * (W[:, :-1] ** 2).sum(), gradient.ravel()

    W = minimize(loss, np.zeros(shape).ravel(), jac=True, tol=1e-12, options={"maxiter": 5000}).x.reshape(shape)
    return lambda F: softmax((np.asarray(F, np.float64) - center) / scale @ W[:, :-1].T + W[:, -1], axis=1)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("normalize", [True, False])
def test_probe_is_the_convex_optimum(n_classes, normalize):
    X, y = blobs(50, n_classes=4)
    keep = np.isin(y, np.unique(y)[:n_classes])
    X, y = X[keep], y[keep]
    classifier = on_features(max_epochs=0, normalize=normalize, class_weight=None).fit(X[::2], y[::2])
    train, test = classifier.transform(X[::2]), classifier.transform(X[1::2])
    net = toy_mlp()
    with torch.no_grad():
        features = net[:-1](torch.tensor(X[::2], dtype=torch.float32)).numpy()
    np.testing.assert_allclose(train, features, atol=1e-5)
    if normalize:
        train, test = (F / np.linalg.norm(F, axis=1, keepdims=True) for F in (train, test))
    C = len(train) / 20
    oracle = probe_oracle(train, y[::2], C=C)
    np.testing.assert_allclose(classifier.predict_proba(X[1::2]), oracle(test), atol=2e-3)
    if n_classes > 2:  # of two classes scikit-learn fits one vector, which its penalty counts otherwise
        center = train.mean(axis=0)
        scale = np.sqrt(((train - center) ** 2).sum(axis=1).mean())
        sk = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit((train - center) / scale, y[::2])
        np.testing.assert_allclose(
            classifier.predict_proba(X[1::2]), sk.predict_proba((test - center) / scale), atol=2e-3
        )
        np.testing.assert_array_equal(classifier.classes_, sk.classes_)


def test_probe_does_not_depend_on_depth_and_weighs_classes():
    X, y = blobs(60)
    y = np.where(np.arange(60) < 40, y, "bee")
    probas = [on_features(max_epochs=0, n_frozen=k).fit(X, y).predict_proba(X) for k in (0, 1, 2, 3)]
    for proba in probas[1:]:
        np.testing.assert_allclose(proba, probas[0], atol=1e-4)
    balanced = on_features(max_epochs=0, class_weight="balanced").fit(X, y)
    classes, counts = np.unique(y, return_counts=True)
    weight = (len(y) / len(classes) / counts)[np.searchsorted(classes, y)]
    F = balanced.transform(X)
    F = F / np.linalg.norm(F, axis=1, keepdims=True)
    np.testing.assert_allclose(balanced.predict_proba(X), probe_oracle(F, y, C=3, weight=weight)(F), atol=2e-3)


def test_solve_head_on_given_features():
    rng = np.random.default_rng(0)
    y = np.arange(45) % 3
    F = (rng.normal(size=(45, 5)) * [1, 5, 0.1, 1, 1] + 7 + np.eye(3, 5)[y]).astype(np.float32)
    with seeded(0):
        head = nn.Linear(5, 3)
    penalty = HeadPenalty.of(F)
    assert pytest.approx(45 / 20) == penalty.C
    np.testing.assert_allclose(penalty.center, F.mean(axis=0), rtol=1e-5)
    assert penalty.scale == pytest.approx(np.sqrt(((F - F.mean(axis=0)) ** 2).sum(axis=1).mean()), rel=1e-5)
    solve_head(head, F, y, penalty)
    proba = head(torch.tensor(F)).softmax(1).detach().numpy()
    np.testing.assert_allclose(proba, probe_oracle(F, y, C=45 / 20)(F), atol=1e-3)

    kept = {"weight": head.weight[:2].detach().clone(), "bias": head.bias[:2].detach().clone()}
    solve_head(head, F, y, penalty, new=np.array([2]))
    assert torch.equal(head.weight[:2], kept["weight"])
    assert torch.equal(head.bias[:2], kept["bias"])


# --------------------------------------------------------------------------------------------- continuous learning


def old_columns_stay(before, after, X):
    proba = after.predict_proba(X)
    columns = [list(after.classes_).index(c) for c in before["classes"]]
    old = proba[:, columns].astype(np.float64)
    np.testing.assert_allclose(old / old.sum(axis=1, keepdims=True), before["proba"], atol=2e-5)
    assert list(after.classes_) == sorted(after.classes_)


@pytest.mark.parametrize("way", ["warm_start", "partial_fit"])
def test_growth_keeps_old_rows_and_sorted_columns(way):
    X, y = blobs(100, n_classes=4)
    classifier = on_features(max_epochs=0, warm_start=way == "warm_start")
    order = [["bee", "dog"], ["bee", "cat", "dog"], ["ant", "bee", "cat", "dog"]]  # new: in between, then first
    for step, known in enumerate(order):
        mask = np.isin(y, known)
        if step == 0:
            classifier.fit(X[mask], y[mask])
        else:
            before = {"classes": classifier.classes_.copy(), "proba": classifier.predict_proba(X)}
            if way == "warm_start":
                classifier.fit(X[mask], y[mask])
            else:
                new = mask & ~np.isin(y, before["classes"])
                classifier.partial_fit(X[new], y[new])
            old_columns_stay(before, classifier, X)
        assert classifier.classes_.tolist() == known
        proba = classifier.predict_proba(X)
        assert proba.shape == (100, len(known))
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[proba.argmax(axis=1)])
    back = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(back.predict_proba(X), classifier.predict_proba(X))


def test_cold_fit_forgets_and_is_repeatable():
    X, y = blobs(60)
    classifier = on_features().fit(X, y)
    first = classifier.predict_proba(X)
    part = np.isin(y, ["bee", "cat"])
    classifier.fit(X[part], y[part])
    assert classifier.classes_.tolist() == ["bee", "cat"]
    np.testing.assert_array_equal(classifier.fit(X, y).predict_proba(X), first)


@pytest.mark.parametrize("way", ["warm_start", "partial_fit"])
def test_nothing_is_forgotten_under_replay(convnet, pixels, way):
    X, y = pixels
    old = np.isin(y, ["r", "g"])
    classifier = on_pixels(net=convnet, warm_start=way == "warm_start", max_epochs=10, min_steps=60)
    classifier.fit(X[old], y[old])
    assert classifier.score(X[old], y[old]) == 1
    if way == "warm_start":
        classifier.fit(X, y)
    else:
        classifier.partial_fit(X[~old], y[~old])
    assert classifier.classes_.tolist() == ["b", "g", "r", "y"]
    assert classifier.score(X[old], y[old]) >= 0.95
    assert classifier.score(X[~old], y[~old]) >= 0.95
    assert len(classifier.seen_.y) == len(y)
    for _ in range(2):  # rounds with images of one class alone
        classifier.partial_fit(X[y == "b"], y[y == "b"])
    assert classifier.score(X, y) >= 0.95
    assert len(classifier.seen_.y) == len(y)


def test_partial_fit_on_its_own(pixels):
    X, y = blobs(40)
    a = on_features().partial_fit(X, y)
    np.testing.assert_array_equal(a.predict_proba(X), on_features().fit(X, y).predict_proba(X))
    b = on_features().partial_fit(X, y, classes=["ant", "bee", "cat", "zebra"])
    assert b.classes_.tolist() == ["ant", "bee", "cat", "zebra"]
    assert b.predict_proba(X).shape == (40, 4)
    with pytest.raises(ValueError):
        on_features().partial_fit(X, y, classes=["ant", "bee"])
    relabelled = np.where(y == "ant", "bee", y)
    a.partial_fit(X, relabelled)
    assert len(a.seen_.y) == 40
    assert sorted(a.seen_.y) == sorted(relabelled)


def test_modal_teach_drives_a_class_that_appears_later(convnet, pixels):
    X, y = pixels
    order = np.concatenate([np.flatnonzero(np.isin(y, ["r", "y"])), np.flatnonzero(np.isin(y, ["b", "g"]))])
    X, y = X[order], y[order]
    learner = ActiveLearner(
        on_pixels(net=convnet, warm_start=True, max_epochs=10, min_steps=40),
        query_strategy=first_rows,
        X_training=X[:10],
        y_training=y[:10],
    )
    assert learner.estimator.classes_.tolist() == ["r", "y"]
    X_pool, y_pool = X[10:], y[10:]
    while len(y_pool):
        indices, images = learner.query(X_pool, n_instances=6)
        learner.teach(images, y_pool[indices])
        X_pool, y_pool = np.delete(X_pool, indices, axis=0), np.delete(y_pool, indices)
        known = sorted(set(learner.y_training))
        assert learner.estimator.classes_.tolist() == known
        proba = learner.predict_proba(X)
        assert proba.shape == (40, len(known))
        np.testing.assert_array_equal(learner.predict(X), np.array(known)[proba.argmax(axis=1)])
    assert known == ["b", "g", "r", "y"]
    assert learner.score(X[:16], y[:16]) == 1  # the two classes known from the start


def test_warm_start_learns_the_classes_that_appear_with_few_labels(convnet, pixels):
    X, y = pixels
    order = np.concatenate([np.flatnonzero(np.isin(y, ["r", "y"])), np.flatnonzero(np.isin(y, ["b", "g"]))])
    X, y = X[order], y[order]
    settings = {"net": convnet, "max_epochs": 30, "min_steps": 150}  # the defaults
    warm = on_pixels(warm_start=True, **settings)
    for n in (10, 22, 40):
        warm.fit(X[:n], y[:n])
    probe = on_pixels(net=convnet, max_epochs=0).fit(X, y)
    assert warm.score(X, y) >= probe.score(X, y) - 0.05


# ------------------------------------------------------------------------------------------------------- the cache


def test_cache_changes_no_prediction(pixels, tmp_path, stem_rows):
    X, y = pixels
    predictions = {}
    for name, cache in {"none": False, "memory": True, "folder": tmp_path / "c", "again": tmp_path / "c"}.items():
        if name == "again":
            CACHE.clear()
        del stem_rows[:]
        classifier = on_pixels(cache=cache).fit(X[:20], y[:20])
        predictions[name] = [classifier.predict_proba(X), classifier.predict_proba(X[::-1])[::-1]]
        predictions[name] += [classifier.transform(X), *classifier.activations(X, [-2, -3])]
        if name == "again":
            assert sum(stem_rows) == 0
        elif name != "none":
            assert sum(stem_rows) == 40
    for name in ("memory", "folder", "again"):
        for a, b in zip(predictions["none"], predictions[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(predictions["folder"], predictions["again"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_clones_and_copies_of_rows_share_the_prefix(pixels, stem_rows):
    X, y = pixels
    on_pixels().fit(X, y)
    del stem_rows[:]
    GridSearchCV(on_pixels(), {"lr": [1e-3, 1e-2]}, cv=2).fit(X.copy(), y)
    ActiveClassifier(on_pixels(), Query(margin_sampling), n_queries=2, batch_size=5, n_initial=8, random_state=0).fit(
        X.copy(), y
    )
    assert sum(stem_rows) == 0
    changed = X.copy()
    changed[3, 0, 0, 0] ^= 1
    on_pixels().fit(changed, y)
    assert sum(stem_rows) <= 5 + 1  # one image is new (its batch is below the counter's size or not)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 0, 3, 1)])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_depth_search_is_that_without_cache(pixels, tmp_path, order, where, stem_rows):
    X, y = pixels
    cache = True if where == "memory" else tmp_path / "cache"
    cached = [on_pixels(cache=cache, n_frozen=k).fit(X[:24], y[:24]).predict_proba(X) for k in order]
    passes = sum(stem_rows)
    plain = [on_pixels(cache=False, n_frozen=k).fit(X[:24], y[:24]).predict_proba(X) for k in order]
    for a, b in zip(cached, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    if order == (1, 2, 3):  # each depth starts from the one before it
        assert passes == 40


def test_other_weights_preprocessing_or_files_are_not_confused(pixels, files):
    X, y = pixels
    a = on_pixels(max_epochs=0).fit(X, y)
    b = on_pixels(net=toy_cnn(seed=1), max_epochs=0)
    np.testing.assert_array_equal(
        b.fit(X, y).predict_proba(X), clone(b).set_params(cache=False).fit(X, y).predict_proba(X)
    )
    other = ImageTransform(16, 16, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    c = on_pixels(preprocess=other, max_epochs=0)
    np.testing.assert_allclose(
        c.fit(X, y).predict_proba(X), clone(c).set_params(cache=False).fit(X, y).predict_proba(X), atol=1e-6
    )
    paths, _ = files
    before = a.predict_proba(paths)
    np.testing.assert_allclose(before, a.predict_proba(X), atol=1e-5)
    shutil.copy(paths[1], paths[0])  # a file that changes is another image
    after = a.predict_proba(paths)
    np.testing.assert_allclose(after[0], before[1], atol=1e-5)
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-6)


SCRIPT = """
    import os, signal, sys
    import numpy as np
    from torch import nn
    sys.path.insert(0, {tests!r})
    replace, left = os.replace, [2]

    def killing(*args, **kwargs):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return replace(*args, **kwargs)

    os.replace = os.rename = killing
    os.environ["SCIPY_ARRAY_API"] = "1"
    import torch
    torch.set_num_threads(1)
    from skal import FrozenPrefixClassifier, ImageTransform
    from skal._random import seeded
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))
    X = np.load({images!r})
    classifier = FrozenPrefixClassifier(net, n_frozen=2, random_state=0, max_epochs=2, min_steps=3,
                                        preprocess=ImageTransform(16, 16), cache={cache!r})
    classifier.fit(X, np.arange(len(X)) % 3)
    print("not killed")
"""


def test_folder_of_a_killed_process_is_used_and_completed(tmp_path, stem_rows):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 255, size=(300, 16, 16, 3), dtype=np.uint8), np.arange(300) % 3
    np.save(tmp_path / "X.npy", X)
    folder = tmp_path / "cache"
    code = textwrap.dedent(SCRIPT).format(tests=str(tmp_path), images=str(tmp_path / "X.npy"), cache=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr + done.stdout
    finished = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    assert finished
    classifier = on_pixels(cache=folder).fit(X, y)
    assert 0 < sum(stem_rows) < 300  # what the killed process had finished is not computed again
    for path, content in finished.items():
        assert path.read_bytes() == content
    plain = on_pixels(cache=False).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    CACHE.clear()
    del stem_rows[:]
    again = on_pixels(cache=folder).fit(X, y)
    assert sum(stem_rows) == 0
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "junk"])
def test_damaged_folder_is_recomputed(pixels, tmp_path, damage):
    X, y = pixels
    folder = tmp_path / "cache"
    reference = on_pixels(cache=folder).fit(X, y).predict_proba(X)
    written = sorted(p for p in folder.rglob("*") if p.is_file())
    assert written
    for path in written:
        content = path.read_bytes()
        path.unlink()  # a new file: the old one may be mapped
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
    if damage == "junk":
        for path in written:
            path.with_name("." + path.name + ".tmp123").write_bytes(b"half")
            path.with_name("junk.safetensors").write_bytes(b"half a file")
    CACHE.clear()
    np.testing.assert_allclose(on_pixels(cache=folder).fit(X, y).predict_proba(X), reference, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- large pools


def test_memmap_pool_gives_the_same_scores_whatever_the_block(tmp_path, monkeypatch):
    X, y = blobs(1300)
    mapped = np.memmap(tmp_path / "pool", dtype=np.float64, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    mapped = np.memmap(tmp_path / "pool", dtype=np.float64, mode="r", shape=X.shape)
    classifier = on_features().fit(X[:30], y[:30])
    reference = classifier.predict_proba(X)
    np.testing.assert_allclose(classifier.predict_proba(mapped), reference, atol=1e-6)
    pieces = np.concatenate([classifier.predict_proba(mapped[i : i + 37]) for i in range(0, 1300, 37)])
    np.testing.assert_allclose(pieces, reference, atol=1e-6)
    np.testing.assert_allclose(score_pool(classifier.predict_proba, mapped), reference, atol=1e-6)
    for block in (5, 333, 5000):
        monkeypatch.setattr(skal.query._pool, "BLOCK", block)
        monkeypatch.setattr(skal.features.activations, "BLOCK", block)
        CACHE.clear()
        np.testing.assert_allclose(score_pool(classifier.predict_proba, mapped), reference, atol=1e-6)


def test_path_pool_gives_the_same_scores_whatever_the_block(files, pixels, monkeypatch):
    X, y = files
    learner = clone(adma_grid(True).estimator.estimator).fit(X[:12], y[:12])
    reference = learner.predict_proba(pixels[0])
    picks = np.asarray(adma_sampling(learner, pixels[0], 10, lam=0.3)).tolist()
    for block in (1, 7, 64):
        monkeypatch.setattr(skal.query._pool, "BLOCK", block)
        monkeypatch.setattr(skal.features.activations, "BLOCK", block)
        CACHE.clear()
        np.testing.assert_allclose(score_pool(learner.predict_proba, X), reference, atol=1e-5)
        np.testing.assert_allclose(learner.predict_proba(X.tolist()), reference, atol=1e-5)
        assert np.asarray(adma_sampling(learner, X, 10, lam=0.3)).tolist() == picks


def test_score_pool_of_dask_is_that_in_memory(pixels, files):
    da = pytest.importorskip("dask.array")
    import dask

    X, y = blobs(200)
    model = logistic().fit(X, y)
    images, labels = pixels
    paths, _ = files
    classifier = clone(adma_grid(True).estimator.estimator).fit(images[:12], labels[:12])
    with dask.config.set(scheduler="synchronous"):
        for chunks in ((200, 6), (37, 6), (50, 2), ((1, 199), (6,))):
            got = score_pool(model.predict_proba, da.from_array(X, chunks=chunks))
            assert isinstance(got, np.ndarray)
            np.testing.assert_allclose(got, model.predict_proba(X), atol=1e-12)
        one = score_pool(model.predict, da.from_array(X, chunks=(64, 6)))
        np.testing.assert_array_equal(one, model.predict(X))
        pool = da.from_array(images, chunks=(9, 16, 8, 3))
        np.testing.assert_allclose(
            score_pool(classifier.predict_proba, pool), classifier.predict_proba(images), atol=1e-6
        )
        np.testing.assert_allclose(
            score_pool(classifier.predict_proba, da.from_array(paths, chunks=11)),
            classifier.predict_proba(paths),
            atol=1e-6,
        )
        expected = np.asarray(adma_sampling(classifier, images, 8, lam=0.3)).tolist()
        assert np.asarray(adma_sampling(classifier, pool, 8, lam=0.3)).tolist() == expected


def test_score_pool_in_memory_blocks():
    X = np.arange(2600.0).reshape(1300, 2)
    sizes = []

    def total(rows):
        sizes.append(len(rows))
        return rows.sum(axis=1)

    np.testing.assert_array_equal(score_pool(total, X), X.sum(axis=1))
    assert max(sizes) <= 512
    assert sum(sizes) == 1300


# ----------------------------------------------------------------------------------------------------- experiments

TIMES = ["query_seconds", "fit_seconds"]


def same_records(a, b):
    key = ["task", "strategy", "seed", "n_labels"]
    a, b = (r.drop(columns=TIMES).sort_values(key).reset_index(drop=True) for r in (a, b))
    assert a.columns.tolist() == b.columns.tolist()
    assert [list(i) for i in a.pop("indices")] == [list(i) for i in b.pop("indices")]
    pd.testing.assert_frame_equal(a, b)


def small_experiment(folder=None, strategies=("random", "margin"), seeds=(0, 1), estimator=None, **keywords):
    X, y = blobs(80)
    tasks = {"blobs": Task(X[::2], y[::2], X[1::2], y[1::2])}
    every = {"random": Query(random_sampling), "margin": Query(margin_sampling)}
    settings = {"n_queries": 3, "batch_size": 4, "n_initial": 8} | keywords
    return run_experiment(
        estimator or logistic(), {s: every[s] for s in strategies}, tasks, seeds=seeds, folder=folder, **settings
    )


def test_experiment_records_are_those_of_a_plain_loop():
    X, y = blobs(80)
    records = small_experiment()
    assert {"task", "strategy", "seed", "n_labels", "n_classes", "accuracy", "macro_auc", "indices"} < set(records)
    for (_, seed), run in records.groupby(["strategy", "seed"]):
        indices = [list(i) for i in run["indices"]]
        labelled = []
        for row, new in zip(run.itertuples(), indices, strict=True):
            labelled += new
            assert row.n_labels == len(labelled) == len(set(labelled))
            assert row.n_classes == len(set(y[::2][labelled]))
            model = logistic().fit(X[::2][labelled], y[::2][labelled])
            assert row.accuracy == pytest.approx(model.score(X[1::2], y[1::2]), abs=1e-12)
        assert run["seed"].iloc[0] == seed
        assert len(labelled) == 8 + 12


def test_experiment_resumes_after_truncation_at_any_byte(tmp_path):
    reference = small_experiment()
    folder = tmp_path / "runs"
    same_records(small_experiment(folder), reference)
    written = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(written) >= 2
    rng = np.random.default_rng(0)
    for path in written:
        content = path.read_bytes()
        newline = content.find(b"\n") + 1
        cuts = {0, newline, len(content) - 1}
        for cut in sorted(cuts | set(rng.integers(0, len(content), 2).tolist())):
            path.write_bytes(content[:cut])
            same_records(small_experiment(folder), reference)
            if cut > newline:  # finished rounds keep their line, times and all
                kept = content[: content[:cut].rfind(b"\n") + 1]
                assert path.read_bytes().startswith(kept)
    for path in written[1:]:
        path.unlink()
    same_records(small_experiment(folder), reference)


def test_experiment_grows_and_refuses_other_settings(tmp_path):
    folder = tmp_path / "runs"
    small_experiment(folder, strategies=("random",), seeds=(0,))
    same_records(small_experiment(folder), small_experiment())
    for wrong in ({"batch_size": 5}, {"n_initial": 9}, {"estimator": LogisticRegression(C=0.01, max_iter=2000)}):
        with pytest.raises(ValueError):
            small_experiment(folder, **wrong)
    same_records(small_experiment(folder), small_experiment())


def test_experiment_with_frozen_prefix_resumes(tmp_path):
    estimator = on_features(random_state=None, warm_start=True)
    reference = small_experiment(estimator=estimator, seeds=(0,))
    folder = tmp_path / "runs"
    same_records(small_experiment(folder, estimator=estimator, seeds=(0,)), reference)
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    same_records(small_experiment(folder, estimator=clone(estimator), seeds=(0,)), reference)


def test_frozen_prefix_in_cross_validation_with_a_class_the_fold_lacks():
    X, y = load_iris(return_X_y=True)
    folds = [(np.arange(0, 100), np.arange(50, 150)), (np.arange(50, 150), np.arange(0, 100))]
    net = toy_mlp(4)
    scores = cross_val_score(on_features(net=net), X, y, cv=folds)
    assert np.isfinite(scores).all()
    assert (scores <= 0.5 + 1e-9).all()
