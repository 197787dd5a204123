"""Experiments compared with a plain loop, and resumed after an interruption."""

import numpy as np
import pandas as pd
import pytest
from modAL.uncertainty import margin_sampling
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from skal import (
    Query,
    random_sampling,
)
from skal.experiment import Task, run_experiment
from tests.conftest import blobs, logistic, on_features

TIMES = ["query_seconds", "fit_seconds"]


def same_records(a, b):
    key = ["task", "strategy", "seed", "n_labels"]
    a, b = (r.drop(columns=TIMES).sort_values(key).reset_index(drop=True) for r in (a, b))
    assert a.columns.tolist() == b.columns.tolist()
    assert [list(i) for i in a.pop("indices")] == [list(i) for i in b.pop("indices")]
    pd.testing.assert_frame_equal(a, b)


def small_experiment(folder=None, strategies=("random", "margin"), seeds=(0, 1), estimator=None, **keywords):
    X, y = blobs(80)
    tasks = {"blobs": Task(X[::2], y[::2], X[1::2], y[1::2])}
    every = {"random": Query(random_sampling), "margin": Query(margin_sampling)}
    settings = {"n_queries": 3, "batch_size": 4, "n_initial": 8} | keywords
    return run_experiment(
        estimator or logistic(), {s: every[s] for s in strategies}, tasks, seeds=seeds, folder=folder, **settings
    )


def test_experiment_records_are_those_of_a_plain_loop():
    X, y = blobs(80)
    records = small_experiment()
    assert {"task", "strategy", "seed", "n_labels", "n_classes", "accuracy", "macro_auc", "indices"} < set(records)
    for (_, seed), run in records.groupby(["strategy", "seed"]):
        indices = [list(i) for i in run["indices"]]
        labelled = []
        for row, new in zip(run.itertuples(), indices, strict=True):
            labelled += new
            assert row.n_labels == len(labelled) == len(set(labelled))
            assert row.n_classes == len(set(y[::2][labelled]))
            model = logistic().fit(X[::2][labelled], y[::2][labelled])
            assert row.accuracy == pytest.approx(model.score(X[1::2], y[1::2]), abs=1e-12)
        assert run["seed"].iloc[0] == seed
        assert len(labelled) == 8 + 12


def test_experiment_resumes_after_truncation_at_any_byte(tmp_path):
    reference = small_experiment()
    folder = tmp_path / "runs"
    same_records(small_experiment(folder), reference)
    written = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(written) >= 2
    rng = np.random.default_rng(0)
    for path in written:
        content = path.read_bytes()
        newline = content.find(b"\n") + 1
        cuts = {0, newline, len(content) - 1}
        for cut in sorted(cuts | set(rng.integers(0, len(content), 2).tolist())):
            path.write_bytes(content[:cut])
            same_records(small_experiment(folder), reference)
            if cut > newline:  # finished rounds keep their line, including the times
                kept = content[: content[:cut].rfind(b"\n") + 1]
                assert path.read_bytes().startswith(kept)
    for path in written[1:]:
        path.unlink()
    same_records(small_experiment(folder), reference)


def test_experiment_grows_and_refuses_other_settings(tmp_path):
    folder = tmp_path / "runs"
    small_experiment(folder, strategies=("random",), seeds=(0,))
    same_records(small_experiment(folder), small_experiment())
    for wrong in ({"batch_size": 5}, {"n_initial": 9}, {"estimator": LogisticRegression(C=0.01, max_iter=2000)}):
        with pytest.raises(ValueError):
            small_experiment(folder, **wrong)
    same_records(small_experiment(folder), small_experiment())


def test_experiment_with_frozen_prefix_resumes(tmp_path):
    estimator = on_features(random_state=None, warm_start=True)
    reference = small_experiment(estimator=estimator, seeds=(0,))
    folder = tmp_path / "runs"
    same_records(small_experiment(folder, estimator=estimator, seeds=(0,)), reference)
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    same_records(small_experiment(folder, estimator=clone(estimator), seeds=(0,)), reference)
