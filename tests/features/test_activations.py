"""The cache: what was computed once is not computed again, whoever asks, and the bound holds."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.backbones.load import load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.cache import CACHE
from skal.features.memory import ActivationCache
from tests.conftest import SMALL, TinyConvNet


@pytest.fixture
def forwards(monkeypatch):
    """How many images went through the stem of the network."""
    seen = []
    original = torch.nn.Conv2d.forward

    def counting(self, x):
        if self.in_channels == 3 and torch.is_inference_mode_enabled():  # not the check of a new graph
            seen.extend([0] * len(x))
        return original(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counting)
    return seen


def test_an_image_passes_the_prefix_once(classifier, pixels, forwards):
    X, y = pixels
    classifier.fit(X[:20], y[:20])
    assert len(forwards) == 20
    classifier.predict(X[:20])
    clone(classifier).fit(X[5:15].copy(), y[5:15])
    assert len(forwards) == 20
    classifier.predict_proba(X)
    assert len(forwards) == 40
    classifier.activations(X[::-1], [-2], pooled=True)
    assert len(forwards) == 40


def test_an_unfitted_query_already_keeps_what_training_needs(classifier, pixels, forwards):
    X, y = pixels
    classifier.activations(X, [-4, -2], pooled=True)
    assert len(forwards) == 40
    classifier.fit(X, y).predict(X)
    assert len(forwards) == 40


@pytest.mark.parametrize("mirror", [False, True])
def test_pixels_of_arrays_are_not_cached(mirror, classifier, pixels):
    X, y = pixels
    CACHE.clear()
    classifier.set_params(n_frozen=0, mirror=mirror, max_epochs=1, min_steps=1).fit(X, y).predict(X)
    assert CACHE.n_bytes == 0


def test_decoded_files_are_cached(classifier, pixels, tmp_path):
    CACHE.clear()
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, pixels[0], strict=False):
        Image.fromarray(image).save(path)
    classifier.set_params(n_frozen=0, max_epochs=1, min_steps=1).fit(paths, [0, 1, 0, 1])
    assert CACHE.n_bytes == 4 * 3 * 16 * 16 * 4


def test_without_cache_everything_is_computed_anew(classifier, pixels, forwards):
    X, y = pixels
    CACHE.clear()
    classifier.set_params(cache=False).fit(X, y).predict(X)
    assert len(forwards) == 80
    assert CACHE.n_bytes == 0


def test_other_weights_other_sizes_other_rows(pixels):
    X = pixels[0]
    values = []
    for seed, size in ((0, 16), (1, 16), (0, 12), (0, 16)):
        backbone = load_backbone(TinyConvNet, image_size=size, seed=seed)
        points = [Point(backbone.layers.features)]
        (block,) = frozen_activations(backbone, backbone.inputs.check(X), points)
        values.append(block[0])
    torch.testing.assert_close(values[0], values[3], rtol=0, atol=0)
    assert not torch.allclose(values[0], values[1])
    assert not torch.allclose(values[0], values[2])


def test_rows_come_in_order_across_blocks_and_partial_knowledge(monkeypatch, pixels):
    backbone = load_backbone(TinyConvNet, preprocess=SMALL)
    point, other = Point(backbone.layers.features), Point(backbone.layers.resolve("conv1"), True)
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, size=(1030, 16, 16, 3), dtype=np.uint8)
    inputs = backbone.inputs.check(X)
    expected = torch.cat([b[0] for b in frozen_activations(backbone, inputs, [point], cache=None)])
    cache = ActivationCache()
    list(frozen_activations(backbone, backbone.inputs.check(X[::3]), [point], cache=cache))
    blocks = list(frozen_activations(backbone, inputs, [other, point], cache=cache, batch_size=50))
    assert [len(block[0]) for block in blocks] == [128] * 8 + [6]
    torch.testing.assert_close(torch.cat([block[1] for block in blocks]), expected)


def test_a_small_cache_changes_no_result(classifier, pixels, monkeypatch):
    X, y = pixels
    expected = classifier.fit(X, y).predict_proba(X)
    CACHE.clear()
    monkeypatch.setattr(CACHE, "max_bytes", 4000)
    with pytest.warns(RuntimeWarning, match="recomputed at every pass") as caught:
        np.testing.assert_allclose(classifier.fit(X, y).predict_proba(X), expected, rtol=1e-5)
    assert len(caught) == 1
    assert CACHE.n_bytes <= 4000


def test_equal_images_in_a_full_cache(classifier, pixels, monkeypatch):
    X, y = pixels
    twice = np.concatenate([X, X])
    monkeypatch.setattr(CACHE, "max_bytes", 20_000)
    with pytest.warns(RuntimeWarning, match="recomputed at every pass"):
        expected = classifier.fit(twice, np.concatenate([y, y])).predict_proba(twice)
    for _ in range(3):
        np.testing.assert_allclose(classifier.predict_proba(twice[::-1]), expected[::-1], atol=1e-6)
    cache = ActivationCache(max_bytes=12)
    cache.put(b"s", [b"a", b"a"], torch.ones(2, 1))
    cache.put(b"s", [b"b", b"c", b"d"], torch.ones(3, 1))
    assert cache.n_bytes == 12


def test_a_tensor_that_is_no_parameter_tells_networks_apart(pixels):
    class Shifted(TinyConvNet):
        def __init__(self, shift):
            super().__init__()
            self.shift = torch.tensor(float(shift))

        def forward(self, x):
            return super().forward(x - self.shift)

    with seeded(0):
        first = Shifted(0)
    second = copy.deepcopy(first)
    second.shift = torch.tensor(5.0)
    values = [FrozenPrefixClassifier(net, preprocess=SMALL).activations(pixels[0], [-2])[0] for net in (first, second)]
    assert not np.allclose(*values)


def test_a_layer_that_writes_to_its_input_changes_nothing_else():
    class Doubling(nn.Module):
        def forward(self, x):
            x[:, 0] *= 2  # cannot be traced
            return x

    with seeded(0):
        net = nn.Sequential(nn.Linear(6, 5), Doubling(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    with torch.no_grad():
        first = net[0](torch.from_numpy(X))
        second = net[2](net[1](first.clone()))
    for cache in (False, True):
        classifier = FrozenPrefixClassifier(net, n_frozen=2, cache=cache)
        found = [*classifier.activations(X, ["0", "2"]), *classifier.activations(X, ["2"])]
        for given, expected in zip(found, (first, second, second), strict=True):
            np.testing.assert_allclose(given, expected, rtol=1e-5)
