"""Learning-curve records and macro AUC."""

import signal
import subprocess
import sys
import time
from functools import partial

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from modAL.uncertainty import entropy_sampling, margin_sampling
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from skal import Query, adma_sampling, random_sampling
from skal._random import seeded
from skal.experiment import Task, label_rounds, run_experiment
from skal.metrics import area_under_curve, macro_auc, table_at
from skal.plots import contact_sheet, plot_learning_curves, plot_queried
from tests.conftest import TinyConvNet

mpl.use("Agg")
X_IRIS, Y_IRIS = load_iris(return_X_y=True)


def test_records_of_a_run_to_the_end_of_the_pool(classifier, pixels):
    X, y = pixels
    run = label_rounds(classifier, adma_sampling, Task(X, y, X, y), n_queries=9, batch_size=15)
    records = pd.DataFrame(run)
    assert records["n_labels"].tolist() == [15, 30, 40]
    assert sorted(np.concatenate(records["indices"])) == list(range(40))
    assert records["accuracy"].iloc[-1] > 0.9
    assert not hasattr(classifier, "net_")


IRIS = Task(*(part for half in (slice(0, None, 2), slice(1, None, 2)) for part in (X_IRIS[half], Y_IRIS[half])))
LOOP = {"n_queries": 4, "batch_size": 5, "n_initial": 6, "seeds": [0, 1]}
STRATEGIES = {"random": random_sampling, "margin": margin_sampling}
MEASURED = ["query_seconds", "fit_seconds"]


def iris(folder=None, strategies=STRATEGIES, **options):
    return run_experiment(
        LogisticRegression(max_iter=2000), strategies, {"iris": IRIS}, folder=folder, **LOOP | options
    )


def test_an_experiment_is_the_runs_one_by_one():
    records = iris()
    assert len(records) == 2 * 2 * 5
    assert records.groupby(["strategy", "seed"])["n_labels"].apply(list).tolist() == [[6, 11, 16, 21, 26]] * 4
    alone = label_rounds(
        LogisticRegression(max_iter=2000), margin_sampling, IRIS, n_queries=4, batch_size=5, n_initial=6, seed=1
    )
    expected = pd.DataFrame(alone).drop(columns=MEASURED)
    own = records[(records.strategy == "margin") & (records.seed == 1)][expected.columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected)
    pd.testing.assert_frame_equal(iris(n_jobs=2).drop(columns=MEASURED), records.drop(columns=MEASURED))


def test_an_experiment_resumes_in_the_middle_of_a_run(tmp_path):
    expected = iris().drop(columns=MEASURED)
    whole = iris(tmp_path)
    pd.testing.assert_frame_equal(whole.drop(columns=MEASURED), expected)
    pd.testing.assert_frame_equal(iris(tmp_path), whole)  # nothing is run again: the seconds are those of then
    first = tmp_path / "iris--random--0.jsonl"
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:4]) + lines[4][:30])  # killed while it wrote its fourth record
    (tmp_path / "iris--margin--1.jsonl").unlink()
    resumed = iris(tmp_path)
    pd.testing.assert_frame_equal(resumed.drop(columns=MEASURED), expected)
    kept = resumed[(resumed.strategy == "random") & (resumed.seed == 0)]["fit_seconds"].tolist()
    before = whole[(whole.strategy == "random") & (whole.seed == 0)]["fit_seconds"].tolist()
    assert kept[:3] == before[:3]
    more = iris(tmp_path, {**STRATEGIES, "entropy": entropy_sampling}, seeds=[0, 1, 2])
    assert len(more) == 3 * 3 * 5


