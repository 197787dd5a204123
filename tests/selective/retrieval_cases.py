"""Small networks, images and histograms that the tests of retrieval share, and comparisons with the plain versions."""

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn

from skal._random import seeded
from tests.reference.retrieval import plain_descriptor, plain_edges


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


def histograms(n, D=24, seed=0, zeros=0.3, dtype=np.float32):
    rng = np.random.default_rng(seed)
    X = rng.random((n, D)) * (rng.random((n, D)) > zeros)
    X[:, 0] += 0.1
    return (X / X.sum(1, keepdims=True)).astype(dtype)


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


def check_neighbors(got, D):
    """Distances and indices (n, k) against all distances (n, n_source); ties may come in any order."""
    distances, indices = got
    k = distances.shape[1]
    assert_allclose(distances, np.sort(D, axis=1)[:, :k], rtol=1e-5, atol=1e-12)
    assert_allclose(np.take_along_axis(D, indices, 1), distances, rtol=1e-5, atol=1e-12)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    assert np.issubdtype(indices.dtype, np.integer)
