"""Continuing a fit: classes without new images are not unlearned, mistakes are corrected, files may move."""

import os
import shutil

import numpy as np
import pytest
from modAL.models import ActiveLearner
from scipy.optimize import minimize
from sklearn.base import clone
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.training.head import HeadPenalty, solve_head
from tests.conftest import SMALL


@pytest.fixture
def net(convnet):
    return FrozenPrefixClassifier(convnet, preprocess=SMALL, n_frozen=1, min_steps=60, random_state=0)


@pytest.mark.parametrize("way", ["partial_fit", "teach"])
def test_classes_without_new_images_are_not_unlearned(net, pixels, tmp_path, way):
    """Ten correct labels of two of four classes took a loaded model from 1.0 to .5."""
    X, y = pixels
    net.fit(X[:20], y[:20]).save(tmp_path / "model.safetensors")
    rows = np.flatnonzero(np.isin(y, ["r", "g"]))[10:20]
    if way == "partial_fit":
        net = clone(net).load(tmp_path / "model.safetensors")
        assert net.score(X, y) == 1
        absent = np.isin(net.classes_, ["b", "y"])
        before = [p.detach().clone()[absent] for p in net.net_.module_.head.parameters()]
        net.partial_fit(X[rows], y[rows])
        after = [p.detach()[absent] for p in net.net_.module_.head.parameters()]
        for values, others in zip(before, after, strict=True):
            np.testing.assert_array_equal(values, others)
    else:
        learner = ActiveLearner(net.set_params(warm_start=True), X_training=X[:20], y_training=y[:20])
        learner.teach(X[rows], y[rows], only_new=True)
    assert net.score(X, y) == 1


def test_a_new_class_alone_does_not_take_everything(net, pixels, tmp_path):
    X, y = pixels
    known = y != "y"
    net.fit(X[known][:15], y[known][:15]).save(tmp_path / "model.safetensors")
    loaded = clone(net).load(tmp_path / "model.safetensors").partial_fit(X[~known], y[~known])
    assert loaded.classes_.tolist() == ["b", "g", "r", "y"]
    assert loaded.score(X[~known], y[~known]) > 0.8
    assert loaded.score(X[known], y[known]) > 0.8


@pytest.mark.parametrize("weighted", [False, True])
def test_a_file_with_its_labelled_images_continues_as_memory_does(net, pixels, tmp_path, weighted):
    X, y = pixels
    weight = np.linspace(1, 2, 20) if weighted else None
    net.fit(X[:20], y[:20], weight).save(tmp_path / "model.safetensors", include_labelled=True)
    loaded = clone(net).load(tmp_path / "model.safetensors")
    for model in (net, loaded):
        model.partial_fit(X[15:30], y[15:30])
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    assert len(loaded.seen_.y) == 30
    loaded.save(tmp_path / "again.safetensors", include_labelled=True)
    again = clone(net).load(tmp_path / "again.safetensors")
    for model in (net, again):
        model.partial_fit(X[30:], y[30:])
    np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
    plain = tmp_path / "plain.safetensors"
    net.save(plain)
    assert plain.stat().st_size < (tmp_path / "again.safetensors").stat().st_size


def test_a_file_with_its_labelled_images_recognises_them_in_the_pool(net, files, tmp_path):
    X, y = files
    net.set_params(max_epochs=0, n_frozen=0).fit(X[:20], y[:20]).save(
        tmp_path / "model.safetensors", include_labelled=True
    )
    loaded = clone(net).load(tmp_path / "model.safetensors")
    for model in (net, loaded):
        model.set_params(max_epochs=1).partial_fit(X[20:22], y[20:22], X_unlabeled=X)
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))


def test_images_that_a_file_does_not_hold_cannot_be_augmented(net, pixels, tmp_path):
    X, y = pixels
    net.fit(X[:20], y[:20]).save(tmp_path / "model.safetensors", include_labelled=True)
    loaded = clone(net).set_params(augment=lambda x: x.flip(3)).load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not the images themselves"):
        loaded.partial_fit(X[20:], y[20:])


@pytest.mark.parametrize("way", ["partial_fit", "warm_start"])
def test_a_misspelt_class_goes_with_its_last_image(net, pixels, way):
    X, y = pixels
    wrong = y.astype("<U3")
    wrong[3] = "cta"
    net.set_params(warm_start=way == "warm_start").fit(X[:20], wrong[:20])
    assert "cta" in net.classes_
    if way == "partial_fit":
        net.partial_fit(X[3:4], y[3:4])
    else:
        net.fit(X, y)
    assert net.classes_.tolist() == ["b", "g", "r", "y"]
    assert net.predict_proba(X).shape == (40, 4)
    assert net.score(X, y) == 1


def test_classes_to_come_stay(net, pixels):
    X, y = pixels
    net.partial_fit(X[:20], y[:20], classes=["b", "g", "r", "y", "z"]).partial_fit(X[20:], y[20:])
    assert net.classes_.tolist() == ["b", "g", "r", "y", "z"]


def test_a_touched_or_copied_file_is_the_same_image(net, files, tmp_path):
    X, y = files
    net.fit(X[:20], y[:20])
    os.utime(X[0], (1, 1))
    copy = tmp_path / "copy.png"
    shutil.copyfile(X[1], copy)
    net.partial_fit(np.array([X[0], str(copy)]), y[:2])
    assert len(net.seen_.y) == 20


def test_a_labelled_file_may_be_deleted_and_the_folder_changed(net, files, monkeypatch, tmp_path):
    X, y = files
    monkeypatch.chdir(tmp_path)
    relative = np.array([os.path.basename(path) for path in X])
    net.fit(relative[:20], y[:20])
    os.remove(X[0])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    net.partial_fit(X[20:30], y[20:30])
    assert len(net.seen_.y) == 30


def test_the_head_drawn_to_its_weights_equals_a_plain_version():
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(9, 5)), np.array([0, 1, 0, 1, 3, 0, 1, 3, 0])
    hidden = np.zeros((4, 4), dtype=bool)
    hidden[:3, 2] = True  # class 2 has no image; class 3 is new, and told apart from all
    with seeded(0):
        head = nn.Linear(5, 4)
    W, b = (p.detach().double().numpy().copy() for p in head.parameters())
    penalty = HeadPenalty.of(features)
    z = (features - penalty.center) / penalty.scale
    new = np.array([0, 1, 3])

    def loss(flat):
        delta = flat.reshape(3, 5)
        logits = features @ W.T + b
        logits[:, new] += z @ delta.T
        logits[hidden[y]] = -np.inf
        log_proba = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_proba[np.arange(9), y].sum() + (delta**2).sum() / (2 * penalty.C)

    delta = minimize(loss, np.zeros(15), method="BFGS", options={"gtol": 1e-6}).x.reshape(3, 5)
    solve_head(head, features, y, penalty, new=new, hidden=hidden)
    expected_W, expected_b = W.copy(), b.copy()
    expected_W[new] += delta / penalty.scale
    expected_b[new] -= delta / penalty.scale @ penalty.center
    np.testing.assert_allclose(head.weight.detach(), expected_W, atol=1e-3)
    np.testing.assert_allclose(head.bias.detach(), expected_b, atol=1e-3)