def test_a_kill_in_an_experiment_loses_nothing_finished(tmp_path):
    script = f"""
import time
from functools import partial
from sklearn.linear_model import LogisticRegression
from tests.test_experiment import iris
class Slow(LogisticRegression):
    def fit(self, X, y):
        time.sleep(0.1)
        return super().fit(X, y)
Slow.__name__ = "LogisticRegression"
from skal.experiment import run_experiment
import tests.test_experiment as module
module.LogisticRegression = Slow
iris({str(tmp_path)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.time() + 60
    while len(list(tmp_path.glob("*.jsonl"))) < 2:
        assert time.time() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {file.name: file.read_text().rpartition("\n")[0] for file in tmp_path.glob("*.jsonl")}
    pd.testing.assert_frame_equal(iris(tmp_path).drop(columns=MEASURED), iris().drop(columns=MEASURED))
    for name, text in finished.items():
        assert (tmp_path / name).read_text().startswith(text)


def test_other_settings_are_refused_before_any_work(tmp_path):
    iris(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=5, but this one has 7; use another folder"):
        iris(tmp_path, batch_size=7)
    with pytest.raises(ValueError, match=r"iris--margin--0.*with query random_tie_break=None"):
        iris(tmp_path, {"margin": Query(margin_sampling, random_tie_break=True)})
    with pytest.raises(ValueError, match="nothing to run: 0 strategies"):
        iris(strategies={})


def test_areas_and_tables():
    records = pd.DataFrame(
        [
            {"task": "t", "strategy": s, "seed": seed, "n_labels": n, "accuracy": 0.01 * n + 0.1 * seed}
            for s in ("a", "b")
            for seed in (0, 1)
            for n in (10, 20, 50)
        ]
    )
    areas = area_under_curve(records)
    np.testing.assert_allclose(areas.loc[("t", "a")].tolist(), [0.35, np.std([0.3, 0.4], ddof=1), 2])
    assert table_at(records, n_labels=[50])["b"].tolist() == ["0.550 ± 0.071"]
    assert table_at(records).index.tolist() == [10, 20, 50]


def test_macro_auc_equals_sklearn_where_every_class_is_known():
    rng = np.random.default_rng(0)
    y, proba = np.arange(60) % 4, rng.dirichlet(np.ones(4), size=60)
    expected = roc_auc_score(y, proba, multi_class="ovr", average="macro")
    assert macro_auc(y, proba, range(4)) == pytest.approx(expected)
    # A class without labels counts 1/2, as a column of zeros does.
    known = [roc_auc_score(y == k, proba[:, k]) for k in range(3)]
    assert macro_auc(y, proba[:, :3], range(3)) == pytest.approx((sum(known) + 0.5) / 4)


def test_plots(pixels, files, tmp_path):
    records = pd.DataFrame(
        [
            {"strategy": s, "seed": seed, "n_labels": n, "accuracy": 0.1 * n + 0.01 * seed}
            for s in ("adma", "random")
            for seed in range(3)
            for n in (1, 2, 3)
        ]
    )
    ax = plot_learning_curves(records, ceiling=0.9, ax=mpl.figure.Figure().subplots())
    assert [line.get_label() for line in ax.lines] == ["adma", "random", "all labels"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.11, 0.21, 0.31])
    sheet = contact_sheet([pixels[0][0], files[0][1], pixels[0][2][..., 0]], ["a", "b", "c"], n_columns=2)
    assert [ax.get_title() for ax in sheet.axes] == ["a", "b", "c", ""]
    sheet.savefig(tmp_path / "sheet.png")


def test_the_plane_of_the_pool_marks_what_was_queried():
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    features = rng.normal(size=(30, 5)) + 20 * np.eye(5)[y]
    axes = [plot_queried(features, y, [4, 7], ax=mpl.figure.Figure().subplots()) for _ in range(2)]
    pool, queried = (collection.get_offsets() for collection in axes[0].collections)
    assert pool.shape == (30, 2)
    np.testing.assert_array_equal(queried, pool[[4, 7]])
    np.testing.assert_array_equal(axes[1].collections[0].get_offsets(), pool)


def test_runs_never_share_a_file(tmp_path):
    tasks = {"a/b": IRIS, "a_b": Task(IRIS.X_test, IRIS.y_test, IRIS.X_pool, IRIS.y_pool), "a": IRIS, "a--b": IRIS}
    names = {"b--c": random_sampling, "c": random_sampling}
    options = {"n_queries": 1, "batch_size": 5, "seeds": [0]}
    run_experiment(LogisticRegression(max_iter=2000), names, tasks, folder=tmp_path, **options)
    assert len(list(tmp_path.glob("*.jsonl"))) == 8
    with pytest.raises(ValueError, match="holds one twice"):
        iris(seeds=[0, 0])


def test_a_folder_knows_its_data_and_keywords(tmp_path, classifier, pixels):
    iris(tmp_path)
    other = {"iris": IRIS._replace(X_pool=IRIS.X_pool + 1)}
    with pytest.raises(ValueError, match="with X_pool="):
        run_experiment(LogisticRegression(max_iter=2000), STRATEGIES, other, folder=tmp_path, **LOOP)
    iris(tmp_path / "p", {"p": partial(margin_sampling, random_tie_break=False)})
    with pytest.raises(ValueError, match="with query strategy="):
        iris(tmp_path / "p", {"p": partial(margin_sampling, random_tie_break=True)})
    X, y = pixels
    run = {"tasks": {"t": Task(X, y, X, y)}, "n_queries": 1, "batch_size": 8, "seeds": [0]}
    classifier.set_params(max_epochs=0)
    run_experiment(classifier, {"adma": adma_sampling}, folder=tmp_path / "c", **run)
    run_experiment(classifier.set_params(cache=False), {"adma": adma_sampling}, folder=tmp_path / "c", **run)
    with seeded(9):
        changed = classifier.set_params(backbone=TinyConvNet(), source=None)
    with pytest.raises(ValueError, match="with estimator backbone="):
        run_experiment(changed, {"adma": adma_sampling}, folder=tmp_path / "c", **run)


def test_a_generator_in_a_strategy_is_refused():
    with pytest.raises(ValueError, match="'random' has a generator of its own"):
        iris(strategies={"random": Query(random_sampling, random_state=np.random.RandomState(0))})


def test_two_processes_at_one_run(tmp_path):
    iris(tmp_path)
    file = tmp_path / "iris--random--0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with FileLock(f"{file}.lock"), pytest.raises(ValueError, match="another process is at the run"):
        iris(tmp_path)


def test_a_finished_run_is_not_fitted_again(tmp_path, monkeypatch):
    expected = iris(tmp_path)
    monkeypatch.setattr(LogisticRegression, "fit", None)
    pd.testing.assert_frame_equal(iris(tmp_path), expected)


@pytest.mark.parametrize("folder", [False, True])
def test_rows_that_are_labelled_already_come_first(tmp_path, folder):
    initial = [3, 60, 61, 30]
    task = IRIS._replace(initial=initial)
    loop = {"n_queries": 2, "batch_size": 5, "seeds": [0], "folder": tmp_path if folder else None}
    records = run_experiment(LogisticRegression(max_iter=2000), {"margin": margin_sampling}, {"iris": task}, **loop)
    assert records["n_labels"].tolist() == [4, 9, 14]
    assert records["indices"].iloc[0] == initial
    assert not set(np.concatenate(records["indices"].iloc[1:].tolist())) & set(initial)
    again = run_experiment(LogisticRegression(max_iter=2000), {"margin": margin_sampling}, {"iris": task}, **loop)
    assert again["indices"].tolist() == records["indices"].tolist()


@pytest.mark.parametrize(
    ("initial", "n_initial", "message"),
    [
        ([1, 1], 0, "does not hold distinct rows"),
        ([0.5], 0, "does not hold distinct rows"),
        ([0, 999], 0, "initial holds row 999"),
        ([-1, 2], 0, "initial holds row -1"),
        ([1, 2], 3, "n_initial=3 rows cannot be drawn"),
    ],
)
def test_impossible_initial_rows_are_named(initial, n_initial, message):
    loop = {"n_queries": 2, "batch_size": 5, "n_initial": n_initial, "seeds": [0]}
    with pytest.raises(ValueError, match=message):
        run_experiment(
            LogisticRegression(), {"margin": margin_sampling}, {"iris": IRIS._replace(initial=initial)}, **loop
        )


def test_no_initial_rows_are_none():
    loop = {"n_queries": 2, "batch_size": 5, "n_initial": 3, "seeds": [0]}
    task = IRIS._replace(initial=[])
    records = run_experiment(LogisticRegression(max_iter=2000), {"margin": margin_sampling}, {"iris": task}, **loop)
    assert records["n_labels"].tolist() == [3, 8, 13]
