"""Descriptors and their neighbours on every device there is, against plain sums."""

import numpy as np
import pytest

from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors
from tests.conftest import SMALL


@pytest.mark.parametrize("bank", ["gabor", "conv"])
def test_descriptors_are_those_of_the_cpu(convnet, pixels, device, bank):
    own = {"backbone": convnet, "preprocess": SMALL} if bank == "conv" else {"image_size": 16}
    on_device, on_cpu = (
        FilterBankDescriptor(bank, n_bins=5, device=where, **own).fit(pixels[0]) for where in (device, "cpu")
    )
    histograms = on_device.transform(pixels[0])
    assert histograms.dtype == np.float32
    # A response that rounding moves over the edge of a bin changes a count of 256 by one.
    assert np.abs(histograms - on_cpu.transform(pixels[0])).max() < 0.02


def test_neighbors_are_the_least_symmetric_divergences(device):
    rng = np.random.default_rng(0)
    queries, source = (rng.dirichlet(np.ones(24), n).astype(np.float32) for n in (9, 60))
    p, q = (part.astype(np.float64)[rows] for part, rows in ((queries, np.s_[:, None]), (source, np.s_[None])))
    divergences = ((p - q) * (np.log(p + 2.220446049250313e-16) - np.log(q + 2.220446049250313e-16))).sum(axis=2)
    distances, rows = SymmetricKLNeighbors(10, device=device).fit(source).kneighbors(queries)
    expected = np.sort(divergences, axis=1)[:, :10]
    np.testing.assert_allclose(np.take_along_axis(divergences, rows, axis=1), expected, rtol=1e-4)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
