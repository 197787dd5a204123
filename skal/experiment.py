"""Experiments: learning curves per strategy, seed and data set as tidy records, resumable and in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import _num_samples, check_consistent_length

from skal._fingerprint import NO_RESULT, file_content, fingerprint, fingerprint_data, fingerprint_params
from skal._records import RecordFile
from skal._validation import check_count, check_options
from skal.active import check_initial, labelling_rounds, with_seeds
from skal.metrics import macro_auc
from skal.query._query import Query


class Task(NamedTuple):
    """A pool with its labels, and the test set on which each round is scored.

    `initial` lists rows of the pool that are labelled before the first query.
    """

    X_pool: Any
    y_pool: ArrayLike
    X_test: Any
    y_test: ArrayLike
    initial: ArrayLike | None = None


def run_experiment(
    estimator: BaseEstimator,
    strategies: Mapping[str, Callable[..., Any]],
    tasks: Mapping[str, Task],
    *,
    n_queries: int,
    batch_size: int,
    n_initial: int = 0,
    use_pool: bool | str = "auto",
    seeds: Sequence[int] = (0, 1, 2),
    folder: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Compute the learning curve of every strategy on every task with every seed.

    Parameters
    ----------
    estimator : classifier
        Cloned for each run. If its ``random_state`` is None, it is set from the seed of the run.
    strategies : dict of str to Query or callable
        The keys are their names in the records.
    tasks : dict of str to Task
    n_queries : int
    batch_size : int
        Labels per query. The last query takes what is left of the pool.
    n_initial : int, default=0
        Rows drawn at random and labelled before the first query.
    use_pool : bool or "auto", default="auto"
        As in :class:`skal.ActiveClassifier`.
    seeds : sequence of int, default=(0, 1, 2)
    folder : path, default=None
        Each run writes its records to a file in this folder, one line per round. Rerunning the same call resumes and
        returns identical records. Strategies, tasks and seeds may be added. See Notes for what must not change.
    n_jobs : int, default=None
        Number of runs in parallel, with joblib.
    verbose : int, default=0
        As in :class:`joblib.Parallel`.

    Returns
    -------
    records : DataFrame
        One row per round: ``task``, ``strategy``, ``seed``, ``n_labels``, ``n_classes`` (seen so far), ``accuracy``,
        ``macro_auc``, ``query_seconds``, ``fit_seconds`` and ``indices``, the rows of the pool labelled in this round.

    Raises
    ------
    ValueError
        If lengths differ, an option, count or seed is not allowed, a name is not a string, there is nothing to run, or
        a strategy has its own generator. If the folder contains runs with other settings or data or a damaged file, or
        the state of a setting cannot be read (the message names it). If another process is working on the same run. All
        but the last are raised before any work is done.

    Notes
    -----
    Records in a folder are returned only for the data and settings that produced them. The comparison covers every row
    of the data (for image files: name, size and content, see below), the estimator's parameters, the content of
    weights, networks and profiles, and the strategies: their code, defaults, closure, attributes and the module-level
    values they read. Functions and classes of installed libraries are compared by version. The parameters ``cache``,
    ``verbose`` and ``n_jobs`` are not compared, since they do not change the records. ``device`` is compared, since
    sums on another device differ in their last digits. Image files up to 128 KiB are compared in full. For larger
    files, the first and last 64 KiB, the size and the modification time are compared.

    An interrupt (Ctrl-C) propagates to the caller. The interrupted round leaves no record.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skal import random_sampling
    >>> X, y = load_iris(return_X_y=True)
    >>> tasks = {"iris": Task(X[::2], y[::2], X[1::2], y[1::2])}
    >>> records = run_experiment(LogisticRegression(max_iter=1000), {"random": random_sampling}, tasks,
    ...                          n_queries=3, batch_size=10, seeds=[0])
    >>> records[["task", "strategy", "seed", "n_labels"]].values.tolist()
    [['iris', 'random', 0, 10], ['iris', 'random', 0, 20], ['iris', 'random', 0, 30]]
    """
    for argument, given in (("strategies", strategies), ("tasks", tasks)):
        if not isinstance(given, Mapping):
            raise ValueError(f"{argument} is a {type(given).__name__}, but must be a dict whose keys are the names")
    if not (strategies and tasks and len(seeds)):
        raise ValueError(f"nothing to run: {len(strategies)} strategies, {len(tasks)} tasks, {len(seeds)} seeds")
    for name, data in tasks.items():
        _check_task(name, data, n_initial)
    for seed in seeds:
        check_count("seeds", seed, 0)
    if names := [name for name in (*strategies, *tasks) if not isinstance(name, str)]:
        raise ValueError(f"names of strategies and tasks must be strings, but got {names}")
    check_options(use_pool=(use_pool, (True, False, "auto")))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)} contains duplicates")
    queries = {name: Query.of(strategy) for name, strategy in strategies.items()}
    for name, query in queries.items():
        if any(isinstance(value, (np.random.RandomState, np.random.Generator)) for value in query.keywords.values()):
            raise ValueError(
                f"the strategy {name!r} has its own random generator; remove it, since every round is seeded"
            )
    for name, value, least in (("n_queries", n_queries, 1), ("batch_size", batch_size, 1), ("n_initial", n_initial, 0)):
        check_count(name, value, least)
    counts = {"n_queries": int(n_queries), "batch_size": int(batch_size), "n_initial": int(n_initial)}
    loop = {**counts, "use_pool": use_pool if isinstance(use_pool, str) else bool(use_pool)}
    runs = [(task, strategy, seed) for task in tasks for seed in seeds for strategy in strategies]
    files: dict[tuple[str, str, int], RecordFile] = {}
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        common = {**_estimator_settings(estimator), **loop}
        of_task = {name: _task_settings(data) for name, data in tasks.items()}
        of_query = {name: _query_settings(query) for name, query in queries.items()}
        for task, strategy, seed in runs:
            settings = {**common, **of_query[strategy], **of_task[task]}
            file = RecordFile(Path(folder) / _file_name(task, strategy, seed), settings)
            file.read()  # raises for other settings and damaged lines before any work
            files[task, strategy, seed] = file
    parallel = Parallel(n_jobs=n_jobs, verbose=verbose)
    parallel._pre_dispatch_amount = 0  # lacking in joblib's sequential loop, whose AttributeError would hide a failure
    results = parallel(
        delayed(_run)(estimator, queries[strategy], tasks[task], seed, loop, files.get((task, strategy, seed)))
        for task, strategy, seed in runs
    )
    return pd.DataFrame(
        [
            {"task": task, "strategy": strategy, "seed": seed, **record}
            for (task, strategy, seed), records in zip(runs, results, strict=True)
            for record in records
        ]
    )


