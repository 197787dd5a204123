"""Descriptors of both banks against plain float64 numpy."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skal import ImageTransform
from skal.selective import FilterBankDescriptor
from tests.reference.retrieval import gabor_responses, plain_maps
from tests.selective.retrieval_cases import check_edges, check_histograms, small_net

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(3).random((3, 1, 17, 19)).astype(np.float32)


@pytest.fixture(scope="module")
def grey_fitted(grey):
    return FilterBankDescriptor(n_bins=7).fit(grey)


def test_gabor_descriptor_equals_plain_numpy(grey, grey_fitted):
    responses = gabor_responses(grey[:, 0])
    bounds = grey_fitted.bounds_[24]
    if abs(bounds - [responses[:, 24].min(), responses[:, 24].max()]).max() > 1e-4:
        responses[:, 24:] *= -1  # a true convolution: the imaginary parts are odd
    assert grey_fitted.bounds_.shape == (48, 2)
    assert grey_fitted.edges_.shape == (48, 8)
    check_edges(grey_fitted, responses, 7)
    got = grey_fitted.transform(grey)
    assert got.dtype == np.float32
    assert got.shape == (3, 48 * 7)
    check_histograms(got, responses, grey_fitted.edges_)
    assert_allclose(grey_fitted.weights_, np.full(48 * 7, 1 / 48))
    # images beyond the bounds: the first and the last bin hold what lies outside
    others = 3 * np.random.default_rng(4).random((2, 1, 12, 9)).astype(np.float32)
    sign = 1 if responses[0, 24, 0] == gabor_responses(grey[:1, 0])[0, 24, 0] else -1
    wide = gabor_responses(others[:, 0])
    wide[:, 24:] *= sign
    check_histograms(grey_fitted.transform(others), wide, grey_fitted.edges_)


def test_gabor_bins_of_the_fitted_images_have_equal_mass(grey, grey_fitted):
    mean = grey_fitted.transform(grey).reshape(3, 48, 7).mean(0)
    assert_allclose(mean.sum(1), 1, rtol=1e-5)
    # 969 pixels over 2,000 intervals: a few responses share an interval
    assert_allclose(mean, 1 / 7, atol=12 / 969)
    assert (np.diff(grey_fitted.edges_, axis=1) > 0).all()


def test_gabor_takes_colour_as_luma_and_grey_as_is():
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (3, 13, 13, 3), dtype=np.uint8)
    colour = (pixels / 255).transpose(0, 3, 1, 2).astype(np.float32)
    luma = np.einsum("nchw,c->nhw", colour.astype(float), LUMA)[:, None].astype(np.float32)
    make = FilterBankDescriptor(n_bins=4, image_size=13)
    ests = [clone(make).fit(X) for X in (pixels, colour, luma)]
    for est in ests[1:]:
        assert_allclose(est.bounds_, ests[0].bounds_, atol=1e-5)
        assert_allclose(est.edges_, ests[0].edges_, atol=2e-3 * np.ptp(ests[0].bounds_, axis=1).max())
    a, b, c = (ests[0].transform(X) for X in (pixels, colour, luma))
    for other in (b, c):
        assert abs(a - other).mean() < 1e-3
    flat = pixels[..., 0]  # uint8 grey (n, H, W) equals the same image in three channels
    est = clone(make).fit(flat)
    assert abs(est.transform(flat) - est.transform(np.repeat(flat[..., None], 3, 3))).mean() < 1e-3


def test_black_images_fill_the_first_bin_and_constant_ones_have_no_response():
    black = np.zeros((2, 1, 8, 8), np.float32)
    est = FilterBankDescriptor(n_bins=4).fit(black)
    assert_allclose(est.bounds_, 0, atol=0)
    assert_allclose(est.edges_[:, [0, -1]], np.tile([0, 1], (48, 1)), rtol=1e-6)
    assert (np.diff(est.edges_, axis=1) > 0).all()
    want = np.tile([1, 0, 0, 0], 48)
    assert_array_equal(est.transform(black), np.tile(want, (2, 1)))
    est = FilterBankDescriptor(n_bins=4).fit(np.full((1, 1, 8, 8), 0.7, np.float32))
    assert_allclose(est.bounds_, 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (1, 1, 1, 1), (1, 3, 70, 66)])
def test_gabor_single_image_of_any_size(shape):
    X = np.random.default_rng(6).random(shape).astype(np.float32)
    est = FilterBankDescriptor(n_bins=3).fit(X)
    H = est.transform(X)
    assert H.shape == (1, 144)
    assert_allclose(H.reshape(48, 3).sum(1), 1, rtol=1e-5)


def test_the_image_size_replaces_that_of_the_preprocessing():
    pixels = np.random.default_rng(8).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    small, resized = (
        FilterBankDescriptor(n_bins=3, image_size=size, preprocess=ImageTransform(side, side)).fit(pixels)
        for size, side in ((None, 10), (10, 16))
    )
    assert_array_equal(resized.edges_, small.edges_)


def test_a_subset_equals_its_rows_and_the_order_of_images_does_not_matter():
    X = np.random.default_rng(7).random((5, 1, 9, 8)).astype(np.float32)
    est = FilterBankDescriptor(n_bins=5).fit(X)
    order = np.array([4, 0, 2, 1, 3])
    other = FilterBankDescriptor(n_bins=5).fit(X[order])
    assert_allclose(other.bounds_, est.bounds_, atol=1e-6)
    assert_allclose(other.edges_, est.edges_, atol=1e-3 * np.ptp(est.bounds_, axis=1).max())
    whole = est.transform(X)
    assert_allclose(est.transform(X[[3]]), whole[[3]], atol=1e-6)
    assert_allclose(est.transform(X[order]), whole[order], atol=1e-6)
    assert_allclose(est.fit_transform(X), whole, atol=1e-6)


def test_png_files_equal_their_pixels(tmp_path):
    pixels = np.random.default_rng(8).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(4)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    make = FilterBankDescriptor(n_bins=6, image_size=12)
    a, b = clone(make).fit(pixels), clone(make).fit(np.array(paths))
    assert_allclose(a.edges_, b.edges_, rtol=1e-6)
    assert_allclose(a.transform(pixels), b.transform(paths), atol=1e-6)


# ---------------------------------------------------------------- convolutions


@pytest.fixture
def inputs():
    return np.random.default_rng(9).normal(size=(3, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("activation", [True, False])
def test_conv_descriptor_equals_plain_numpy(inputs, activation, inplace):
    net = small_net(inplace)
    est = FilterBankDescriptor("conv", backbone=net, n_bins=7, activation=activation, image_size=16).fit(inputs)
    maps = plain_maps(net, inputs, activation)
    assert list(dict.fromkeys(est.layers_)) == ["0", "3"]
    assert est.bounds_.shape == (9, 2)
    assert est.edges_.shape == (9, 8)
    assert_allclose(est.weights_, np.repeat([1 / 4] * 4 + [1 / 5] * 5, 7))
    got = est.transform(inputs)
    assert got.shape == (3, 63)
    assert got.dtype == np.float32
    assert_allclose(got.reshape(3, 9, 7).sum(2), 1, rtol=1e-5)
    for responses, filters in zip(maps, (slice(0, 4), slice(4, 9)), strict=True):
        part = FilterBankDescriptor()
        part.bounds_, part.edges_ = est.bounds_[filters], est.edges_[filters]
        check_edges(part, responses, 7)
        # responses cut to 0 by the ReLU are exact, so they are not near an edge but below it
        check_histograms(got.reshape(3, 9, 7)[:, filters].reshape(3, -1), responses, part.edges_, 1e-6)


@pytest.mark.parametrize(("layers", "names"), [(1, ["0"]), (["3"], ["3"]), (["0", "3"], ["0", "3"])])
def test_conv_layers_are_counted_or_named(inputs, layers, names):
    net = small_net()
    both = FilterBankDescriptor("conv", backbone=net, n_bins=4, image_size=16).fit(inputs)
    est = FilterBankDescriptor("conv", backbone=net, n_bins=4, image_size=16, layers=layers).fit(inputs)
    assert list(dict.fromkeys(est.layers_)) == names
    rows = np.r_[tuple({"0": np.arange(0, 4), "3": np.arange(4, 9)}[name] for name in names)]
    assert_allclose(est.edges_, both.edges_[rows], rtol=1e-5, atol=1e-6)
    columns = (rows[:, None] * 4 + np.arange(4)).ravel()
    assert_allclose(est.weights_, both.weights_[columns])
    assert_allclose(est.transform(inputs), both.transform(inputs)[:, columns], atol=5e-3)


def test_a_constant_filter_falls_in_the_first_bin(inputs):
    net = small_net()
    with torch.no_grad():
        net[0].weight[1] = 0
        net[0].bias[1] = 0.25
        net[3].weight[2] = 0
        net[3].bias[2] = -3
    raw = FilterBankDescriptor("conv", backbone=net, n_bins=4, activation=False, image_size=16).fit(inputs)
    for f, v in ((1, 0.25), (4 + 2, -3)):
        assert_allclose(raw.bounds_[f], v)
        assert_allclose(raw.edges_[f, [0, -1]], [v, v + 1])
        assert (np.diff(raw.edges_[f]) > 0).all()
        assert_allclose(raw.transform(inputs).reshape(3, 9, 4)[:, f], np.tile([1, 0, 0, 0], (3, 1)))
    dead = FilterBankDescriptor("conv", backbone=net, n_bins=4, image_size=16).fit(inputs)
    assert_allclose(dead.edges_[6, [0, -1]], [0, 1])
    assert np.isfinite(dead.transform(inputs)).all()


def test_the_backbone_is_used_in_evaluation_and_left_as_it_was(inputs):
    net = small_net()
    want = FilterBankDescriptor("conv", backbone=net, n_bins=4, image_size=16).fit(inputs)
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    est = FilterBankDescriptor("conv", backbone=net, n_bins=4, image_size=16).fit(inputs)
    assert_allclose(est.edges_, want.edges_, rtol=1e-6)
    assert_allclose(est.transform(inputs), want.transform(inputs), atol=1e-6)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_conv_pixels_are_preprocessed():
    pixels = np.random.default_rng(10).integers(0, 256, (4, 20, 18, 3), dtype=np.uint8)
    transform = ImageTransform(16, 16)
    make = FilterBankDescriptor("conv", backbone=small_net(), n_bins=5, preprocess=transform)
    est = clone(make).fit(pixels)
    ready = transform(torch.from_numpy(pixels)).numpy()
    other = clone(make).fit(ready)
    assert_allclose(est.edges_, other.edges_, rtol=1e-5, atol=1e-6)
    assert_allclose(est.transform(pixels), other.transform(ready), atol=1e-6)


def test_descriptor_errors(inputs):
    net = small_net()
    X = inputs[:, :1, :8, :8]
    with pytest.raises(ValueError, match=r"(?s)wavelet.*gabor|gabor.*wavelet"):
        FilterBankDescriptor("wavelet").fit(X)
    for n_bins in (1, 0, -3):
        with pytest.raises(ValueError, match=str(n_bins)):
            FilterBankDescriptor(n_bins=n_bins).fit(X)
    with pytest.raises(ValueError, match="backbone"):
        FilterBankDescriptor("conv").fit(inputs)
    for layers in (["nowhere"], ["0", "nowhere"]):
        with pytest.raises(ValueError, match="nowhere"):
            FilterBankDescriptor("conv", backbone=net, layers=layers, image_size=16).fit(inputs)
    for layers in (0, 3, []):
        with pytest.raises(ValueError):
            FilterBankDescriptor("conv", backbone=net, layers=layers, image_size=16).fit(inputs)
    with pytest.raises(ValueError):
        FilterBankDescriptor().fit(np.random.default_rng(0).random((5, 6)))
    with pytest.raises(NotFittedError):
        FilterBankDescriptor().transform(X)
