"""Neighbours by symmetric KL divergence against the direct sum."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

import skal.selective.neighbors
from skal.selective import SymmetricKLNeighbors
from tests.reference.retrieval import EPS, plain_distances
from tests.selective.retrieval_cases import check_neighbors, histograms


def test_distances_worked_by_hand():
    source = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0], [0, 1]])
    distances, indices = SymmetricKLNeighbors(4).fit(source).kneighbors(np.array([[0.5, 0.5], [1, 0]]))
    # sum of (p - q) log(p / q): 0.25 log 2 + 0.25 log 1.5 = 0.25 log 3; a zero counts -log(eps) = 36.0437
    far = 0.5 * (np.log(0.5) - np.log(EPS)) + 0.5 * np.log(2)
    assert_allclose(distances[0], [0, 0.25 * np.log(3), far, far], rtol=1e-6, atol=1e-14)
    assert_array_equal(indices[0, :2], [1, 0])
    assert_allclose(distances[1, [0, 1, 3]], [0, far, 2 * 36.0436534], rtol=1e-6, atol=1e-14)
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


@pytest.mark.parametrize("itself", [False, True])
def test_too_many_neighbours_are_named_before_the_search(itself, monkeypatch):
    X = histograms(23)
    est = SymmetricKLNeighbors(24 - itself).fit(np.split(X, [5, 11]))
    monkeypatch.setattr(skal.selective.neighbors, "_Search", None)
    with pytest.raises(ValueError, match=f"n_neighbors={24 - itself} must be at most {23 - itself}"):
        est.kneighbors(None if itself else X[:1])


@pytest.mark.parametrize("layout", [lambda X: X.astype(">f4"), lambda X: X[::-1].copy()[::-1]])
def test_memmaps_and_blocks_of_any_memory_layout(layout, tmp_path):
    X, queries = histograms(30), histograms(4, seed=1)
    expected = SymmetricKLNeighbors(3).fit(X).kneighbors(queries)
    np.save(tmp_path / "X.npy", layout(X))
    for source in (np.load(tmp_path / "X.npy", mmap_mode="r"), [layout(X)]):
        assert_array_equal(SymmetricKLNeighbors(3).fit(source).kneighbors(layout(queries)), expected)


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


@pytest.mark.parametrize("block_size", [80, 1000])
def test_near_duplicates_are_found_in_blocks_of_any_size(block_size):
    """Distances far below the rounding error of the products."""
    rng = np.random.default_rng(0)
    base = rng.dirichlet(np.ones(300))
    source = base * (1 + 1e-4 * rng.random((2000, 1)) * rng.normal(size=(2000, 300)))
    source /= source.sum(axis=1, keepdims=True)
    _, found = SymmetricKLNeighbors(20, block_size=block_size).fit(source).kneighbors(base[None])
    expected = np.argsort(plain_distances(base[None], source)[0])[:20]
    assert set(found[0]) == set(expected)
