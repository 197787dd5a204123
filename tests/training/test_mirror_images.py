"""Classifiers that read an image together with its mirror image."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from skal import DAN, FrozenPrefixClassifier, SelectiveJoint
from skal._random import seeded
from skal.backbones import load_backbone
from skal.features.prefix import Prefix
from skal.training.mirror_images import are_like_their_mirror_images, share_nearest_to_own
from tests.conftest import on_features, on_pixels

MIRRORED = {"mirror": True, "n_frozen": 1}


def flipped(X):
    return np.ascontiguousarray(X[:, :, ::-1])


@pytest.mark.parametrize(
    ("recipe", "data"),
    [(None, ()), (None, ("X_unlabeled",)), (SelectiveJoint(3, n_iterations=2), ("X_source", "y_source")),
     (DAN(mmd_layers=(-1,)), ("X_source", "y_source"))],
    ids=["labels", "pool", "fused", "dan"],
)  # fmt: skip
def test_an_image_and_its_mirror_image_are_the_same_to_it(pixels, recipe, data):
    X, y = pixels
    given = {"X_unlabeled": X, "X_source": 255 - X, "y_source": y}
    net = on_pixels(**MIRRORED, recipe=recipe).fit(X[:20], y[:20], **{name: given[name] for name in data})
    np.testing.assert_allclose(net.predict_proba(X), net.predict_proba(flipped(X)), atol=1e-6)
    np.testing.assert_allclose(net.transform(X), net.transform(flipped(X)), atol=1e-6)
    plain = on_pixels(n_frozen=1).fit(X[:20], y[:20])
    assert np.abs(plain.predict_proba(X) - plain.predict_proba(flipped(X))).max() > 1e-4


def test_features_are_the_mean_of_both_views(pixels):
    X, y = pixels
    net = on_pixels(**MIRRORED).fit(X[:20], y[:20])
    suffix = net.net_.module_.eval()
    at_cut = [torch.cat([*net._checked(view)[0].activations(net._checked(view)[1])]) for view in (X, flipped(X))]
    with torch.no_grad():
        want = (suffix.features(at_cut[0]) + suffix.features(at_cut[1])) / 2
        proba = suffix.head(suffix.scaled(want)).softmax(1)
    np.testing.assert_allclose(net.transform(X), want, atol=1e-5)
    np.testing.assert_allclose(net.predict_proba(X), proba, atol=1e-5)


def test_the_probe_is_that_of_mirrored_images(pixels):
    """A head on means of features does not change when every image is exchanged for its mirror image."""
    X, y = pixels
    a, b = (on_pixels(**MIRRORED, max_epochs=0).fit(images, y) for images in (X, flipped(X)))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-4)


def test_training_draws_from_both_views(pixels, monkeypatch):
    X = pixels[0]
    seen = []
    forward = nn.Conv2d.forward

    def watching(self, x):
        if torch.is_grad_enabled() and self.in_channels == 5:
            seen.extend(x.detach().flatten(1).sum(1).tolist())
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watching)
    on_pixels(**MIRRORED, max_epochs=20).fit(X[:4], np.arange(4))
    assert len({round(total, 3) for total in seen}) == 8


def test_each_view_passes_the_frozen_layers_once(pixels, monkeypatch):
    X, y = pixels
    rows = []
    forward = nn.Conv2d.forward

    def counting(self, x):
        if self.in_channels == 3 and torch.is_inference_mode_enabled():
            rows.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counting)
    net = on_pixels(**MIRRORED).fit(X[:20], y[:20], X_unlabeled=X)
    net.predict_proba(X)
    assert sum(rows) == 80
    on_pixels(**MIRRORED).fit(X[10:], y[10:], X_unlabeled=X).transform(X)
    assert sum(rows) == 80


def test_repeatable_and_the_same_without_cache(pixels, tmp_path):
    X, y = pixels
    probas = [
        on_pixels(**MIRRORED, cache=cache, random_state=3).fit(X[:20], y[:20], X_unlabeled=X).predict_proba(X)
        for cache in (True, True, False, tmp_path)
    ]
    np.testing.assert_array_equal(probas[0], probas[1])
    for other in probas[2:]:
        np.testing.assert_allclose(probas[0], other, atol=1e-5)


def test_a_fit_that_continues_keeps_its_choice(pixels):
    X, y = pixels
    net = on_pixels(**MIRRORED, warm_start=True).fit(X[:20], y[:20])
    assert net.set_params(mirror=False).fit(X, y).mirrors_
    assert net.partial_fit(X, y).mirrors_
    assert not net.set_params(warm_start=False).fit(X, y).mirrors_


@pytest.mark.parametrize("include_labelled", [False, True])
def test_saved_and_loaded(pixels, tmp_path, include_labelled):
    X, y = pixels
    net = on_pixels(**MIRRORED).fit(X[:20], y[:20])
    net.save(tmp_path / "net", include_labelled=include_labelled)
    loaded = on_pixels(n_frozen=1).load(tmp_path / "net")
    assert loaded.mirrors_
    np.testing.assert_allclose(loaded.predict_proba(X), net.predict_proba(X), atol=1e-6)
    more = [one.partial_fit(X[20:], y[20:]).predict_proba(X) for one in (net, loaded)]
    if include_labelled:
        np.testing.assert_allclose(more[0], more[1], atol=1e-4)


def test_a_module_is_not_mirrored_unless_asked(pixels):
    X, y = pixels
    assert not on_pixels().fit(X, y).mirrors_
    assert on_pixels(mirror=True).fit(X, y).mirrors_


def test_features_have_no_mirror_images():
    X, y = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32), np.arange(20) % 2
    assert not on_features().fit(X, y).mirrors_
    with pytest.raises(ValueError, match="mirror=True, but this network takes 2-D features"):
        on_features(mirror=True).fit(X, y)
    with pytest.raises(ValueError, match="mirror"):
        on_features(mirror="yes").fit(X, y)


def test_a_pretrained_network_given_by_name_looks_at_the_images(tmp_path):
    with seeded(0):
        torch.save(models.squeezenet1_1().state_dict(), tmp_path / "weights.pth")
    net = FrozenPrefixClassifier(
        "squeezenet1_1", weights=tmp_path / "weights.pth", image_size=32, max_epochs=0, random_state=0
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
    symmetric = np.concatenate([images[:, :, :16], flipped(images[:, :, :16])], axis=2)  # each its own mirror image
    assert net.fit(symmetric, np.arange(20) % 2).mirrors_
    assert not net.fit(np.concatenate([images, flipped(images)]), np.arange(40) // 20).mirrors_  # each is another
    assert not net.set_params(weights=None).fit(symmetric, np.arange(20) % 2).mirrors_


@pytest.fixture
def prefix(convnet):
    return Prefix(load_backbone(convnet, image_size=16), 1)


def test_images_given_twice_are_looked_at_once(prefix, pixels):
    inputs = prefix.check(pixels[0][:20])
    assert are_like_their_mirror_images(prefix, [inputs, prefix.check(pixels[0])]) == are_like_their_mirror_images(
        prefix, [prefix.check(pixels[0])]
    )
    assert not are_like_their_mirror_images(prefix, [prefix.check(pixels[0][:1])])  # no other to compare with


def test_sets_may_hold_images_of_different_sizes(prefix):
    generator = torch.Generator().manual_seed(0)
    square, wide = (torch.randn(20, 3, 16, width, generator=generator) for width in (16, 24))
    for sets in ((square, wide), (wide, square)):
        symmetric = [prefix.check(images + images.flip(-1)) for images in sets]
        in_pairs = [prefix.check(torch.cat([images, images.flip(-1)])) for images in sets]
        assert are_like_their_mirror_images(prefix, symmetric)
        assert not are_like_their_mirror_images(prefix, in_pairs)


def test_share_against_brute_force():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 4))
    mirrored = images + rng.normal(size=(30, 4)) * np.linspace(0, 2, 30)[:, None]
    units = [part / np.linalg.norm(part, axis=1)[:, None] for part in (images, mirrored)]
    center = np.concatenate(units).mean(axis=0)
    units = [(part - center) / np.linalg.norm(part - center, axis=1)[:, None] for part in units]
    near = sum(
        units[0][i] @ units[1][i] > max(units[0][i] @ units[0][j] for j in range(30) if j != i) for i in range(30)
    )
    share = share_nearest_to_own(torch.from_numpy(images), torch.from_numpy(mirrored))
    assert 0 < near < 30
    assert share == pytest.approx(near / 30)
