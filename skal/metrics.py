"""Metrics of records and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skal.images.forms import as_data


def area_under_curve(records: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Mean and standard deviation of the area under each learning curve, divided by its range of label counts.

    Parameters
    ----------
    records : DataFrame
        As from :func:`~skal.experiment.run_experiment`.
    metric : str, default="accuracy"

    Returns
    -------
    areas : DataFrame
        Indexed by ``task`` and ``strategy``. Columns are ``mean`` and ``std`` over the seeds, and ``runs``, their
        number. A run with a single round has no area and is left out.

    Examples
    --------
    >>> curve = pd.DataFrame({"task": "t", "strategy": "s", "seed": 0, "n_labels": [10, 20, 40],
    ...                       "accuracy": [0.0, 1.0, 1.0]})
    >>> float(area_under_curve(curve)["mean"].iloc[0])
    0.8333333333333334
    """
    grouped = _areas(records, metric).groupby(["task", "strategy"], sort=False)["area"]
    return grouped.agg(["mean", "std", "count"]).rename(columns={"count": "runs"})


def _areas(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Area of each run."""
    areas = [
        (*run, float(np.trapezoid(curve[metric], curve["n_labels"]) / np.ptp(curve["n_labels"])))
        for run, curve in _curves(records)
        if len(curve) > 1
    ]
    return pd.DataFrame(areas, columns=["task", "strategy", "seed", "area"])


def _curves(records: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The learning curve of each task, strategy and seed, in the order of the records."""
    for run, rounds in records.groupby(["task", "strategy", "seed"], sort=False):
        yield run, rounds.sort_values("n_labels")


def rank_table(records: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Mean rank of each strategy by area under the curve, 1 for the best: one column per task, and their mean.

    Parameters
    ----------
    records : DataFrame
        As from :func:`~skal.experiment.run_experiment`. Strategies are ranked within each task and seed. Equal areas
        share their mean rank. Seeds that some strategy of the task lacks are left out.
    metric : str, default="accuracy"

    Returns
    -------
    ranks : DataFrame
        Indexed by strategy, best first. Columns are the tasks and ``mean``.

    Raises
    ------
    ValueError
        If the strategies of a task have no seed in common.

    Examples
    --------
    >>> records = pd.DataFrame({"task": "t", "strategy": ["a", "a", "b", "b"], "seed": 0, "n_labels": [1, 2, 1, 2],
    ...                         "accuracy": [0.5, 0.6, 0.5, 0.8]})
    >>> rank_table(records)["mean"].to_dict()
    {'b': 1.0, 'a': 2.0}
    """
    areas = _areas(records, metric)
    order = list(dict.fromkeys(areas["task"]))
    n_run, n_strategies = (areas.groupby(by)["strategy"].transform("nunique") for by in (["task", "seed"], ["task"]))
    common = areas[n_run == n_strategies]
    for task in order:
        if task not in set(common["task"]):
            seeds = areas[areas["task"] == task].groupby("strategy", sort=False)["seed"].agg(sorted).to_dict()
            raise ValueError(f"the strategies of task {task!r} have no seed in common: {seeds}")
    areas = common.assign(rank=common.groupby(["task", "seed"])["area"].rank(ascending=False))
    ranks = areas.groupby(["strategy", "task"])["rank"].mean().unstack("task")[order].rename_axis(None, axis=1)
    return ranks.assign(mean=ranks.mean(axis=1)).sort_values("mean")


def labels_to_reach(records: pd.DataFrame, targets: Mapping[str, float], metric: str = "accuracy") -> pd.Series:
    """Number of labels at which a strategy first reaches a value: the median over the seeds.

    Parameters
    ----------
    records : DataFrame
        As from :func:`~skal.experiment.run_experiment`.
    targets : dict of str to float
        The value to reach in each task, such as a share of the accuracy with all labels.
    metric : str, default="accuracy"

    Returns
    -------
    labels : Series of float
        Indexed by ``task`` and ``strategy``. Curves are interpolated linearly between rounds. Infinite if the median
        run does not reach the value.

    Raises
    ------
    ValueError
        If `targets` is not a dict or lacks a task.

    Examples
    --------
    >>> records = pd.DataFrame({"task": "t", "strategy": "s", "seed": 0, "n_labels": [10, 20, 30],
    ...                         "accuracy": [0.4, 0.6, 0.5]})
    >>> labels_to_reach(records, {"t": 0.5}).to_dict()
    {('t', 's'): 15.0}
    """
    tasks = list(records["task"].unique())
    if not isinstance(targets, Mapping):
        raise ValueError(f"targets={targets!r} is not a dict with a value for each of the tasks {tasks}")
    if lacking := [task for task in tasks if task not in targets]:
        raise ValueError(f"targets={targets!r} has no value for the tasks {lacking}")
    runs = [
        (*run, _first_reached(curve["n_labels"].to_numpy(float), curve[metric].to_numpy(float), targets[run[0]]))
        for run, curve in _curves(records)
    ]
    frame = pd.DataFrame(runs, columns=["task", "strategy", "seed", "labels"])
    return frame.groupby(["task", "strategy"], sort=False)["labels"].median()


def _first_reached(labels: np.ndarray, values: np.ndarray, target: float) -> float:
    above = np.flatnonzero(values >= target)
    if len(above) == 0:
        return float("inf")
    i = above[0]
    return float(labels[0] if i == 0 else np.interp(target, values[i - 1 : i + 1], labels[i - 1 : i + 1]))


def table_at(records: pd.DataFrame, metric: str = "accuracy", n_labels: Sequence[int] | None = None) -> pd.DataFrame:
    """Mean ± standard deviation over seeds at given numbers of labels, one column per strategy (as in ADMA's tables).

    Parameters
    ----------
    records : DataFrame
        Records of one task.
    metric : str, default="accuracy"
    n_labels : sequence of int, default=None
        None shows all.

    Returns
    -------
    table : DataFrame of str
        Indexed by the number of labels.

    Examples
    --------
    >>> records = pd.DataFrame({"strategy": "adma", "seed": [0, 1], "n_labels": 10, "accuracy": [0.5, 0.6]})
    >>> table_at(records)["adma"].tolist()
    ['0.550 ± 0.071']
    """
    shown = records if n_labels is None else records[records["n_labels"].isin(n_labels)]
    cells = shown.groupby(["n_labels", "strategy"], sort=False)[metric].agg(["mean", "std"])
    text = cells.apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}".replace(" ± nan", ""), axis=1)
    order = list(dict.fromkeys(shown["strategy"]))
    return text.unstack("strategy")[order].sort_index().fillna("").rename_axis("labels").rename_axis(None, axis=1)


def macro_auc(y: ArrayLike, proba: np.ndarray, classes: ArrayLike) -> float:
    """Area under the one-vs-rest ROC curve, averaged over the classes of `y`.

    Parameters
    ----------
    y : array-like of shape (n,)
    proba : ndarray of shape (n, C)
        Probabilities of `classes`. A class of `y` that is not among them has probability 0, and so an area of 1/2.
    classes : array-like of shape (C,)

    Returns
    -------
    auc : float

    Examples
    --------
    >>> macro_auc(["a", "b", "c"], np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), ["a", "b"])
    0.8333333333333334
    """
    y = np.asarray(y)
    column = {label: k for k, label in enumerate(np.asarray(classes).tolist())}
    areas = [
        roc_auc_score(y == label, proba[:, column[label]]) if label in column else 0.5
        for label in np.unique(y).tolist()
    ]
    return float(np.mean(areas))


def soft_neighborhood_density(proba: ArrayLike, *, temperature: float = 0.05) -> float:
    """How densely predictions cluster: the mean entropy of the similarities of each prediction to the others.

    Parameters
    ----------
    proba : array-like of shape (n, n_classes)
        Class probabilities of images of the target, at least two.
    temperature : float, default=0.05

    Returns
    -------
    density : float
        Higher is better: neighbours are in dense clusters of predictions.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or `proba` contains NaN or infinity.

    References
    ----------
    .. [1] Saito, Kim, Teterwak, Sclaroff, Darrell, Saenko. "Tune it the right way: unsupervised validation of domain
       adaptation via soft neighborhood density", ICCV 2021, Eq. 3-4.

    Examples
    --------
    >>> clustered, blurred = [[1, 0], [1, 0], [0, 1], [0, 1]], [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0, 1]]
    >>> soft_neighborhood_density(clustered + clustered) > soft_neighborhood_density(blurred + blurred)
    True
    """
    p = torch.from_numpy(check_array(proba, dtype=np.float64, ensure_min_samples=2, input_name="proba"))
    p = nn.functional.normalize(p)
    similarity = p @ p.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    near = similarity.softmax(dim=1)
    return float(-torch.special.xlogy(near, near).sum(1).mean())


def target_density(estimator: Any, X: Any = None, y: Any = None) -> float:
    """Score of a classifier adapted to a target domain, without target labels, for ``GridSearchCV(scoring=...)``.

    Parameters
    ----------
    estimator : FrozenPrefixClassifier
        Fitted with ``X_unlabeled``. The density of its predictions for those images is computed (for at most 2,000 of
        them, equally spaced).
    X, y : ignored
        The images held out by a search are labelled, and are not used.

    Returns
    -------
    density : float
        See :func:`soft_neighborhood_density`.

    Raises
    ------
    ValueError
        If the estimator was fitted without unlabelled images.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from torch import nn
    >>> from skal import DAN, FrozenPrefixClassifier, Pool
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> X, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    >>> dan = FrozenPrefixClassifier(net, recipe=DAN(labels="source"), random_state=0)
    >>> search = GridSearchCV(dan, {"recipe__lam": [0.1, 1]}, scoring=target_density, cv=2)
    >>> search.fit(X, y, X_unlabeled=Pool(X + 1)).best_params_["recipe__lam"] in (0.1, 1)
    True
    """
    check_is_fitted(estimator)
    X_target = getattr(estimator, "data_", {}).get("X_unlabeled")
    if X_target is None:
        raise ValueError("the estimator was fitted without target images; fit it with X_unlabeled or sample_domain")
    X_target = as_data(X_target)
    rows = np.linspace(0, len(X_target) - 1, min(len(X_target), 2000)).astype(int)
    return soft_neighborhood_density(estimator.predict_proba(_safe_indexing(X_target, rows)))
