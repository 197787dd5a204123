"""Distances by matrix product against the direct sum, near and far."""

import numpy as np
from scipy.spatial.distance import cdist

from skal.numerics.distances import euclidean_distances


def test_equals_the_direct_sum_also_where_the_product_cancels():
    rng = np.random.default_rng(0)
    X = 1e4 + rng.normal(size=(30, 40))
    Y = np.concatenate([rng.normal(size=(20, 40)), X[:5] + 1e-7, X[5:8]])
    np.testing.assert_allclose(euclidean_distances(X, Y), cdist(X, Y), rtol=1e-9)
    assert (euclidean_distances(X, Y)[[5, 6, 7], [25, 26, 27]] == 0).all()


def test_float32_rows():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(8, 300)).astype(np.float32), rng.normal(size=(9, 300)).astype(np.float32)
    np.testing.assert_allclose(euclidean_distances(X, Y), cdist(X, Y), rtol=1e-12)
