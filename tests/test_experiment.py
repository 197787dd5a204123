"""Experiments: what they record, resume and reject, and what remains after an interruption."""

import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from modAL.uncertainty import entropy_sampling, margin_sampling
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import nn

from skal import Query, adma_sampling, random_sampling
from skal._random import seeded
from skal.experiment import Task, label_rounds, run_experiment
from tests.conftest import TinyConvNet, blobs

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
TASKS = {"iris": IRIS}
LOOP = {"n_queries": 4, "batch_size": 5, "n_initial": 6, "seeds": [0, 1]}
STRATEGIES = {"random": random_sampling, "margin": margin_sampling}
MEASURED = ["query_seconds", "fit_seconds"]


def iris(folder=None, strategies=STRATEGIES, tasks=TASKS, **options):
    return run_experiment(LogisticRegression(max_iter=2000), strategies, tasks, folder=folder, **LOOP | options)


@pytest.fixture(scope="module")
def undisturbed():
    return iris()


def test_an_experiment_is_the_runs_one_by_one(undisturbed):
    records = undisturbed
    assert len(records) == 2 * 2 * 5
    assert records.groupby(["strategy", "seed"])["n_labels"].apply(list).tolist() == [[6, 11, 16, 21, 26]] * 4
    alone = label_rounds(
        LogisticRegression(max_iter=2000), margin_sampling, IRIS, n_queries=4, batch_size=5, n_initial=6, seed=1
    )
    expected = pd.DataFrame(alone).drop(columns=MEASURED)
    own = records[(records.strategy == "margin") & (records.seed == 1)][expected.columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected)
    pd.testing.assert_frame_equal(iris(n_jobs=2).drop(columns=MEASURED), records.drop(columns=MEASURED))


def test_an_experiment_resumes_in_the_middle_of_a_run(tmp_path, undisturbed):
    expected = undisturbed.drop(columns=MEASURED)
    whole = iris(tmp_path)
    pd.testing.assert_frame_equal(whole.drop(columns=MEASURED), expected)
    pd.testing.assert_frame_equal(iris(tmp_path), whole)  # nothing is run again: the seconds are unchanged
    first = tmp_path / "iris--random--0.jsonl"
    lines = first.read_text().splitlines(keepends=True)
    first.write_text("".join(lines[:4]) + lines[4][:30])  # killed while writing its fourth record
    (tmp_path / "iris--margin--1.jsonl").unlink()
    resumed = iris(tmp_path)
    pd.testing.assert_frame_equal(resumed.drop(columns=MEASURED), expected)
    kept = resumed[(resumed.strategy == "random") & (resumed.seed == 0)]["fit_seconds"].tolist()
    before = whole[(whole.strategy == "random") & (whole.seed == 0)]["fit_seconds"].tolist()
    assert kept[:3] == before[:3]
    more = iris(tmp_path, {**STRATEGIES, "entropy": entropy_sampling}, seeds=[0, 1, 2])
    assert len(more) == 3 * 3 * 5


