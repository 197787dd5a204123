"""FrozenPrefixClassifier on images: what it learns, and errors raised before any work."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skal import (
    DAN,
    FrozenPrefixClassifier,
    SelectiveJoint,
)
from skal._random import seeded
from tests.conftest import (
    TinyConvNet,
    on_features,
    toy_mlp,
)


def test_learns_real_forms_of_images(classifier, pixels, files, device):
    X, y = pixels
    classifier.set_params(device=device)
    assert classifier.fit(X, y).score(X, y) > 0.9
    proba = classifier.predict_proba(X)
    assert set(classifier.classes_) == {"r", "g", "b", "y"}
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[proba.argmax(axis=1)])
    tensors = torch.cat([classifier.backbone_.inputs.check(X).load([i]) for i in range(len(X))])
    for same in (list(files[0]), files[0], list(X), tensors, tensors.numpy()):
        np.testing.assert_allclose(classifier.predict_proba(same), proba, atol=1e-5)
        np.testing.assert_allclose(clone(classifier).fit(same, y).predict_proba(X), proba, atol=1e-4)


def test_predictions_are_those_of_the_whole_network(classifier, convnet, pixels, device):
    """Split, cached and joined again, prefix and suffix equal the plain module with the trained weights."""
    X, y = pixels
    expected = classifier.set_params(normalize=False, device=device).fit(X, y).predict_proba(X)
    whole = copy.deepcopy(convnet)
    trained = classifier.net_.module_.cpu()
    whole.load_state_dict(trained.body.state_dict(), strict=False)
    whole.fc = trained.head
    with torch.inference_mode():
        logits = whole.eval()(classifier.backbone_.inputs.check(X).load(range(len(X))))
    np.testing.assert_allclose(expected, logits.softmax(1).numpy(), atol=1e-5)


def test_two_classes_and_one_class(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["r", "g"])
    probe = clone(classifier).set_params(max_epochs=0).fit(X[two], y[two])
    assert probe.score(X[two], y[two]) > 0.9
    assert classifier.fit(X[two], y[two]).predict_proba(X).shape == (40, 2)
    one = classifier.fit(X[:1], y[:1])
    np.testing.assert_array_equal(one.predict_proba(X[:3]), np.ones((3, 1)))
    assert (one.predict(X) == y[0]).all()


def test_another_seed_gives_another_result(classifier, pixels):
    X, y = pixels
    first = classifier.fit(X, y).predict_proba(X)
    assert not np.allclose(clone(classifier).set_params(random_state=1).fit(X, y).predict_proba(X), first, atol=1e-6)


def test_in_pipelines_and_searches(classifier, pixels):
    X, y = pixels
    brighter = FunctionTransformer(lambda images: np.minimum(images, 200).astype(np.uint8))
    pipeline = make_pipeline(brighter, classifier).fit(X, y)
    assert pipeline.score(X, y) > 0.9
    on_top = make_pipeline(classifier, LogisticRegression(max_iter=1000)).fit(X, y)
    assert on_top.score(X, y) > 0.9
    search = GridSearchCV(classifier, {"n_frozen": [1, 3], "lr": [1e-3, 5e-3]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    assert cross_val_score(classifier, list(X), y, cv=2).shape == (2,)


def test_the_default_depth_follows_the_labels_is_layer_A_where_it_is_read_and_all_layers_where_none_is_trained():
    with seeded(0):
        deep = nn.Sequential(*[layer for _ in range(24) for layer in (nn.Linear(5, 5), nn.ReLU())], nn.Linear(5, 2))
    X, y = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 2
    classifier = FrozenPrefixClassifier(deep, max_epochs=1, min_steps=0, random_state=0)
    few = clone(classifier).fit(X[:19], y[:19])
    assert few.n_frozen_ == 21  # of 24 below the head
    assert few.partial_fit(X, y).n_frozen_ == 21  # a fit that continues keeps its depth
    assert clone(classifier).fit(X, y).n_frozen_ == 16
    assert clone(classifier).fit(np.tile(X, (25, 1))[:499], np.tile(y, 25)[:499]).n_frozen_ == 16
    assert clone(classifier).fit(np.tile(X, (25, 1)), np.tile(y, 25)).n_frozen_ == 0
    assert clone(classifier).fit(X, y, sample_weight=np.arange(20) > 0).n_frozen_ == 21  # weight 0 is left out
    assert clone(classifier).fit(X, y, sample_weight=2.0).n_frozen_ == 16  # the same weight for all
    assert clone(classifier).fit(X, torch.from_numpy(y)).n_frozen_ == 16
    with pytest.warns(DataConversionWarning):
        assert clone(classifier).fit(X[:19], y[:19, None]).n_frozen_ == 21
    assert clone(classifier).set_params(recipe=DAN()).fit(X, y).n_frozen_ == 22
    probe = clone(classifier).set_params(max_epochs=0, warm_start=True).fit(X, y)
    assert probe.n_frozen_ == 24
    assert probe.set_params(max_epochs=1).fit(X, y).n_frozen_ == 16  # a probe has no training to continue


@pytest.mark.parametrize("recipe", [None, DAN(), SelectiveJoint()])
def test_a_shallow_net_has_a_default_depth(recipe):
    X, y = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 2
    net = FrozenPrefixClassifier(nn.LazyLinear(2), recipe=recipe, max_epochs=1, min_steps=0, random_state=0)
    assert net.fit(X, y).n_frozen_ == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_frozen": 7}, "n_frozen=7 is invalid: this network has 4 weight layers below its head"),
        ({"lr": -1}, "'lr' parameter .* must be a float in the range"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"head_init": "zeros"}, "'head_init' parameter .* 'zeros'"),
        ({"source": "imagenet"}, "'source' parameter"),
        ({"optimizer": "adam"}, "'optimizer' parameter .* 'adam'"),
        ({"class_weight": {"b": -1.0}}, r"class_weight\['b'\] is -1.0, which is not a finite number of at least 0"),
        ({"class_weight": {"b": 1, "g": np.nan}}, r"class_weight\['g'\] is nan"),
        ({"class_weight": {"b": np.float32(np.inf)}}, r"class_weight\['b'\] is .*inf"),
        ({"class_weight": {"b": "2"}}, r"class_weight\['b'\] is '2'"),
        ({"lr": 1e30}, r"training diverged.*lr=1e\+30"),
    ],
)
def test_bad_parameters_are_refused(classifier, pixels, parameters, message):
    with pytest.raises(ValueError, match=message):
        classifier.set_params(**parameters).fit(*pixels)
    assert not hasattr(classifier, "net_")


def test_bad_data_is_refused_before_training(classifier, pixels, files):
    X, y = pixels
    for bad_X, bad_y, message in [
        (X, y[:-1], "inconsistent numbers of samples"),
        (X, None, "requires y to be passed"),
        (X, np.linspace(0, 1, 40), "Unknown label type"),
        (X[..., 0:2], y, "but this network takes uint8 images"),
        (X.reshape(40, -1), y, "but this network takes uint8 images"),
        (np.full((40, 3, 16, 16), np.nan, np.float32), y, "NaN"),
        ([*files[0][:-1], "gone.png"], y, "gone.png"),
    ]:
        with pytest.raises(ValueError, match=message):
            classifier.fit(bad_X, bad_y)
    with open(files[0][-1], "wb") as file:
        file.write(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read 1 of \d+ image files: '.*39\.png'"):
        classifier.fit(files[0], y)
    assert not hasattr(classifier, "net_")


def test_the_profile_of_another_backbone_is_refused(classifier, pixels):
    with seeded(5):
        classifier.set_params(backbone=TinyConvNet())
    with pytest.raises(ValueError, match="source profile belongs to another backbone"):
        classifier.fit(*pixels)


def test_numpy_integers_are_depths(classifier, pixels):
    X, y = pixels
    search = GridSearchCV(classifier.set_params(source=None), {"n_frozen": np.arange(2, 4)}, cv=2).fit(X, y)
    assert search.best_estimator_.n_frozen_ in (2, 3)


def test_frozen_prefix_in_cross_validation_with_a_class_the_fold_lacks():
    X, y = load_iris(return_X_y=True)
    folds = [(np.arange(0, 100), np.arange(50, 150)), (np.arange(50, 150), np.arange(0, 100))]
    net = toy_mlp(4)
    scores = cross_val_score(on_features(net=net), X, y, cv=folds)
    assert np.isfinite(scores).all()
    assert (scores <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("recipe", [None, DAN(kernel_weights="optimal"), SelectiveJoint(3, n_iterations=2)])
def test_results_do_not_depend_on_the_default_dtype_of_torch(classifier, pixels, recipe):
    X, y = pixels
    data = {"X_source": X, "y_source": y} if recipe is not None else {"X_unlabeled": X}

    def proba():
        fitted = clone(classifier).set_params(recipe=recipe, max_epochs=1, cache=False, mirror=True)
        return fitted.fit(X[:12], y[:12], **data).predict_proba(X)

    single = proba()
    torch.set_default_dtype(torch.float64)
    try:
        double = proba()
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dtype == np.float32
    np.testing.assert_allclose(double, single, atol=1e-6)
