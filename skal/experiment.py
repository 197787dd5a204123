"""Experiments: strategies x seeds x data sets give the tidy records of learning curves, resumable and in parallel."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_consistent_length
from torch import nn

from skal.active import check_initial, labelling_rounds, with_seeds
from skal.metrics import macro_auc
from skal.query._query import Query
from skal.source import SourceProfile


class Task(NamedTuple):
    """A pool, the labels its oracle gives when asked, and the test set on which each round is scored.

    `initial` are rows of the pool that are labelled already, before the first query.
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
    seeds: Sequence[int] = (0, 1, 2),
    folder: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Learning curves of every strategy on every task with every seed.

    Parameters
    ----------
    estimator : classifier
        Cloned for each run; where its ``random_state`` is None, the run's seed sets it.
    strategies : dict of str to Query or callable
        By the name they get in the records.
    tasks : dict of str to Task
    n_queries : int
    batch_size : int
        Labels a query; the last takes what is left of the pool.
    n_initial : int, default=0
        Rows labelled at random before the first query.
    seeds : sequence of int, default=(0, 1, 2)
    folder : path, default=None
        Where each run writes a line after each of its rounds. The same call then continues where an earlier one was
        stopped, and gives the records it would have given; more strategies, tasks or seeds may be added later.
    n_jobs : int, default=None
        Runs in parallel, through joblib.
    verbose : int, default=0
        As in :class:`joblib.Parallel`.

    Returns
    -------
    records : DataFrame
        A row a round: ``task``, ``strategy``, ``seed``, ``n_labels``, ``n_classes`` (seen so far), ``accuracy``,
        ``macro_auc``, ``query_seconds``, ``fit_seconds`` and ``indices``, the rows of the pool labelled in this round.

    Raises
    ------
    ValueError
        If lengths differ, there is nothing to run, a strategy has a generator of its own, the folder holds runs with
        other settings or data, or another process is at the same run.

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
    if not (strategies and tasks and len(seeds)):
        raise ValueError(f"nothing to run: {len(strategies)} strategies, {len(tasks)} tasks, {len(seeds)} seeds")
    for task in tasks.values():
        check_consistent_length(task.X_pool, task.y_pool)
        check_consistent_length(task.X_test, task.y_test)
        check_initial(task.initial, n_initial, len(np.asarray(task.y_pool)))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={list(seeds)} holds one twice")
    queries = {name: Query.of(strategy) for name, strategy in strategies.items()}
    for name, query in queries.items():
        if any(isinstance(value, (np.random.RandomState, np.random.Generator)) for value in query.keywords.values()):
            raise ValueError(f"the strategy {name!r} has a generator of its own; leave it out: every round is seeded")
    loop = {"n_queries": n_queries, "batch_size": batch_size, "n_initial": n_initial}
    runs = [(task, strategy, seed) for task in tasks for seed in seeds for strategy in strategies]
    files: dict[tuple[str, str, int], tuple[Path, dict[str, Any]]] = {}
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = {
            (task, name): _settings(estimator, query, tasks[task], loop)
            for task in tasks
            for name, query in queries.items()
        }
        for run in runs:  # refused before any work
            files[run] = Path(folder) / _file_name(*run), settings[run[:2]]
            _read(*files[run])
    results = Parallel(n_jobs=n_jobs, verbose=verbose)(
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


def _run(
    estimator: BaseEstimator,
    query: Query,
    task: Task,
    seed: int,
    loop: dict[str, Any],
    kept: tuple[Path, dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """One learning curve; what its file holds already, by the same settings, is taken from there."""
    if kept is None:
        return list(label_rounds(estimator, query, task, seed=seed, **loop))
    file, settings = kept
    with _alone(file):
        records = _read(file, settings)
        if not file.exists() or not file.stat().st_size:
            _append(file, settings)
        begun = loop["n_initial"] > 0 or np.size(task.initial if task.initial is not None else ()) > 0
        done = len(records) == loop["n_queries"] + begun
        if done or (records and records[-1]["n_labels"] == len(task.y_pool)):  # type: ignore[arg-type]
            return records
        known = [record["indices"] for record in records]
        for record in label_rounds(estimator, query, task, seed=seed, known=known, **loop):
            records.append(record)
            _append(file, record)
    return records


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a run's lock, which a killed process gives back."""
    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another process is at the run {str(file)!r}") from error
    try:
        yield
    finally:
        lock.release()


def label_rounds(
    estimator: BaseEstimator,
    strategy: Callable[..., Any],
    task: Task,
    *,
    n_queries: int,
    batch_size: int,
    n_initial: int = 0,
    seed: int = 0,
    known: Sequence[Sequence[int]] = (),
) -> Iterator[dict[str, Any]]:
    """One learning curve, record by record as its rounds are done.

    Parameters
    ----------
    estimator : classifier
        Cloned.
    strategy : Query or callable
    task : Task
    n_queries, batch_size, n_initial : int
        As in :func:`run_experiment`.
    seed : int, default=0
    known : sequence of sequences of int, default=()
        Rows that an earlier, interrupted run has labelled in its rounds; those are not repeated.

    Yields
    ------
    record : dict
        ``n_labels``, ``n_classes``, ``accuracy``, ``macro_auc``, ``query_seconds``, ``fit_seconds`` and ``indices``.
        With labels of a single class, a guess of that class is scored.
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
        initial=task.initial,
        seed=seed,
        known=[np.asarray(indices, dtype=int) for indices in known],
    )
    for learner, queried, query_seconds, fit_seconds in rounds:
        classes = np.unique(y_pool[learner.labelled])
        proba = learner.predict_proba(task.X_test) if len(classes) > 1 else np.ones((len(y_test), 1))
        yield {
            "n_labels": len(learner.labelled),
            "n_classes": len(classes),
            "accuracy": float(accuracy_score(y_test, classes[proba.argmax(axis=1)])),
            "macro_auc": macro_auc(y_test, proba, classes),
            "query_seconds": query_seconds,
            "fit_seconds": fit_seconds,
            "indices": queried.tolist(),
        }


def _read(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of an interrupted or finished run; a last line that was cut short is dropped.

    Raises
    ------
    ValueError
        If the run had other settings; the message names the first that differs.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(file, len(whole))
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines and lines[0] != settings:
        name = next(name for name in {**settings, **lines[0]} if settings.get(name) != lines[0].get(name))
        raise ValueError(
            f"{str(file)!r} belongs to an experiment with {name}={lines[0].get(name)!r}, but this one has "
            f"{settings.get(name)!r}; use another folder"
        )
    return lines[1:]


def _append(file: Path, line: dict[str, Any]) -> None:
    with open(file, "a") as stream:
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _settings(estimator: BaseEstimator, query: Query, task: Task, loop: dict[str, int]) -> dict[str, Any]:
    """What a run's records depend on beside its name, as text."""
    params = {f"estimator {name}": _text(value) for name, value in sorted(estimator.get_params().items())}
    params |= {f"query {name}": _text(value) for name, value in sorted(query.get_params().items())}
    kept = {name: text for name, text in params.items() if name.split("__")[-1].split()[-1] not in _NO_RESULT}
    data = {name: _digest(value) for name, value in task._asdict().items() if value is not None}
    return {"estimator": type(estimator).__name__, **kept, **data, **loop}


#: Parameters that change no record: where activations are kept, and what is shown.
_NO_RESULT = {"cache", "verbose", "n_jobs"}


def _text(value: Any) -> str:
    """A description that is the same in every process: no addresses, and what weights and data hold."""
    if isinstance(value, functools.partial):
        keywords = {name: _text(keyword) for name, keyword in sorted(value.keywords.items())}
        return f"partial({_text(value.func)}, {[_text(a) for a in value.args]}, {keywords})"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} {joblib.hash({k: v.cpu().numpy() for k, v in value.state_dict().items()})}"
    if isinstance(value, SourceProfile) and hasattr(value, "fingerprint_"):
        return f"SourceProfile {value.layers_} of {value.fingerprint_}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def _digest(data: Any) -> str:
    """Names an array's size and up to 100 of its rows."""
    n = len(data) if not hasattr(data, "shape") else data.shape[0]
    rows = np.linspace(0, n - 1, min(n, 100)).astype(int)
    return f"{n} rows {joblib.hash(_safe_indexing(data, rows))}"


def _file_name(task: str, strategy: str, seed: int) -> str:
    """Different runs, different names, on any file system."""
    names = (quote(name, safe=" ").replace("-", "%2D") for name in (task, strategy))
    return "--".join([*names, str(seed)]) + ".jsonl"