def _check_task(name: str, task: Any, n_initial: int) -> None:
    """Raise a ValueError that names a task if it is not one, or its arrays do not fit together."""
    if not isinstance(task, Task):
        raise ValueError(f"the task {name!r} is a {type(task).__name__}; pass Task(X_pool, y_pool, X_test, y_test)")
    try:
        check_consistent_length(task.X_pool, task.y_pool)
        check_consistent_length(task.X_test, task.y_test)
        check_initial(task.initial, n_initial, len(np.asarray(task.y_pool)))
    except ValueError as error:
        raise ValueError(f"the task {name!r}: {error}") from error


def _run(
    estimator: BaseEstimator,
    query: Query,
    task: Task,
    seed: int,
    loop: dict[str, Any],
    file: RecordFile | None,
) -> list[dict[str, Any]]:
    """One learning curve. Rounds that are already in its file are read from there."""
    if file is None:
        return list(label_rounds(estimator, query, task, seed=seed, **loop))
    with file.locked():
        records = file.begin()
        has_initial = loop["n_initial"] > 0 or np.size(task.initial if task.initial is not None else ()) > 0
        done = len(records) == loop["n_queries"] + has_initial
        if done or (records and records[-1]["n_labels"] == len(task.y_pool)):  # type: ignore[arg-type]
            return records
        known = [record["indices"] for record in records]
        for record in label_rounds(estimator, query, task, seed=seed, known=known, **loop):
            file.append(len(records), record)
            records.append(record)
    return records