def test_other_settings_are_refused_before_any_work(tmp_path):
    iris(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=5, but this one has 7; use another folder"):
        iris(tmp_path, batch_size=7)
    with pytest.raises(ValueError, match=r"iris--margin--0.*with query random_tie_break=None"):
        iris(tmp_path, {"margin": Query(margin_sampling, random_tie_break=True)})
    with pytest.raises(ValueError, match="nothing to run: 0 strategies"):
        iris(strategies={})


def test_runs_never_share_a_file(tmp_path):
    tasks = {"a/b": IRIS, "a_b": Task(IRIS.X_test, IRIS.y_test, IRIS.X_pool, IRIS.y_pool), "a": IRIS, "a--b": IRIS}
    names = {"b--c": random_sampling, "c": random_sampling}
    options = {"n_queries": 1, "batch_size": 5, "seeds": [0]}
    run_experiment(LogisticRegression(max_iter=2000), names, tasks, folder=tmp_path, **options)
    assert len(list(tmp_path.glob("*.jsonl"))) == 8
    with pytest.raises(ValueError, match="contains duplicates"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0.5]}, "seeds=0.5 is not an integer of at least 0"),
        ({"seeds": [-1]}, "seeds=-1 is not an integer of at least 0"),
        ({"use_pool": "yes"}, "use_pool='yes' is not one of"),
        ({"strategies": {1: random_sampling}}, r"names of strategies and tasks must be strings, but got \[1\]"),
        ({"strategies": [random_sampling]}, "strategies is a list, but must be a dict"),
        ({"tasks": Task([0], [0], [0], [0])}, "tasks is a Task, but must be a dict"),
        ({"tasks": {"iris": ([0], [0], [0], [0])}}, r"the task 'iris' is a tuple; pass Task\(X_pool"),
        ({"tasks": {"iris": Task([0, 1], [0], [0], [0])}}, "the task 'iris': .* inconsistent numbers of samples"),
    ],
)
def test_options_are_checked_before_any_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        iris(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_a_generator_in_a_strategy_is_refused():
    with pytest.raises(ValueError, match="'random' has its own random generator"):
        iris(strategies={"random": Query(random_sampling, random_state=np.random.RandomState(0))})


def test_two_processes_at_one_run(tmp_path):
    iris(tmp_path)
    file = tmp_path / "iris--random--0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with FileLock(f"{file}.lock"), pytest.raises(ValueError, match="is in use by another process"):
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
        ([1, 1], 0, "is not a 1-D array of distinct row numbers"),
        ([0.5], 0, "is not a 1-D array of distinct row numbers"),
        ([0, 999], 0, "initial contains row 999"),
        ([-1, 2], 0, "initial contains row -1"),
        ([1, 2], 3, "n_initial=3 must be 0 if initial is given"),
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


def without_seconds(records):
    return records.drop(columns=MEASURED)


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from tests.test_experiment import iris
from skal._records import RecordFile
append = RecordFile.append
def slow(*args):
    append(*args)
    print("recorded", flush=True)
    time.sleep(0.3)  # time for the signal, on a busy machine too
RecordFile.append = slow
iris(sys.argv[1], n_jobs=int(sys.argv[2]))
"""


def started(folder, n_jobs=1):
    """A process that runs the experiment, after its third record."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder), str(n_jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        assert process.stdout.readline() == "recorded\n"
    return process


def whole_lines(folder):
    return {file.name: file.read_text().rpartition("\n")[0] for file in folder.glob("*.jsonl")}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_signal_loses_nothing_finished_and_records_nothing_else(tmp_path, sent, undisturbed):
    process = started(tmp_path)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert sent == signal.SIGKILL or errors.rstrip().endswith("KeyboardInterrupt")
    finished = whole_lines(tmp_path)
    assert 3 <= sum(text.count("\n") for text in finished.values()) < 20
    pd.testing.assert_frame_equal(without_seconds(iris(tmp_path)), without_seconds(undisturbed))
    for name, text in finished.items():
        assert (tmp_path / name).read_text().startswith(text)


class Interrupted(LogisticRegression):
    """Ctrl-C in the fit of a given number of rows, while a file says so."""

    def __init__(self, file=None, n_rows=16, max_iter=2000):
        super().__init__(max_iter=max_iter)
        self.file = file
        self.n_rows = n_rows

    def fit(self, X, y):
        if len(X) == self.n_rows and os.path.isdir(self.file):
            raise KeyboardInterrupt
        return super().fit(X, y)


def interrupted_margin(learner, X_pool, n_instances=1, *, folder):
    if len(learner.X_training) == 16 and os.path.isdir(folder):
        raise KeyboardInterrupt
    return margin_sampling(learner, X_pool, n_instances)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("place", ["fit", "query"])
def test_an_interrupt_reaches_the_caller_and_its_round_is_not_recorded(tmp_path, n_jobs, place):
    flag = tmp_path / "flag"
    flag.mkdir()
    estimator = Interrupted(str(flag), n_rows=16 if place == "fit" else -1)
    query = Query(interrupted_margin, folder=str(flag)) if place == "query" else margin_sampling
    run = partial(
        run_experiment, estimator, {"margin": query}, {"iris": IRIS}, **LOOP | {"n_queries": 3}, n_jobs=n_jobs
    )
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path / "runs")
    written = [file.read_text().splitlines() for file in (tmp_path / "runs").glob("*.jsonl")]
    finished = 2 if place == "fit" else 3  # rounds of 6 and 11 labels, and for a query the one of 16
    assert max(len(lines) - 1 for lines in written) == finished
    flag.rmdir()
    resumed = run(folder=tmp_path / "runs")
    pd.testing.assert_frame_equal(without_seconds(resumed), without_seconds(run(folder=None)))


