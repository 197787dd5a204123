"""Descriptors and retrieval against plain float64 numpy, written from the specification alone."""

import shutil
from contextlib import suppress
from itertools import product

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

import skal.images.inputs
from skal import ImageTransform
from skal._random import seeded
from skal.features.cache import CACHE
from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors
from skal.selective.filters import gabor_bank

LUMA = np.array([0.299, 0.587, 0.114])
EPS = 2.0**-52


# ---------------------------------------------------------------- oracles


def plain_gabor(S=4, K=6, size=61, low=0.05, high=0.4):
    a = (high / low) ** (1 / (S - 1))
    su = (a - 1) * high / ((a + 1) * np.sqrt(2 * np.log(2)))
    L = 2 * np.log(2)
    sv = np.tan(np.pi / (2 * K)) * (high - L * su**2 / high) / np.sqrt(L - L**2 * su**2 / high**2)
    sx, sy = 1 / (2 * np.pi * su), 1 / (2 * np.pi * sv)
    bank = np.zeros((S * K, size, size), complex)
    c = size // 2
    for m, n in product(range(S), range(K)):
        t = n * np.pi / K
        y, x = np.mgrid[-c : size - c, -c : size - c].astype(float)
        xr = a**-m * (x * np.cos(t) + y * np.sin(t))
        yr = a**-m * (-x * np.sin(t) + y * np.cos(t))
        g = np.exp(-(xr**2 / sx**2 + yr**2 / sy**2) / 2 + 2j * np.pi * high * xr) / (2 * np.pi * sx * sy)
        bank[m * K + n] = a**-m * g
    return bank - bank.mean((1, 2), keepdims=True)


def gabor_responses(grey):
    """(n, 48, H * W) correlations of grey images (n, H, W), border replicated."""
    bank = plain_gabor()
    kernels = np.concatenate([bank.real, bank.imag]).reshape(48, -1)
    out = []
    for image in grey.astype(float):
        windows = sliding_window_view(np.pad(image, 30, mode="edge"), (61, 61))
        out.append(kernels @ windows.reshape(-1, 61 * 61).T)
    return np.array(out)


def plain_edges(values, n_bins):
    """Edges of one filter, from its responses to all fitted images."""
    low, high = values.min(), values.max()
    if low == high:
        return np.linspace(low, low + 1, n_bins + 1)
    counts, fine = np.histogram(values, bins=2000, range=(low, high))
    mass = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    edges = np.interp(np.arange(n_bins + 1) / n_bins, mass, fine)
    edges[0], edges[-1] = low, high
    return edges


def plain_descriptor(responses, edges):
    """(n, F * B) histograms of responses (n, F, P) with edges (F, B + 1)."""
    n, F, _ = responses.shape
    B = edges.shape[1] - 1
    out = np.zeros((n, F, B))
    for i, f in product(range(n), range(F)):
        for v in responses[i, f]:
            out[i, f, (edges[f, 1:-1] <= v).sum()] += 1
    return (out / out.sum(2, keepdims=True)).reshape(n, F * B)


def check_edges(est, responses, n_bins):
    for f in range(responses.shape[1]):
        values = responses[:, f].ravel()
        width = np.ptp(values) / 2000
        assert_allclose(est.bounds_[f], [values.min(), values.max()], atol=max(0.02 * width, 1e-7))
        want = plain_edges(values, n_bins)
        # a response within rounding of an interval's border may count in the neighbouring interval
        assert_allclose(est.edges_[f], want, atol=max(1.1 * width, 1e-6))
        assert_allclose(est.edges_[f, [0, -1]], want[[0, -1]], atol=max(0.02 * width, 1e-7))


def check_histograms(got, responses, edges, tolerance=1e-5):
    """Equal but for responses within rounding of an edge."""
    want = plain_descriptor(responses, edges)
    n, F, P = responses.shape
    scale = np.ptp(responses, axis=(0, 2))[:, None, None]
    inner = edges[:, None, 1:-1]
    near = np.array([(abs(r[:, :, None] - inner) <= tolerance * scale).any(2).sum(1) for r in responses])  # (n, F)
    difference = abs(got.astype(float) - want).reshape(n, F, -1).sum(2)
    assert (difference <= 2 * near / P + 1e-5).all(), (difference - 2 * near / P).max()
    assert near.mean() < 0.05 * P + 1e-9  # the tolerance hides nothing


