"""Points that are read block by block: what they are, against arrays that are scaled whole."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from skal.numerics.points import Points, tensor_of

SCALINGS = {
    "as they are": lambda X, mean: X,
    "mean": lambda X, mean: X - mean,
    "unit": lambda X, mean: normalize(X),
    "mean, unit": lambda X, mean: normalize(normalize(X) - mean),
}


def rows(n=2500, D=7, dtype=np.float64):
    X = np.random.default_rng(0).normal(size=(n, D)).astype(dtype) + 1
    X[5] = 0
    return X


@pytest.fixture(params=SCALINGS)
def scaled(request):
    X = rows()
    mean = torch.linspace(0, 1, 7, dtype=torch.float64)
    points = Points([X[:3], X[3:2000], X[2000:2000], X[2000:]])
    points = points.scaled(mean=mean if "mean" in request.param else None, unit="unit" in request.param)
    return points, SCALINGS[request.param](torch.from_numpy(X), mean)


def test_points_are_those_of_arrays_scaled_whole(scaled):
    points, expected = scaled
    assert len(points) == 2500
    np.testing.assert_allclose(points.whole(), expected)
    np.testing.assert_allclose(points.norms(), (expected**2).sum(1))
    np.testing.assert_allclose(points.mean(), expected.mean(0), atol=1e-15)
    np.testing.assert_allclose(points.each(lambda rows: rows.amax(1)), expected.amax(1))
    y = torch.linspace(-1, 1, 7, dtype=torch.float64)
    np.testing.assert_allclose(points.inner(y), expected @ y, atol=1e-12)


@pytest.mark.parametrize("chosen", [[2400, 0, 5, 5, 3, 2], [], [7], np.array([2000, 1999]), torch.tensor([2, 3])])
def test_some_points_in_any_order(scaled, chosen):
    points, expected = scaled
    np.testing.assert_allclose(points[chosen], expected[np.asarray(chosen, dtype=int)])


def test_other_points_are_scaled_alike(scaled):
    points, expected = scaled
    more = torch.from_numpy(rows()[10:14])
    np.testing.assert_allclose(points.read(more), expected[10:14])
    np.testing.assert_allclose(points.joined(more).whole(), torch.cat([expected, expected[10:14]]))


def test_blocks_are_small_and_given_rows_stay(monkeypatch):
    X = rows()
    before, sizes = X.copy(), []
    points = Points([X]).scaled(mean=torch.ones(7), unit=True)
    points.each(lambda block: sizes.append(len(block)) or block)
    assert sizes == [1024, 1024, 452]
    points.whole(), points.inner(torch.ones(7, dtype=torch.float64))
    np.testing.assert_array_equal(X, before)


def test_a_read_only_array_is_shared_without_a_warning(tmp_path):
    np.save(tmp_path / "X.npy", rows())
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    shared = tensor_of(mapped)
    assert shared.data_ptr() == mapped.ctypes.data
    del mapped
    np.testing.assert_array_equal(shared, rows())
    np.testing.assert_array_equal(Points([np.load(tmp_path / "X.npy", mmap_mode="r")[::2]])[[1, 2]], rows()[[2, 4]])
