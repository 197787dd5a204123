"""A classifier as a pickle and as a file."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from skal import (
    FrozenPrefixClassifier,
)
from skal._random import seeded
from tests.conftest import SMALL, TinyConvNet


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
    with pytest.raises(ValueError, match="belongs to the backbone"):
        FrozenPrefixClassifier(other, preprocess=SMALL).load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"crop=16.*crop=12"):
        clone(classifier).set_params(preprocess=None, image_size=12).load(tmp_path / "net.safetensors")
    classifier.source.save(tmp_path / "profile.safetensors")
    with pytest.raises(ValueError, match="no classifier written by skal"):
        classifier.load(tmp_path / "profile.safetensors")


def test_a_damaged_checkpoint_is_named(classifier, pixels, tmp_path):
    classifier.fit(*pixels).save(tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"net\.safetensors' is no classifier written by skal, or is damaged"):
        clone(classifier).load(tmp_path / "net.safetensors")
