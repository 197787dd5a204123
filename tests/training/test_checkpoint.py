"""A saved classifier: whole or refused by name, with labels of every type."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from skorch.callbacks import LRScheduler
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform
from skal._random import seeded
from skal.training.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import SMALL, TinyConvNet
from tests.damage import GONE, TENSOR_DAMAGES


@pytest.fixture
def fitted(classifier, pixels):
    return classifier.set_params(source=None, max_epochs=0).fit(*pixels)


@pytest.mark.parametrize("damage", TENSOR_DAMAGES)
def test_a_damaged_model_is_refused_by_name(fitted, tmp_path, damage):
    path = tmp_path / "net.safetensors"
    fitted.save(path)
    TENSOR_DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"net\.safetensors' is (not a skal classifier file|damaged)"):
        clone(fitted).load(path)


@pytest.mark.parametrize("damage", GONE)
def test_a_model_that_is_no_file_is_an_os_error_that_names_it(fitted, tmp_path, damage):
    path = tmp_path / "net.safetensors"
    fitted.save(path)
    GONE[damage](path)
    with pytest.raises(OSError, match=r"net\.safetensors"):
        clone(fitted).load(path)


def test_an_incomplete_model_names_what_it_lacks(fitted, tmp_path):
    path = tmp_path / "net"
    fitted.save(path)
    state, described = read_checkpoint(path)
    optional = {"backbone", "feature_names_in", "declared"}  # for an error; absent in older files
    write_checkpoint(path, state, {key: value for key, value in described.items() if key not in optional})
    clone(fitted).load(path)
    for name in described.keys() - optional:
        write_checkpoint(path, state, {key: value for key, value in described.items() if key != name})
        with pytest.raises(ValueError, match=rf"net' is incomplete: \['{name}'\] are missing from its description"):
            clone(fitted).load(path)
    for name in state:
        write_checkpoint(path, {key: value for key, value in state.items() if key != name}, described)
        with pytest.raises(ValueError, match=rf"net' .*'{name}'"):
            clone(fitted).load(path)
    write_checkpoint(path, {**state, "more": torch.ones(1)}, described)
    with pytest.raises(ValueError, match=r"unknown tensors \['more'\]"):
        clone(fitted).load(path)
    name = next(name for name in state if name != "0.head.weight" and state[name].ndim)
    write_checkpoint(path, {**state, name: torch.ones(1, 1, 1)}, described)
    with pytest.raises(ValueError, match="of another shape"):
        clone(fitted).load(path)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]"),
        np.array([1, 2, 3, 4], dtype="timedelta64[h]"),
        np.array([False, True]),
        np.array([0.5, 1, 2, 3]),
        np.array([-1, 5, 7, 2**40]),
        np.array(["née", "b", "c", "日"]),
        np.array(["a", "b", "c", "d"], dtype=object),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_of_every_type_survive(classifier, pixels, tmp_path, labels):
    X, y = pixels
    given = labels[np.unique(y, return_inverse=True)[1] % len(labels)]
    if labels.dtype.kind == "f":
        given = np.where(given == 0.5, 0, given)  # scikit-learn takes whole floats only
    fitted = classifier.set_params(source=None, max_epochs=0).fit(X, given)
    fitted.save(tmp_path / "net")
    loaded = clone(fitted).load(tmp_path / "net")
    assert loaded.classes_.dtype == fitted.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))


def test_a_failed_save_leaves_the_old_model(fitted, pixels, tmp_path, monkeypatch):
    path = tmp_path / "net"
    fitted.save(path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skal._files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]
    clone(fitted).load(path)


def test_names_of_columns_survive(mlp, tmp_path):
    X, y = np.random.default_rng(0).normal(size=(20, 7)), np.arange(20) % 2
    table = pd.DataFrame(X, columns=list("abcdefg"))
    fitted = FrozenPrefixClassifier(mlp, max_epochs=1, min_steps=0, random_state=0).fit(table, y)
    fitted.save(tmp_path / "net")
    loaded = clone(fitted).fit(X, y).load(tmp_path / "net")
    assert_array_equal(loaded.feature_names_in_, fitted.feature_names_in_)
    assert loaded.feature_names_in_.dtype == object
    assert_array_equal(loaded.predict(table), fitted.predict(table))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(table[list("gfedcba")])
    fitted.fit(X, y).save(tmp_path / "net")
    assert not hasattr(loaded.load(tmp_path / "net"), "feature_names_in_")


def test_pickle_and_file(classifier, pixels, tmp_path):
    X, y = pixels
    proba = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(classifier)).predict_proba(X), proba, atol=1e-6)
    classifier.save(tmp_path / "net.safetensors")
    loaded = clone(classifier).load(tmp_path / "net.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(X), proba, atol=1e-6)
    np.testing.assert_array_equal(loaded.classes_, classifier.classes_)
    loaded.set_params(warm_start=True).fit(X, y)
    with seeded(1):
        other = TinyConvNet()
    with pytest.raises(ValueError, match="backbone or weights differ: the file has weights with the fingerprint "):
        FrozenPrefixClassifier(other, preprocess=SMALL).load(tmp_path / "net.safetensors")
    classifier.source.save(tmp_path / "profile.safetensors")
    with pytest.raises(ValueError, match="not a skal classifier file"):
        classifier.load(tmp_path / "profile.safetensors")


def test_a_pickle_holds_the_weights_once_and_no_optimizer():
    X, y = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32), np.arange(40) % 2
    with seeded(0):
        net = nn.Sequential(nn.Linear(7, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))
    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)
    fitted = FrozenPrefixClassifier(
        net, n_frozen=1, max_epochs=2, random_state=0, net_params={"callbacks": [("own", schedule)]}
    ).fit(X, y)
    fitted.set_params(net_params=None)  # skorch trains with the given callback itself
    weights = sum(weight.nbytes for weight in fitted.net_.module_.parameters())
    backbones = len(pickle.dumps(fitted.backbone)) + len(pickle.dumps(fitted.backbone_))
    assert len(pickle.dumps(fitted)) < backbones + 1.5 * weights

    again = pickle.loads(pickle.dumps(fitted)).net_
    assert again.history == fitted.net_.history
    assert dict(again.callbacks_)["own"].lr_scheduler_ is None
    assert dict(fitted.net_.callbacks_)["own"].lr_scheduler_ is not None
    assert fitted.net_.optimizer_.state
    assert again.module is again.module_


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda fitted: pickle.loads(pickle.dumps(fitted))])
def test_a_copy_continues_as_the_original_would(classifier, pixels, way):
    X, y = pixels
    classifier.fit(X[:20], y[:20])
    same = way(classifier)
    for fitted in (classifier, same):
        fitted.partial_fit(X[20:], y[20:])
    assert_array_equal(same.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"preprocess": None, "image_size": 12},
            "image_size differs: the file has 16, this classifier 12; pass image_size=16",
        ),
        (
            {"preprocess": ImageTransform(20, 16)},
            "image_size differs: the file has 16, this classifier 16 after a resize to 20; pass image_size=16",
        ),
        (
            {"preprocess": replace(SMALL, interpolation="bicubic")},
            f"preprocess differs: the file has {SMALL}, this classifier {replace(SMALL, interpolation='bicubic')}; "
            f"pass preprocess={SMALL}, image_size=None",
        ),
        ({"n_frozen": 1}, "n_frozen differs: the file has 2, this classifier 1; pass n_frozen=2 or None"),
        ({"n_frozen": -1}, "n_frozen differs: the file has 2, this classifier 3; pass n_frozen=2 or None"),
    ],
)
def test_the_parameter_that_does_not_fit_is_named(convnet, pixels, tmp_path, others, message):
    made = FrozenPrefixClassifier(convnet, preprocess=SMALL, n_frozen=2, max_epochs=0, random_state=0)
    made.fit(*pixels)
    made.save(tmp_path / "net")
    with pytest.raises(ValueError, match="net' does not fit this classifier: ") as error:
        clone(made).set_params(**others).load(tmp_path / "net")
    assert str(error.value).endswith(f": {message}")
    for allowed in (None, 2, -2):
        assert clone(made).set_params(n_frozen=allowed).load(tmp_path / "net").n_frozen_ == 2


def test_another_network_is_named(pixels, tmp_path):
    made = FrozenPrefixClassifier("squeezenet1_1", weights=None, image_size=32, max_epochs=0, random_state=0)
    made.fit(*pixels).save(tmp_path / "net")
    with pytest.raises(
        ValueError, match="backbone differs: the file has 'squeezenet1_1', this classifier 'squeezenet1_0'; pass"
    ):
        clone(made).set_params(backbone="squeezenet1_0").load(tmp_path / "net")
    with pytest.raises(ValueError, match=r"backbone or weights differ: .* this classifier 'squeezenet1_1'"):
        clone(made).set_params(random_state=1).load(tmp_path / "net")
    module = made.backbone_.layers.module  # the same network, given as a module
    clone(made).set_params(backbone=module, preprocess=made.backbone_.inputs.transform).load(tmp_path / "net")