def label_rounds(
    estimator: BaseEstimator,
    strategy: Callable[..., Any],
    task: Task,
    *,
    n_queries: int,
    batch_size: int,
    n_initial: int = 0,
    use_pool: bool | str = "auto",
    seed: int = 0,
    known: Sequence[Sequence[int]] = (),
) -> Iterator[dict[str, Any]]:
    """One learning curve, with one record at the end of each round.

    Parameters
    ----------
    estimator : classifier
        Cloned.
    strategy : Query or callable
    task : Task
    n_queries, batch_size, n_initial, use_pool
        As in :func:`run_experiment`.
    seed : int, default=0
    known : sequence of sequences of int, default=()
        Rows labelled in each round of an interrupted run. These rounds are not repeated.

    Yields
    ------
    record : dict
        ``n_labels``, ``n_classes``, ``accuracy``, ``macro_auc``, ``query_seconds``, ``fit_seconds`` and ``indices``.
        While all labels are of one class, that class is the prediction.
    """
    seeded = with_seeds(clone(estimator), np.random.RandomState(seed))
    y_pool, y_test = np.asarray(task.y_pool), np.asarray(task.y_test)
    rounds = labelling_rounds(
        seeded,
        strategy,
        task.X_pool,
        y_pool,
        n_queries=n_queries,
        batch_size=batch_size,
        n_initial=n_initial,
        use_pool=use_pool,
        initial=task.initial,
        seed=seed,
        known=[np.asarray(indices, dtype=int) for indices in known],
    )
    for learner, queried, query_seconds, fit_seconds in rounds:
        seen = classes = np.unique(y_pool[learner.labelled])
        proba = np.ones((len(y_test), 1))
        if len(seen) > 1:
            proba, classes = learner.predict_proba(task.X_test), np.asarray(learner.estimator.classes_)
        yield {
            "n_labels": len(learner.labelled),
            "n_classes": len(seen),
            "accuracy": float(accuracy_score(y_test, classes[proba.argmax(axis=1)])),
            "macro_auc": macro_auc(y_test, proba, classes),
            "query_seconds": query_seconds,
            "fit_seconds": fit_seconds,
            "indices": queried.tolist(),
        }


def _estimator_settings(estimator: BaseEstimator) -> dict[str, str]:
    """The parameters of an estimator that clone copies, one by one."""
    return {"estimator": _described(type(estimator), "estimator")} | {
        f"estimator {name}": _described(value, f"estimator {name}", cloned=True)
        for name, value in sorted(estimator.get_params().items())
        if name.split("__")[-1] not in NO_RESULT
    }


def _query_settings(query: Query) -> dict[str, str]:
    return {"query": _described(type(query), "query")} | {
        f"query {name}": _described(value, f"query {name}")
        for name, value in sorted(query.get_params().items())
        if name not in NO_RESULT
    }


def _task_settings(task: Task) -> dict[str, str]:
    """Every row of the data, and every label."""
    settings = {}
    for name, value in task._asdict().items():
        if value is not None:
            rows = value if name.startswith("X") else np.asarray(value)
            settings[name] = f"{_num_samples(rows)} rows {fingerprint_data(rows, name)}"
    return settings


def _described(value: Any, name: str, *, cloned: bool = False) -> str:
    """A number or string unchanged; anything else as its type and fingerprint."""
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if type(value) is str:
        return " ".join([repr(value), file_content(value).hex()]).strip()
    digits = fingerprint_params(value, name) if cloned else fingerprint(value, name)
    return f"{getattr(value, '__qualname__', type(value).__qualname__)} {digits}"


def _file_name(task: str, strategy: str, seed: int) -> str:
    """File name of a run. Different runs have different names on any file system."""
    names = (quote(name, safe=" ").replace("-", "%2D") for name in (task, strategy))
    return "--".join([*names, str(seed)]) + ".jsonl"
