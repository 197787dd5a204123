"""The source used by queries by discrepancy, and their behaviour if there are too many pairs."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from skal import DAN, FrozenPrefixClassifier, SelectiveJoint, SourceProfile
from skal.active import Learner
from skal.numerics.points import Points
from skal.query import discrepancy as module
from skal.query import discrepancy_coreset_sampling, mmd_sampling
from skal.query._features import Features
from tests.conftest import SMALL


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(300, 6))), torch.from_numpy(rng.normal(size=(100, 6)) + 0.5)


def test_random_features_stand_for_all_pairs(samples, monkeypatch):
    X, source = samples
    features = Features(Points([X]), X[:0], source, 0)
    exact = module.Removal(features, source, None, np.random.RandomState(0))
    monkeypatch.setattr(module, "_PAIRS", 0)
    monkeypatch.setattr(module, "_FREQUENCIES", 20_000)
    approximate = module.Removal(features, source, None, np.random.RandomState(0))
    for name in ("_b", "_c"):
        a, b = getattr(exact, name), getattr(approximate, name)
        assert (a - b).abs().max() < 0.03 * a.abs().max()
    assert np.corrcoef(exact.gains(), approximate.gains())[0, 1] > 0.99


def test_random_features_are_seeded(samples, monkeypatch):
    X, source = (sample.numpy() for sample in samples)
    monkeypatch.setattr(module, "_PAIRS", 0)
    monkeypatch.setattr(module, "_FREQUENCIES", 50)
    picks = [mmd_sampling(LogisticRegression(), X, 5, X_source=source, random_state=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(picks[0], picks[1])
    assert picks[0].tolist() != picks[2].tolist()


@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
def test_the_source_is_what_the_classifier_was_adapted_from(strategy, mlp, samples):
    X, source = (np.column_stack([sample, sample[:, 0]]).astype(np.float32) for sample in samples)
    y = np.arange(100) % 2
    dan = FrozenPrefixClassifier(mlp, recipe=DAN(labels="source"), max_epochs=1, min_steps=0, random_state=0)
    dan.fit(source, y, X_unlabeled=X)
    learner = Learner(dan, X, np.zeros(300))
    learner.labelled = np.arange(10)
    own = strategy(learner, X[10:], 6)
    np.testing.assert_array_equal(own, strategy(learner, X[10:], 6, X_source=source))


@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
def test_a_source_of_several_sets_is_all_of_their_images(strategy, convnet, source_images, pixels):
    X_source, y_source = source_images
    sets = {"X_source": (X_source[:5], X_source[5:]), "y_source": (y_source[:5], list(y_source[5:]))}
    recipe = SelectiveJoint(3, n_iterations=2)
    joint = FrozenPrefixClassifier(
        convnet, preprocess=SMALL, n_frozen=1, recipe=recipe, max_epochs=1, min_steps=0, random_state=0
    )
    joint.fit(pixels[0][:12], pixels[1][:12], **sets)
    pool = pixels[0][12:]
    np.testing.assert_array_equal(strategy(joint, pool, 6), strategy(joint, pool, 6, X_source=X_source))


def test_a_source_may_be_a_tuple_of_images(convnet, source_images, pixels):
    X_source, y_source = source_images
    dan = FrozenPrefixClassifier(
        convnet, preprocess=SMALL, n_frozen=1, recipe=DAN(), max_epochs=1, min_steps=0, random_state=0
    )
    dan.fit(*pixels, X_source=tuple(X_source), y_source=tuple("rgbyo"[k] for k in y_source))
    np.testing.assert_array_equal(mmd_sampling(dan, pixels[0], 6), mmd_sampling(dan, pixels[0], 6, X_source=X_source))


def test_a_profile_is_a_source(convnet, source_images, pixels):
    from skal import FrozenPrefixClassifier

    profile = SourceProfile(convnet, preprocess=SMALL).fit(*source_images)
    net = FrozenPrefixClassifier(convnet, preprocess=SMALL)
    layer = profile.layers_[0][1]
    (features,) = net.activations(pixels[0], [layer], pooled=profile.pooled)
    expected = mmd_sampling(LogisticRegression(), features, 5, X_source=profile.centers_[layer])
    np.testing.assert_array_equal(mmd_sampling(net, pixels[0], 5, profile=profile), expected)
    np.testing.assert_array_equal(mmd_sampling(net.set_params(source=profile), pixels[0], 5), expected)


def test_no_source_is_named():
    with pytest.raises(ValueError, match="LogisticRegression has neither"):
        mmd_sampling(LogisticRegression(), np.zeros((5, 2)), 1)
