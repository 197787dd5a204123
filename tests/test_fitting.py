"""Fits that continue: warm_start, partial_fit and modAL's teach, with classes that appear later."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from modAL.models import ActiveLearner
from sklearn.base import clone
from skorch.callbacks import Callback

from skal import DAN, FrozenPrefixClassifier
from skal._random import seeded
from tests.conftest import TinyConvNet, blobs, first_rows, on_features, on_pixels, toy_mlp


def test_warm_start_continues_and_grows(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["g", "y"])
    classifier.set_params(warm_start=True).fit(X[two], y[two])
    head = classifier.net_.module_.head.weight.detach().clone()
    classifier.set_params(max_epochs=0).fit(X, y)
    np.testing.assert_array_equal(classifier.classes_, ["b", "g", "r", "y"])
    grown = classifier.net_.module_.head
    torch.testing.assert_close(grown.weight[[1, 3]], head, rtol=0, atol=0)
    assert grown.out_features == 4
    classifier.set_params(max_epochs=60).fit(X, y)
    assert classifier.score(X, y) > 0.9
    # A later fit that lacks a class keeps its column.
    classifier.fit(X[two], y[two])
    assert len(classifier.classes_) == 4


def test_warm_start_of_another_network_starts_afresh(classifier, pixels):
    X, y = pixels
    with seeded(3):
        other = TinyConvNet()
    classifier.set_params(source=None, warm_start=True).fit(X, y)
    expected = clone(classifier).set_params(backbone=other).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(classifier.set_params(backbone=other).fit(X, y).predict_proba(X), expected)


def test_an_interrupted_warm_start_loses_nothing(classifier, pixels):
    X, y = pixels

    class Failing(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("out of memory")

    two = np.isin(y, ["g", "y"])
    before = classifier.set_params(warm_start=True).fit(X[two], y[two]).predict_proba(X)
    with pytest.raises(RuntimeError, match="out of memory"):
        classifier.set_params(net_params={"callbacks": [Failing()]}).fit(X, y)
    np.testing.assert_array_equal(classifier.predict_proba(X), before)


def test_partial_fit_forgets_nothing(classifier, pixels, device):
    X, y = pixels
    old, new = np.isin(y, ["r", "g"]), np.isin(y, ["b", "y"])
    classifier.set_params(max_epochs=20, device=device).fit(X[old], y[old])
    head = classifier.net_.module_.head.weight.detach().cpu().clone()
    frozen = clone(classifier).set_params(max_epochs=0).fit(X[old], y[old])
    frozen.partial_fit(X[new], y[new])
    assert frozen.score(X, y) > 0.9  # the new rows are solved for, the old ones are unchanged
    classifier.partial_fit(X[new], y[new])
    np.testing.assert_array_equal(classifier.classes_, ["b", "g", "r", "y"])
    assert classifier.score(X[old], y[old]) == 1
    assert classifier.score(X[new], y[new]) > 0.9
    assert len(classifier.seen_.y) == 40
    assert not torch.equal(classifier.net_.module_.head.weight[1:3].cpu(), head)


def test_partial_fit_starts_afresh_and_knows_classes_to_come(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["r", "g"])
    names = ["b", "g", "r", "y"]
    classifier.partial_fit(X[two][:6], y[two][:6], classes=names)
    np.testing.assert_array_equal(classifier.classes_, names)
    proba = classifier.predict_proba(X)
    assert proba.shape == (40, 4)
    assert proba[two].argmax(axis=1).tolist() == [names.index(label) for label in y[two]]
    with pytest.raises(ValueError, match=r"y contains .*'y'.* not in classes="):
        classifier.partial_fit(X, y, classes=["b", "g", "r"])
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)


def test_classes_foretold_or_alone_are_solved_for_when_they_come(classifier, pixels):
    X, y = pixels
    order = np.argsort(y, kind="stable")
    classifier.set_params(max_epochs=0)
    foretold, plain = clone(classifier), clone(classifier)
    for chunk in np.split(order, 4):  # one class after the other; the first fit has only one
        foretold.partial_fit(X[chunk], y[chunk], classes=["b", "g", "r", "y"])
        plain.partial_fit(X[chunk], y[chunk])
    assert plain.score(X, y) > 0.9
    assert foretold.score(X, y) > 0.9


def test_a_continuation_of_another_network_or_other_labels_is_refused(classifier, pixels):
    X, y = pixels
    proba = classifier.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match=r"fit with 2 frozen layers .* now specify 3 .*call fit"):
        classifier.set_params(n_frozen=3).partial_fit(X[:2], y[:2])
    with pytest.raises(ValueError, match=r"labels of type int64, .* different kind than the classes so far"):
        classifier.set_params(n_frozen=2).partial_fit(X[:2], [1, 2])
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)


@pytest.mark.parametrize(
    ("before", "after"),
    [([True, False], [1, 2]), ([1, 2], [True, False]), ([1, 2], np.array(["2024", "2025"], "M8[Y]"))],
)
def test_labels_of_another_kind_are_refused(mlp, before, after):
    X = np.eye(2, 7, dtype=np.float32)
    fitted = FrozenPrefixClassifier(mlp, max_epochs=0, random_state=0).fit(X, before)
    with pytest.raises(ValueError, match="different kind than the classes so far"):
        fitted.partial_fit(X, after)
    dan = FrozenPrefixClassifier(mlp, recipe=DAN(), max_epochs=0, random_state=0)
    with pytest.raises(ValueError, match="must have the same type"):
        dan.fit(X, before, X_source=X, y_source=after)
    source = clone(dan).set_params(recipe=DAN(labels="source"), warm_start=True).fit(X, before)
    with pytest.raises(ValueError, match="different kind than the classes so far"):
        source.fit(X, after)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1, np.nan], r"classes\[2\] is nan"),
        ([0, 1, "a"], "classes contains labels of different types"),
        ([False, True], r"y contains np.int64\(0\), which is not in classes=\[False  True\]"),
    ],
)
def test_declared_classes_are_labels_of_the_same_kind(mlp, classes, message):
    with pytest.raises(ValueError, match=message):
        FrozenPrefixClassifier(mlp, random_state=0).partial_fit(np.eye(2, 7), [0, 1], classes=classes)


def test_a_fit_that_fails_changes_nothing(mlp):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 7)).astype(np.float32), np.arange(20) % 2
    fitted = FrozenPrefixClassifier(mlp, random_state=0, max_epochs=1).fit(X, y)
    proba = fitted.predict_proba(X)
    with pytest.raises((ValueError, RuntimeError)):
        fitted.fit(X[:, :5], y)
    assert fitted.n_features_in_ == 7
    np.testing.assert_array_equal(fitted.predict_proba(X), proba)


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
    for _ in range(2):  # rounds with images of only one class
        classifier.partial_fit(X[y == "b"], y[y == "b"])
    assert classifier.score(X, y) >= 0.95
    assert len(classifier.seen_.y) == len(y)


def test_partial_fit_on_its_own_is_fit_and_takes_new_labels():
    X, y = blobs(40)
    a = on_features().partial_fit(X, y)
    np.testing.assert_array_equal(a.predict_proba(X), on_features().fit(X, y).predict_proba(X))
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


@pytest.mark.parametrize("way", ["warm_start", "partial_fit"])
def test_a_probe_learns_from_further_images_of_its_classes(way):
    X, y = blobs(200)
    probe = on_features(max_epochs=0, warm_start=way == "warm_start").fit(X[:9], y[:9])
    whole = on_features(max_epochs=0).fit(X, y)
    if way == "warm_start":
        probe.fit(X, y)
    else:
        probe.partial_fit(X[9:], y[9:])
    np.testing.assert_allclose(probe.predict_proba(X), whole.predict_proba(X), atol=1e-4)


def test_a_declared_class_keeps_its_column_when_its_images_were_mistakes(tmp_path):
    X, y = blobs(30, n_classes=3)
    classifier = on_features(max_epochs=0).partial_fit(X, y, classes=["ant", "bee", "cat", "dog"])
    without = np.where(y == "cat", "bee", y)
    path = tmp_path / "classifier.safetensors"
    classifier.save(path, include_labelled=True)
    for stream in (classifier, on_features(max_epochs=0).load(path)):
        stream.partial_fit(X, without)
        assert stream.classes_.tolist() == ["ant", "bee", "cat", "dog"]
    undeclared = on_features(max_epochs=0).fit(X, y).partial_fit(X, without)
    assert undeclared.classes_.tolist() == ["ant", "bee"]


def test_a_probe_learns_from_corrected_labels():
    X, y = blobs(90)
    wrong = y.copy()
    wrong[:12] = np.where(y[:12] == "ant", "bee", "ant")
    probe = on_features(max_epochs=0).fit(X, wrong).partial_fit(X[:12], y[:12])
    np.testing.assert_allclose(probe.predict_proba(X), on_features(max_epochs=0).fit(X, y).predict_proba(X), atol=1e-4)


def test_a_network_whose_features_are_not_finite_is_named():
    net = toy_mlp()
    with torch.no_grad():
        net[0].weight[0, 0] = torch.nan
    X, y = blobs()
    for data in ({}, {"X_unlabeled": X}):
        with pytest.raises(ValueError, match="features of the labelled images are not finite; check its weights"):
            on_features(net=net).fit(X[:20], y[:20], **data)


def test_training_that_diverges_with_a_pool_ends():
    X, y = blobs()
    with pytest.raises(ValueError, match="diverged"):
        on_features(n_frozen=0, lr=1e12, min_steps=20).fit(X[:20], y[:20], X_unlabeled=X)


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_an_empty_pool_is_none(way):
    X, y = blobs()
    last = getattr(on_features(), way)(X, y, X_unlabeled=X[:0])
    np.testing.assert_array_equal(last.predict_proba(X), on_features().fit(X, y).predict_proba(X))


def test_errors_of_the_pool_name_it():
    X, y = blobs()
    frame = pd.DataFrame(X, columns=list("abcdef"))
    with pytest.raises(ValueError, match=r"X_unlabeled: The feature names should match"):
        on_features().fit(frame, y, X_unlabeled=frame[list("fedcba")])
    with pytest.raises(ValueError, match=r"X_unlabeled: X has 5 features, but .* 6"):
        on_features().fit(X, y, X_unlabeled=X[:, :5])
    with pytest.raises(ValueError, match=r"X_unlabeled: Input contains NaN"):
        on_features().fit(X, y, X_unlabeled=np.full((4, 6), np.nan))


def test_relative_paths_keep_their_meaning(files, tmp_path, monkeypatch):
    paths, y = files
    monkeypatch.chdir(tmp_path)
    names = np.array([os.path.basename(path) for path in paths])
    net = on_pixels(cache=False).fit(names[:20], y[:20], X_unlabeled=names)
    net = pickle.loads(pickle.dumps(net))
    absolute = on_pixels(cache=False).fit(paths[:20], y[:20], X_unlabeled=paths).partial_fit(paths[20:], y[20:])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    net.partial_fit(paths[20:], y[20:])
    np.testing.assert_array_equal(net.predict_proba(paths), absolute.predict_proba(paths))


def test_subsets_of_a_pool_that_the_results_of_a_fit_cannot_hold_are_predicted():
    X, y = blobs(300)
    net = on_features().fit(X, y)
    whole = net.predict_proba(X)
    net._final.clear()
    net._final.max_bytes = 4 * 4 * 100 * net._n_features_out
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = rng.permutation(300)[: rng.integers(20, 100)]
        np.testing.assert_allclose(net.predict_proba(X[rows]), whole[rows], atol=1e-6)
