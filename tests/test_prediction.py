"""Outputs of a fitted classifier besides labels (activations, source probabilities), and how it reads data."""

import numpy as np
import pytest
import torch

from tests.conftest import blobs, on_features


def test_activations_before_and_after_the_cut(classifier, convnet, pixels, device):
    X, y = pixels
    classifier.set_params(device=device)
    kept = {}
    for name in ("stem", "bn2", "conv3"):
        convnet.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: kept.update({name: out.clone()})
        )
    before = classifier.activations(X, ["stem", "bn2", "conv3"])
    inputs = classifier.fit(X, y).backbone_.inputs.check(X).load(range(40))
    with torch.inference_mode():
        convnet(inputs)
    for values, name in zip(before, ("stem", "bn2", "conv3"), strict=True):
        np.testing.assert_allclose(values, kept[name].flatten(1), atol=1e-5)
    after = classifier.activations(X, ["stem", "bn2", "conv3"])
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.allclose(after[2], before[2], atol=1e-4)
    np.testing.assert_allclose(classifier.activations(X, ["bn2"], pretrained=True)[0], before[1], atol=1e-5)
    (pooled,) = classifier.activations(X, ["conv3"], pooled=True)
    np.testing.assert_allclose(pooled, after[2].reshape(40, 10, -1).mean(axis=2), atol=1e-5)
    np.testing.assert_allclose(classifier.transform(X), classifier.activations(X, [-2])[0], atol=1e-5)
    for layers in ([-2, -2], ["stem", "stem"], ["conv1", "conv1", "bn2"]):  # one layer requested twice
        assert [len(values) for values in classifier.activations(X, layers)] == [40] * len(layers)


def test_source_proba_is_that_of_the_pretrained_network(classifier, convnet, pixels, device):
    X, y = pixels
    classifier.set_params(device=device).fit(X, y)
    with torch.inference_mode():
        expected = convnet(classifier.backbone_.inputs.check(X).load(range(40))).softmax(1)
    np.testing.assert_allclose(classifier.source_proba(X), expected, atol=1e-6)


def test_a_bar_shows_long_passes_alone(classifier, pixels, capsys):
    X, y = pixels
    many = np.concatenate([X] * 15)
    classifier.set_params(verbose=True).fit(X, y).predict(many)
    assert "600/600" in capsys.readouterr().err
    classifier.predict(X)
    assert capsys.readouterr().err == ""


def test_memory_maps_are_read_block_by_block(classifier, pixels, tmp_path):
    X, y = pixels
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(classifier.predict_proba(mapped), expected, atol=1e-6)
    tensors = classifier.backbone_.inputs.check(X).load(range(40)).numpy().astype(np.float64)
    np.save(tmp_path / "T.npy", tensors)
    mapped = np.load(tmp_path / "T.npy", mmap_mode="r")
    assert classifier.backbone_.inputs.check(mapped).array is mapped  # not converted as a whole
    np.testing.assert_allclose(classifier.predict_proba(mapped), expected, atol=1e-5)
    tensors[3] = 1e300
    with pytest.raises(ValueError, match="NaN or infinity, first in row 3"):
        classifier.predict(tensors)


def test_final_representations_are_found_block_by_block_and_the_rest_computed(monkeypatch):
    """The cache is filled up to its bound, silently: a pool that is scored in parts fills it."""
    X, y = blobs(400)
    classifier = on_features().fit(X[:30], y[:30])
    expected = classifier.transform(X)
    computed = []
    run = type(classifier.net_.module_).features
    monkeypatch.setattr(
        type(classifier.net_.module_), "features", lambda self, x: computed.append(len(x)) or run(self, x)
    )
    for fits, lacking in ((400, 0), (256, 144), (300, 100), (0, 400)):
        classifier._final.clear()
        classifier._final.max_bytes = 400 * expected.shape[1] * 4  # the request of a call is within the bound
        if fits:
            classifier.transform(X[:fits])
        computed.clear()
        np.testing.assert_allclose(classifier.transform(X), expected, atol=1e-6)
        assert sum(computed) == lacking
    classifier._final.max_bytes = 200 * expected.shape[1] * 4
    for _ in range(3):
        parts = [classifier.transform(X[start : start + 150]) for start in range(0, 400, 150)]
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-6)