def plain_distances(P, Q, weights=None, eps=EPS):
    P, Q = np.asarray(P, float), np.asarray(Q, float)
    w = np.ones(P.shape[1]) if weights is None else np.asarray(weights, float)
    D = np.zeros((len(P), len(Q)))
    for i, j in product(range(len(P)), range(len(Q))):
        D[i, j] = (w * (P[i] - Q[j]) * (np.log(P[i] + eps) - np.log(Q[j] + eps))).sum()
    return D


def histograms(n, D=24, seed=0, zeros=0.3, dtype=np.float32):
    rng = np.random.default_rng(seed)
    X = rng.random((n, D)) * (rng.random((n, D)) > zeros)
    X[:, 0] += 0.1
    return (X / X.sum(1, keepdims=True)).astype(dtype)


# ---------------------------------------------------------------- Gabor bank


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((3, 4), {"size": 31}), ((2, 5), {"size": 21, "low": 0.1, "high": 0.3}), ((2, 2), {"size": 20})],
)
def test_gabor_bank_equals_the_formulas(args, kwargs):
    S, K = args or (4, 6)
    got = gabor_bank(*args, **kwargs)
    want = plain_gabor(S, K, **kwargs)
    assert np.iscomplexobj(got)
    assert got.shape == want.shape
    assert_allclose(got, want, atol=1e-6 * abs(want).max())


def test_gabor_bank_properties():
    bank = gabor_bank()
    assert_allclose(bank.sum((1, 2)), 0, atol=1e-4)
    # g(-x, -y) = conj(g(x, y))
    assert_allclose(bank[:, ::-1, ::-1], bank.conj(), atol=1e-6)
    # orientation 0 oscillates along x: its imaginary part vanishes on the column x = 0
    assert_allclose(bank[0, :, 30].imag, 0, atol=1e-6)
    # the peak of the spectrum of scale m lies at high * a^-m
    for m in range(4):
        spectrum = abs(np.fft.fft2(bank[6 * m], (256, 256)))
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        assert row in (0, 1, 255)
        assert abs(abs(np.fft.fftfreq(256)[column]) - 0.4 * 2.0**-m) < 0.03


# ---------------------------------------------------------------- Gabor descriptors


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


# ---------------------------------------------------------------- conv descriptors


def small_net(inplace=False):
    with seeded(1):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=inplace),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 3),
        )
        net[1].running_mean.normal_(0, 0.3)
        net[1].running_var.uniform_(0.5, 1.5)
        with torch.no_grad():
            net[1].weight.uniform_(0.5, 1.5)
            net[1].bias.normal_(0, 0.2)
    return net.eval()


def plain_conv(x, layer, padding):
    weight, bias = (p.detach().numpy().astype(float) for p in (layer.weight, layer.bias))
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return np.einsum("nchwij,ocij->nohw", sliding_window_view(x, (3, 3), (2, 3)), weight) + bias[:, None, None]