def test_reading_leaves_a_file_alone_that_another_process_writes(tmp_path):
    iris(tmp_path, n_queries=1, seeds=[0])
    file = tmp_path / "iris--random--0.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[:-20])  # in the middle of a write
    with FileLock(f"{file}.lock"), pytest.raises(ValueError, match="is in use by another process"):
        iris(tmp_path, n_queries=1, seeds=[0])
    assert file.read_bytes() == content[:-20]


def test_a_failure_after_finished_runs_is_not_hidden_by_the_progress(tmp_path, capfd):
    iris(tmp_path, n_queries=1, seeds=[0, 1])
    with FileLock(tmp_path / "iris--random--1.jsonl.lock"), pytest.raises(ValueError, match="is in use by another"):
        iris(tmp_path, n_queries=1, seeds=[0, 1], verbose=10)
    assert "Done   1 tasks" in "".join(capfd.readouterr())


CHANGES = """
    import numpy as np
    from functools import partial
    from skal import random_sampling

    FACTOR = 1.0

    class Scored:
        sign = 1
        def __init__(self, power=1):
            self.power = power
        def __call__(self, learner, X_pool, n_instances=1):
            return np.argsort(self.sign * X_pool[:, 0] ** self.power)[:n_instances]

    def closure(column):
        def strategy(learner, X_pool, n_instances=1, *, step=1):
            return np.argsort(FACTOR * X_pool[:, column])[::step][:n_instances]
        return strategy

    STRATEGIES = {"closure": closure(0), "object": Scored(), "lambda": lambda learner, X_pool, n_instances=1:
                  np.arange(n_instances)}
"""


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("closure", "closure(0)", "closure(1)"),
        ("closure", "FACTOR = 1.0", "FACTOR = -1.0"),
        ("closure", "step=1", "step=2"),
        ("closure", "FACTOR * X", "-FACTOR * X"),
        ("object", "Scored()", "Scored(2)"),
        ("object", "sign = 1", "sign = -1"),
        ("object", "** self.power", "/ self.power"),
        ("lambda", "np.arange(n_instances)", "np.arange(1, n_instances + 1)"),
    ],
)
def test_records_of_a_changed_strategy_are_refused(tmp_path, name, before, after):
    def run(source):
        namespace = {"__name__": "study"}
        exec(compile(textwrap.dedent(source), "study.py", "exec"), namespace)
        strategies = {name: namespace["STRATEGIES"][name]}
        task = {"iris": IRIS}
        estimator = LogisticRegression(max_iter=2000)
        options = {"n_queries": 1, "batch_size": 5, "n_initial": 6, "seeds": [0], "folder": tmp_path}
        return run_experiment(estimator, strategies, task, **options)

    assert CHANGES.count(before) == 1
    first = run(CHANGES)
    pd.testing.assert_frame_equal(run(CHANGES), first)  # the same code, loaded again
    with pytest.raises(ValueError, match="with query strategy="):
        run(CHANGES.replace(before, after))


