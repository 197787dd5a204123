"""Pools that are memory maps, paths or Dask arrays get the same scores as arrays in memory, block by block."""

import numpy as np
import pytest
from sklearn.base import clone

import skal.features.activations
import skal.query._pool
import skal.training.fine_tuning
from skal import (
    adma_sampling,
)
from skal.features.cache import CACHE
from skal.query._pool import score_pool
from tests.conftest import adma_grid, blobs, logistic, on_features


def test_memmap_pool_gives_the_same_scores_whatever_the_block(tmp_path, monkeypatch):
    X, y = blobs(1300)
    mapped = np.memmap(tmp_path / "pool", dtype=np.float64, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    mapped = np.memmap(tmp_path / "pool", dtype=np.float64, mode="r", shape=X.shape)
    classifier = on_features().fit(X[:30], y[:30])
    reference = classifier.predict_proba(X)
    np.testing.assert_allclose(classifier.predict_proba(mapped), reference, atol=1e-6)
    pieces = np.concatenate([classifier.predict_proba(mapped[i : i + 37]) for i in range(0, 1300, 37)])
    np.testing.assert_allclose(pieces, reference, atol=1e-6)
    np.testing.assert_allclose(score_pool(classifier.predict_proba, mapped), reference, atol=1e-6)
    for block in (5, 333, 5000):
        monkeypatch.setattr(skal.query._pool, "BLOCK", block)
        monkeypatch.setattr(skal.features.activations, "BLOCK", block)
        CACHE.clear()
        np.testing.assert_allclose(score_pool(classifier.predict_proba, mapped), reference, atol=1e-6)


def test_path_pool_gives_the_same_scores_whatever_the_block(files, pixels, monkeypatch):
    X, y = files
    learner = clone(adma_grid(True).estimator.estimator).fit(X[:12], y[:12])
    reference = learner.predict_proba(pixels[0])
    picks = np.asarray(adma_sampling(learner, pixels[0], 10, lam=0.3)).tolist()
    for block in (1, 7, 64):
        monkeypatch.setattr(skal.query._pool, "BLOCK", block)
        monkeypatch.setattr(skal.features.activations, "BLOCK", block)
        CACHE.clear()
        np.testing.assert_allclose(score_pool(learner.predict_proba, X), reference, atol=1e-5)
        np.testing.assert_allclose(learner.predict_proba(X.tolist()), reference, atol=1e-5)
        assert np.asarray(adma_sampling(learner, X, 10, lam=0.3)).tolist() == picks


def test_score_pool_of_dask_is_that_in_memory(pixels, files):
    da = pytest.importorskip("dask.array")
    import dask

    X, y = blobs(200)
    model = logistic().fit(X, y)
    images, labels = pixels
    paths, _ = files
    classifier = clone(adma_grid(True).estimator.estimator).fit(images[:12], labels[:12])
    with dask.config.set(scheduler="synchronous"):
        for chunks in ((200, 6), (37, 6), (50, 2), ((1, 199), (6,))):
            got = score_pool(model.predict_proba, da.from_array(X, chunks=chunks))
            assert isinstance(got, np.ndarray)
            np.testing.assert_allclose(got, model.predict_proba(X), atol=1e-12)
        one = score_pool(model.predict, da.from_array(X, chunks=(64, 6)))
        np.testing.assert_array_equal(one, model.predict(X))
        pool = da.from_array(images, chunks=(9, 16, 8, 3))
        np.testing.assert_allclose(
            score_pool(classifier.predict_proba, pool), classifier.predict_proba(images), atol=1e-6
        )
        np.testing.assert_allclose(
            score_pool(classifier.predict_proba, da.from_array(paths, chunks=11)),
            classifier.predict_proba(paths),
            atol=1e-6,
        )
        expected = np.asarray(adma_sampling(classifier, images, 8, lam=0.3)).tolist()
        assert np.asarray(adma_sampling(classifier, pool, 8, lam=0.3)).tolist() == expected


def test_score_pool_in_memory_blocks():
    X = np.arange(2600.0).reshape(1300, 2)
    sizes = []

    def total(rows):
        sizes.append(len(rows))
        return rows.sum(axis=1)

    np.testing.assert_array_equal(score_pool(total, X), X.sum(axis=1))
    assert max(sizes) <= 512
    assert sum(sizes) == 1300