def plain_maps(net, x, activation):
    raw1 = plain_conv(x.astype(float), net[0], 0)
    bn = net[1]
    mean, var, gain, shift = (
        v.detach().numpy().astype(float)[:, None, None] for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    one = np.maximum((raw1 - mean) / np.sqrt(var + bn.eps) * gain + shift, 0)
    raw2 = plain_conv(one, net[3], 1)
    maps = (one, np.maximum(raw2, 0)) if activation else (raw1, raw2)
    return [m.reshape(len(x), m.shape[1], -1) for m in maps]


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


# ---------------------------------------------------------------- write


class Kill(Exception):  # noqa: N818
    pass


def describe(n_bins=3):
    return FilterBankDescriptor("conv", backbone=small_net(), n_bins=n_bins, preprocess=ImageTransform(6, 6))


@pytest.fixture
def paths(tmp_path):
    pixels = np.random.default_rng(11).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    names = [str(tmp_path / "images" / f"{i}.png") for i in range(40)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(name)
    return np.array(names)


def counted(monkeypatch, limit=None):
    """Count decoded files; the one after `limit` raises."""
    decode, calls = skal.images.inputs.decode, []

    def patched(path):
        if limit is not None and len(calls) >= limit:
            raise Kill
        calls.append(str(path))
        return decode(path)

    monkeypatch.setattr(skal.images.inputs, "decode", patched)
    return calls


def test_write_equals_transform_and_is_not_computed_twice(paths, tmp_path, monkeypatch):
    est = describe().fit(paths[:4])
    want = est.transform(paths)
    got = est.write(paths, tmp_path / "out")
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable
    assert got.shape == want.shape
    assert got.dtype == np.float32
    assert_allclose(got, want, atol=1e-6)
    CACHE.clear()
    calls = counted(monkeypatch)
    assert_array_equal(est.write(paths, str(tmp_path / "out")), got)
    assert not calls


@pytest.mark.parametrize("limit", [0, 1, 30, 39])
def test_a_killed_write_continues(paths, tmp_path, monkeypatch, limit):
    est = describe().fit(paths[:4])
    want = est.transform(paths)
    CACHE.clear()
    with monkeypatch.context() as patch:
        counted(patch, limit)
        with pytest.raises(Kill):
            est.write(paths, tmp_path / "out")
    calls = counted(monkeypatch)
    assert_allclose(est.write(paths, tmp_path / "out"), want, atol=1e-6)
    if limit >= 30:
        assert len(calls) < 40  # finished blocks are kept


def test_write_refuses_a_folder_of_other_images_or_bins(paths, tmp_path, monkeypatch):
    est = describe().fit(paths[:4])
    folder = tmp_path / "out"
    kept = np.array(est.write(paths, folder))
    others = [
        (est, paths[::-1]),
        (est, paths[:39]),
        (describe(4).fit(paths[:4]), paths),
        (describe().fit(paths[4:6]), paths),  # as many bins, other edges
    ]
    for other, X in others:
        with pytest.raises(ValueError, match="out"):
            other.write(X, folder)
    assert_array_equal(est.write(paths, folder), kept)  # a refusal spoils nothing
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        counted(patch, 30)
        with pytest.raises(Kill):
            est.write(paths, killed)
    with pytest.raises(ValueError):
        est.write(paths[::-1], killed)
    assert_allclose(est.write(paths, killed), kept, atol=1e-6)
    shutil.rmtree(killed)
    assert_allclose(est.write(paths[::-1], killed), kept[::-1], atol=1e-6)


# ---------------------------------------------------------------- neighbours


def check_neighbors(got, D):
    """Distances and indices (n, k) against all distances (n, n_source); ties may come in any order."""
    distances, indices = got
    k = distances.shape[1]
    assert_allclose(distances, np.sort(D, axis=1)[:, :k], rtol=1e-5, atol=1e-12)
    assert_allclose(np.take_along_axis(D, indices, 1), distances, rtol=1e-5, atol=1e-12)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    assert np.issubdtype(indices.dtype, np.integer)


def test_distances_worked_by_hand():
    source = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0], [0, 1]])
    distances, indices = SymmetricKLNeighbors(4).fit(source).kneighbors(np.array([[0.5, 0.5], [1, 0]]))
    # sum of (p - q) log(p / q): 0.25 log 2 + 0.25 log 1.5 = 0.25 log 3; a zero counts -log(eps) = 52 log 2
    far = 0.5 * (np.log(0.5) - np.log(EPS)) + 0.5 * np.log(2)
    assert_allclose(distances[0], [0, 0.25 * np.log(3), far, far], rtol=1e-6, atol=1e-14)
    assert_array_equal(indices[0, :2], [1, 0])
    assert_allclose(distances[1, [0, 1, 3]], [0, far, 2 * 52 * np.log(2)], rtol=1e-6, atol=1e-14)
    assert_array_equal(indices[1], [2, 1, 0, 3])
    weighted = SymmetricKLNeighbors(1, weights=[2, 0.5]).fit(source[:1]).kneighbors(source[1:2])[0]
    assert_allclose(weighted, [[0.5 * np.log(2) + 0.125 * np.log(1.5)]], rtol=1e-6)
    rough = SymmetricKLNeighbors(1, eps=1e-3).fit(source[3:]).kneighbors(source[2:3])[0]
    assert_allclose(rough, [[2 * np.log(1.001 / 0.001)]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", [None, "given"])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbors_equal_the_direct_sum(dtype, weights, k):
    source, queries = histograms(40, dtype=dtype), histograms(6, seed=1, dtype=dtype)
    w = None if weights is None else np.random.default_rng(2).random(24)
    est = SymmetricKLNeighbors(k, weights=w).fit(source)
    got = est.kneighbors(queries)
    assert got[0].shape == got[1].shape == (6, k)
    check_neighbors(got, plain_distances(queries, source, w))
    assert_array_equal(est.kneighbors(queries, return_distance=False), got[1])
    check_neighbors(est.kneighbors(queries, 3), plain_distances(queries, source, w))


def test_close_rows_keep_their_relative_precision():
    """The product of matrices cancels where rows are nearly equal; the distances must not."""
    base = histograms(6, D=50, zeros=0, dtype=np.float64)
    rng = np.random.default_rng(3)
    source = np.concatenate([base * (1 + s * rng.normal(size=base.shape)) for s in (1e-1, 1e-2, 1e-3)])
    X, Q = source.astype(np.float32), base.astype(np.float32)
    check_neighbors(SymmetricKLNeighbors(8).fit(X).kneighbors(Q), plain_distances(Q, X))


def test_equal_rows_are_at_distance_zero_and_distances_are_symmetric():
    X = histograms(12)
    distances, indices = SymmetricKLNeighbors(12).fit(X).kneighbors(X)
    assert_array_equal(indices[:, 0], np.arange(12))
    assert_allclose(distances[:, 0], 0, atol=1e-10)
    assert (distances >= 0).all()
    square = np.zeros((12, 12))
    np.put_along_axis(square, indices, distances, 1)
    assert_allclose(square, square.T, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("block_size", [None, 1, 4, 13, 100])
def test_fitted_rows_are_not_their_own_neighbours(block_size):
    X = histograms(13)
    X[7] = X[3]  # twins: each is the other's neighbour, none its own
    D = plain_distances(X, X)
    np.fill_diagonal(D, np.inf)
    got = SymmetricKLNeighbors(5, block_size=block_size).fit(X).kneighbors()
    check_neighbors(got, D)
    assert (got[1] != np.arange(13)[:, None]).all()
    assert (got[1][3, 0], got[1][7, 0]) == (7, 3)
    all_others = SymmetricKLNeighbors(12, block_size=block_size).fit(X).kneighbors()
    assert_array_equal(np.sort(all_others[1], 1)[0], np.arange(1, 13))
    with pytest.raises(ValueError, match=r"13"):
        SymmetricKLNeighbors(13, block_size=block_size).fit(X).kneighbors()


def test_blocks_and_memmaps_equal_the_array(tmp_path):
    source, queries = histograms(23), histograms(5, seed=1)
    want = SymmetricKLNeighbors(9).fit(source).kneighbors(queries)
    D = plain_distances(queries, source)
    check_neighbors(want, D)
    disk = np.memmap(tmp_path / "x", np.float32, "w+", shape=source.shape)
    disk[:] = source
    disk.flush()
    disk = np.memmap(tmp_path / "x", np.float32, "r", shape=source.shape)
    lists = [[source[:1], source[1:10], source[10:11], source[11:]], [source], list(np.split(source, range(1, 23)))]
    for X, block_size in product([source, disk, *lists], [None, 1, 6, 23, 50]):
        got = SymmetricKLNeighbors(9, block_size=block_size).fit(X).kneighbors(queries)
        assert_array_equal(got[1], want[1])
        assert_allclose(got[0], want[0], rtol=1e-6, atol=1e-12)
    # a list can be asked for its own rows, and asked twice
    est = SymmetricKLNeighbors(4).fit(lists[0])
    assert_array_equal(est.kneighbors()[1], SymmetricKLNeighbors(4).fit(source).kneighbors()[1])
    assert_array_equal(est.kneighbors(queries)[1], want[1][:, :4])


def test_permuting_the_source_permutes_the_indices():
    source, queries = histograms(20), histograms(4, seed=1)
    order = np.random.default_rng(4).permutation(20)
    a = SymmetricKLNeighbors(6).fit(source).kneighbors(queries)
    b = SymmetricKLNeighbors(6).fit(source[order]).kneighbors(queries)
    assert_array_equal(order[b[1]], a[1])
    assert_allclose(b[0], a[0], rtol=1e-6)
    # permuting the columns of both, with their weights, changes nothing
    columns, w = np.random.default_rng(5).permutation(24), np.random.default_rng(6).random(24)
    a = SymmetricKLNeighbors(6, weights=w).fit(source).kneighbors(queries)
    c = SymmetricKLNeighbors(6, weights=w[columns]).fit(source[:, columns]).kneighbors(queries[:, columns])
    assert_array_equal(c[1], a[1])


def test_weights_scale_and_silence_columns():
    source, queries = histograms(20), histograms(4, seed=1)
    one = SymmetricKLNeighbors(6).fit(source).kneighbors(queries)
    three = SymmetricKLNeighbors(6, weights=np.full(24, 3.0)).fit(source).kneighbors(queries)
    assert_array_equal(one[1], three[1])
    assert_allclose(three[0], 3 * one[0], rtol=1e-6)
    silent = SymmetricKLNeighbors(6, weights=np.repeat([1.0, 0.0], 12)).fit(source).kneighbors(queries)
    check_neighbors(silent, plain_distances(queries[:, :12], source[:, :12]))
    nothing = SymmetricKLNeighbors(6, weights=np.zeros(24)).fit(source).kneighbors(queries)
    assert_allclose(nothing[0], 0, atol=1e-12)
    assert all(len(set(row)) == 6 for row in nothing[1].tolist())


def test_all_rows_equal():
    X = np.tile(histograms(1), (9, 1))
    for block_size in (None, 1, 4):
        distances, indices = SymmetricKLNeighbors(9, block_size=block_size).fit(X).kneighbors(X[:2])
        assert_allclose(distances, 0, atol=1e-10)
        assert_array_equal(np.sort(indices, 1), np.tile(np.arange(9), (2, 1)))


def test_neighbor_errors():
    X = histograms(10)

    def query(source=X, queries=X[:2], k=3, **kwargs):
        return SymmetricKLNeighbors(k, **kwargs).fit(source).kneighbors(queries)

    for k in (0, -1, 11):
        with pytest.raises(ValueError, match=rf"(?s){k}.*10|10.*{k}" if k > 0 else str(k)):
            query(k=k)
        with pytest.raises(ValueError, match=str(k)):
            SymmetricKLNeighbors(3).fit(X).kneighbors(X[:2], k)
    for bad in (-1e-3, np.nan, np.inf):
        spoilt = X.copy()
        spoilt[4, 5] = bad
        with pytest.raises(ValueError):
            query(spoilt)
        with pytest.raises(ValueError):
            query([X, spoilt])
        with pytest.raises(ValueError):
            query(queries=spoilt)
    with pytest.raises(ValueError, match="23"):
        query(queries=X[:, :23])
    with pytest.raises(ValueError):
        query([X, X[:, :23]])
    for weights in (np.ones(23), -np.ones(24), np.full(24, np.nan), np.ones((24, 1))):
        with pytest.raises(ValueError):
            query(weights=weights)
    with pytest.raises(ValueError):
        query(X[:, 0])
    with pytest.raises(ValueError):
        query(source=(block for block in [X, X]))
    with pytest.raises(ValueError):
        query(source=iter([X, X]))
    for eps in (0, -1.0):
        with pytest.raises(ValueError):
            query(eps=eps)
    for block_size in (0, -2):
        with pytest.raises(ValueError):
            query(block_size=block_size)
    with pytest.raises(NotFittedError):
        SymmetricKLNeighbors(3).kneighbors(X)


class Source:
    """A re-iterable of blocks; the pass that reaches block `fatal` once `path` exists is killed."""

    def __init__(self, blocks, path=None):
        self.blocks, self.fatal, self.path = list(blocks), None, path

    def __iter__(self):
        for i, block in enumerate(self.blocks):
            if i == self.fatal and (i == 0 or self.path.exists()):  # not while the rows are only counted
                raise Kill
            yield block


@pytest.fixture
def killed(tmp_path):
    """A source in six blocks, and the checkpoint of a pass over it that was killed at the fifth."""

    def kill(fatal=4, queries=None, **kwargs):
        source = Source(np.split(histograms(30), 6), tmp_path / "c")
        est = SymmetricKLNeighbors(4, block_size=5, **kwargs).fit(source)
        source.fatal = fatal
        with pytest.raises(Kill):
            est.kneighbors(histograms(3, seed=1) if queries is None else queries, checkpoint=tmp_path / "c")
        source.fatal = None
        return est, source, tmp_path / "c"

    return kill


@pytest.mark.parametrize("fatal", [0, 1, 4, 5])
def test_a_killed_retrieval_continues(killed, fatal):
    est, _, path = killed(fatal)
    queries = histograms(3, seed=1)
    got = est.kneighbors(queries, checkpoint=path)
    check_neighbors(got, plain_distances(queries, histograms(30)))
    again = est.kneighbors(queries, checkpoint=str(path))
    assert_array_equal(again[1], got[1])
    assert_allclose(again[0], got[0])
    # killed twice, by another process: only parameters and data are shared
    other = SymmetricKLNeighbors(4, block_size=5).fit(Source(np.split(histograms(30), 6)))
    assert_array_equal(other.kneighbors(queries, checkpoint=path)[1], got[1])


def test_finished_blocks_are_not_computed_again(killed):
    est, source, path = killed(4)
    queries = histograms(3, seed=1)
    assert path.exists()
    source.blocks[1] = np.repeat(queries, 2, 0)[:5]  # would be the nearest of all
    try:
        got = est.kneighbors(queries, checkpoint=path)
    except ValueError:
        return  # noticed that the source changed
    check_neighbors(got, plain_distances(queries, histograms(30)))


def test_a_killed_retrieval_of_the_fitted_rows_continues(tmp_path):
    source = Source(np.split(histograms(12), 4), tmp_path / "c")
    est = SymmetricKLNeighbors(3, block_size=3).fit(source)
    want = est.kneighbors()
    for fatal in (1, 3, 2):
        source.fatal = fatal
        with suppress(Kill):
            est.kneighbors(checkpoint=tmp_path / "c")
    source.fatal = None
    got = est.kneighbors(checkpoint=tmp_path / "c")
    assert_array_equal(got[1], want[1])
    assert_allclose(got[0], want[0])


@pytest.mark.parametrize(
    "change", ["queries", "fewer queries", "k", "weights", "eps", "source", "permuted source", "self"]
)
def test_a_checkpoint_of_other_data_or_parameters_is_refused(killed, change):
    est, _, path = killed(4)
    queries, blocks, k, kwargs = histograms(3, seed=1), np.split(histograms(30), 6), 4, {}
    if change == "queries":
        queries = histograms(3, seed=2)
    elif change == "fewer queries":
        queries = queries[:2]
    elif change == "k":
        k = 5
    elif change == "weights":
        kwargs = {"weights": np.full(24, 2.0)}
    elif change == "eps":
        kwargs = {"eps": 1e-10}
    elif change == "source":
        blocks = np.split(histograms(30, seed=5), 6)
    elif change == "permuted source":
        blocks = blocks[::-1]
    elif change == "self":
        queries = None
    other = SymmetricKLNeighbors(k, block_size=5, **kwargs).fit(Source(blocks))
    with pytest.raises(ValueError):
        other.kneighbors(queries, checkpoint=path)
    # and the refusal leaves the checkpoint to its owner
    queries = histograms(3, seed=1)
    check_neighbors(est.kneighbors(queries, checkpoint=path), plain_distances(queries, histograms(30)))