def test_records_of_changed_data_are_refused(tmp_path):
    loop = LOOP | {"n_queries": 1, "seeds": [0]}
    iris(tmp_path, **loop)
    one_row = IRIS.X_pool.copy()
    one_row[44, 2] += 1e-9
    swapped = IRIS.y_pool.copy()
    swapped[[0, 70]] = swapped[[70, 0]]
    changed = {
        "X_pool": [one_row, IRIS.X_pool.astype(np.float32), IRIS.X_pool[::-1]],
        "y_pool": [swapped],
        "X_test": [IRIS.X_test[::-1]],
        "y_test": [IRIS.y_test[::-1]],
    }
    for name, values in changed.items():
        for value in values:
            tasks = {"iris": IRIS._replace(**{name: value})}
            with pytest.raises(ValueError, match=f"with {name}="):
                run_experiment(LogisticRegression(max_iter=2000), STRATEGIES, tasks, folder=tmp_path, **loop)


def test_records_of_replaced_images_and_of_another_network_are_refused(tmp_path, classifier, files):
    paths, y = files
    run = partial(run_experiment, strategies={"r": random_sampling}, n_queries=1, batch_size=8, seeds=[0])
    run = partial(run, tasks={"t": Task(paths, y, paths, y)}, folder=tmp_path / "runs")
    classifier.set_params(max_epochs=0)
    first = run(classifier)
    pd.testing.assert_frame_equal(run(classifier.set_params(verbose=True, cache=False)), first)
    content = Path(paths[7]).read_bytes()
    Path(paths[7]).write_bytes(Path(paths[3]).read_bytes())
    with pytest.raises(ValueError, match="with X_pool="):
        run(classifier)
    Path(paths[7]).write_bytes(content)
    pd.testing.assert_frame_equal(run(classifier), first)
    classifier.backbone.relu = nn.Tanh()
    with pytest.raises(ValueError, match="with estimator backbone="):
        run(classifier)


def test_a_strategy_whose_state_cannot_be_read_is_named_before_any_work(tmp_path):
    with open(tmp_path / "log.txt", "w") as log:

        def logging(learner, X_pool, n_instances=1):
            log.write("asked")
            return np.arange(n_instances)

        with pytest.raises(ValueError, match=r"query strategy\.log is a _io\.TextIOWrapper"):
            iris(tmp_path / "runs", {"logging": logging})
        assert len(iris(strategies={"logging": logging})) == 10  # without a folder nothing is compared


def test_counts_of_numpy_are_counts(tmp_path):
    options = {"n_queries": 1, "batch_size": 5, "n_initial": 6, "seeds": [0]}
    first = iris(tmp_path, **{name: np.int64(n) for name, n in options.items() if name != "seeds"}, seeds=[0])
    pd.testing.assert_frame_equal(iris(tmp_path, **options), first)
    with pytest.raises(ValueError, match="batch_size=0 is not an integer of at least 1"):
        iris(tmp_path / "new", batch_size=0)
    assert not (tmp_path / "new").exists()


class KnowsAll(ClassifierMixin, BaseEstimator):
    """Names more classes than its labels have."""

    def fit(self, X, y):
        self.classes_ = np.array(["ant", "bee", "cat"])
        self.fitted_ = LogisticRegression().fit(X, y)
        return self

    def predict_proba(self, X):
        proba = np.zeros((len(X), 3))
        proba[:, np.isin(self.classes_, self.fitted_.classes_)] = self.fitted_.predict_proba(X)
        return proba

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def test_classes_without_labels_keep_their_columns():
    X, y = blobs(90)
    two = y != "ant"
    task = Task(X[two], y[two], X, y, initial=np.arange(20))
    records = run_experiment(
        KnowsAll(), {"random": random_sampling}, {"blobs": task}, n_queries=1, batch_size=1, seeds=[0]
    )
    rows = [*range(20), *records["indices"].iloc[-1]]
    expected = KnowsAll().fit(X[two][rows], y[two][rows]).score(X, y)
    assert records["accuracy"].iloc[-1] == pytest.approx(expected)
    assert records["n_classes"].iloc[-1] == 2
