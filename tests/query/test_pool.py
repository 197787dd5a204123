"""Pools scored block by block and on a Dask cluster get the same scores as in memory."""

import os
import signal
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skal import ActiveClassifier, Query, adma_sampling
from skal.query import STRATEGIES, max_herding_sampling
from skal.query._pool import joined, score_pool
from skal.query._workers import WorkerPoints

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def test_blocks_and_bar(capsys):
    X = np.random.default_rng(0).normal(size=(1300, 3))
    seen = []

    def total(rows):
        seen.append(len(rows))
        return rows.sum(axis=1)

    np.testing.assert_array_equal(score_pool(total, X, verbose=True), X.sum(axis=1))
    assert seen == [512, 512, 276]
    assert "1300/1300" in capsys.readouterr().err
    seen.clear()
    np.testing.assert_allclose(score_pool(total, da.from_array(X, chunks=(400, 2))), X.sum(axis=1))
    assert sorted(seen) == [100, 400, 400, 400]


def test_rows_are_joined():
    X = np.arange(12.0).reshape(6, 2)
    frame = pd.DataFrame(X, columns=["a", "b"], index=[0] * 6)
    pd.testing.assert_frame_equal(joined([frame[:2], frame[2:]]), frame)
    table = joined([sparse.csr_matrix(X[:2]), sparse.csr_matrix(X[2:])])
    np.testing.assert_array_equal(table[[5]].toarray(), X[[5]])
    objects = np.array([["a", 1], ["b", None]], dtype=object)
    for whole in (X, objects, np.array(["a.png", "long.png"])):
        np.testing.assert_array_equal(joined([whole[:1], whole[1:]]), whole)
    names = ["a.png", "b.png", "c.png"]
    for form in (list, pd.Series, pd.Index, partial(np.array, dtype=object)):
        assert joined([form(names[:2]), form(names[2:])]) == names
    np.testing.assert_array_equal(joined([frame[:2], X[2:]]), X)
    np.testing.assert_array_equal(joined([X[:2].tolist(), frame[2:]]), X)
    assert joined([names[:2], pd.DataFrame({"path": names[2:]})]) == names


def test_unknown_chunks():
    X = np.arange(20.0).reshape(10, 2)
    kept = da.from_array(X, chunks=(4, 2))
    kept = kept[kept[:, 0] > 5]
    np.testing.assert_array_equal(score_pool(lambda rows: rows.sum(axis=1), kept), X[3:].sum(axis=1))


@pytest.mark.parametrize("fitted", [False, True])
def test_adma_on_dask_picks_what_it_picks_in_memory(classifier, pixels, files, fitted):
    X, y = pixels
    if fitted:
        classifier.fit(X[:12], y[:12])
    for pool, chunks in ((X, (7, 8, 16, 3)), (files[0], 11)):
        expected = adma_sampling(classifier, pool, 6, lam=0.3)
        lazy = da.from_array(pool, chunks=chunks)
        np.testing.assert_array_equal(adma_sampling(classifier, lazy, 6, lam=0.3), expected)


def test_an_unfitted_estimator_says_so(classifier, pixels):
    with pytest.raises(NotFittedError):
        score_pool(classifier.predict_proba, da.from_array(pixels[0], chunks=(10, -1, -1, -1)))


def sums_slowly(folder, rows):
    """The first call writes its process id and waits to be killed. Later calls are fast."""
    try:
        with open(os.path.join(folder, "first"), "x") as file:
            file.write(str(os.getpid()))
        time.sleep(60)
    except FileExistsError:
        time.sleep(0.1)
    return rows.sum(axis=1)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a cluster's messages about a dying worker
def test_a_killed_worker_changes_no_score(client, tmp_path):
    import threading

    X = np.random.default_rng(0).normal(size=(60, 3))

    def kill_the_first():
        file = tmp_path / "first"
        while not (file.exists() and file.read_text()):
            time.sleep(0.05)
        os.kill(int(file.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    scores = score_pool(partial(sums_slowly, str(tmp_path)), da.from_array(X, chunks=(5, -1)))
    killer.join()
    np.testing.assert_allclose(scores, X.sum(axis=1))


SAMPLED = {name: {"max_reference": 20} for name in ("max_herding", "uherding", "probcover")}


@pytest.mark.parametrize("name", [*SAMPLED, "typiclust", "coreset", "badge"])
def test_features_stay_on_the_workers_and_the_picks_are_those_in_memory(name, classifier, pixels, files):
    X, y = pixels
    classifier.fit(X[:12], y[:12])
    query = Query(STRATEGIES[name].function, random_state=0, **SAMPLED.get(name, {}))
    expected = query(classifier, X, 6)
    for pool, chunks in ((X, (7, 8, 16, 3)), (files[0], 11)):
        with dask.config.set(scheduler="synchronous"):
            np.testing.assert_array_equal(query(classifier, da.from_array(pool, chunks=chunks), 6), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_between_two_picks_changes_no_pick(client, classifier, files, monkeypatch):
    pool, y = files
    classifier.fit(pool[:12], y[:12])
    expected = max_herding_sampling(classifier, pool, 8, max_reference=20, random_state=0)
    inner, picked = WorkerPoints.inner, []

    def inner_of_what_is_left(self, row):
        picked.append(1)
        if len(picked) == 4:
            held = client.who_has()
            os.kill(next(iter(client.cluster.workers.values())).pid, signal.SIGKILL)
            assert len({worker for workers in held.values() for worker in workers}) == 2  # both held features
        return inner(self, row)

    monkeypatch.setattr(WorkerPoints, "inner", inner_of_what_is_left)
    lazy = da.from_array(pool, chunks=5)
    picks = max_herding_sampling(classifier, lazy, 8, max_reference=20, random_state=0)
    np.testing.assert_array_equal(picks, expected)
    assert len(picked) >= 8


@pytest.mark.filterwarnings("ignore")
def test_a_search_on_dask_finds_what_it_finds_here(client, classifier, pixels, tmp_path):
    X, y = pixels
    search = GridSearchCV(
        ActiveClassifier(
            classifier.set_params(cache=tmp_path), Query(adma_sampling), n_queries=2, batch_size=6, random_state=0
        ),
        {"query__lam": [0.0, 0.5]},
        cv=2,
        error_score="raise",
    )
    here = search.fit(X, y)
    best, scores = here.best_params_, here.cv_results_["mean_test_score"]
    with parallel_config(backend="dask"):
        there = search.fit(X, y)
    assert there.best_params_ == best
    np.testing.assert_allclose(there.cv_results_["mean_test_score"], scores)


def test_a_filtered_dask_pool(classifier, pixels):
    X, _ = pixels
    lazy = da.from_array(X, chunks=(10, -1, -1, -1))
    kept = lazy[da.from_array(np.repeat([True, False, True, True], 10), chunks=10)]  # the second chunk is empty
    expected = adma_sampling(classifier, X[np.r_[:10, 20:40]], 4)
    np.testing.assert_array_equal(adma_sampling(classifier, kept, 4), expected)
