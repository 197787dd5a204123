"""Metrics of records and predictions."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy, rankdata
from sklearn.metrics import roc_auc_score

from skal.metrics import (
    area_under_curve,
    labels_to_reach,
    macro_auc,
    rank_table,
    soft_neighborhood_density,
    table_at,
)


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


def test_an_area_is_that_under_straight_lines():
    curve = pd.DataFrame(
        {"task": "t", "strategy": "s", "seed": 0, "n_labels": [40, 10, 20], "accuracy": [0.9, 0.1, 0.5]}
    )
    # (10 x .3 + 20 x .7) / 30, in any order of the rows
    np.testing.assert_allclose(area_under_curve(curve)["mean"], [17 / 30])


def curves(n_seeds=3):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"task": t, "strategy": s, "seed": seed, "n_labels": n, "accuracy": rng.random()}
            for t in "xy"
            for s in "abc"
            for seed in range(n_seeds)
            for n in (5, 10, 30)
        ]
    )


def test_seeds_that_a_strategy_lacks_are_not_ranked():
    records = curves()
    partial = records[~((records["task"] == "x") & (records["strategy"] == "a") & (records["seed"] == 2))]
    complete = records[~((records["task"] == "x") & (records["seed"] == 2))]
    pd.testing.assert_frame_equal(rank_table(partial), rank_table(complete))
    alone = partial[(partial["strategy"] == "a") | (partial["seed"] == 2)]
    with pytest.raises(ValueError, match=r"task 'x' have no seed in common: .*'a': \[0, 1\], 'b': \[2\]"):
        rank_table(alone)


def test_ranks_are_those_of_the_areas_run_by_run():
    records = curves()
    table = rank_table(records)
    for task in "xy":
        ranks = []
        for seed in range(3):
            own = records[(records["task"] == task) & (records["seed"] == seed)]
            runs = [own[own["strategy"] == strategy] for strategy in "abc"]
            ranks.append(rankdata([-np.trapezoid(run["accuracy"], run["n_labels"]) for run in runs]))
        np.testing.assert_allclose(table.loc[list("abc"), task], np.mean(ranks, axis=0))
    np.testing.assert_allclose(table["mean"], table[["x", "y"]].mean(axis=1))
    assert table["mean"].is_monotonic_increasing


@pytest.mark.parametrize(("target", "expected"), [(0.5, 15.0), (0.4, 10.0), (0.1, 10.0), (0.6, 20.0), (0.7, np.inf)])
def test_labels_are_counted_along_straight_lines(target, expected):
    records = pd.DataFrame(
        {"task": "t", "strategy": "s", "seed": 0, "n_labels": [10, 20, 30], "accuracy": [0.4, 0.6, 0.5]}
    )
    np.testing.assert_allclose(labels_to_reach(records, {"t": target}), [expected])


def test_rows_are_in_the_order_of_the_records():
    strategies, sizes = list("umbaq"), range(10, 160, 10)
    records = pd.DataFrame(
        [
            {"task": t, "strategy": s, "seed": 0, "n_labels": n, "accuracy": 0.5}
            for t in "zy"
            for s in strategies
            for n in sizes
        ]
    )
    expected = [(task, strategy) for task in "zy" for strategy in strategies]
    assert area_under_curve(records).index.tolist() == expected
    assert labels_to_reach(records, {"z": 0.5, "y": 0.5}).index.tolist() == expected
    with pytest.raises(ValueError, match=r"targets={'z': 0.5} has no value for the tasks \['y'\]"):
        labels_to_reach(records, {"z": 0.5})
    with pytest.raises(ValueError, match=r"targets=0.9 is not a dict with a value for each of the tasks \['z', 'y'\]"):
        labels_to_reach(records, 0.9)


@pytest.mark.parametrize(("proba", "message"), [([[0.5, 0.5]], "minimum of 2"), ([[0.5, np.nan]] * 2, "contains NaN")])
def test_a_density_without_neighbours_or_with_nan_is_an_error(proba, message):
    with pytest.raises(ValueError, match=message):
        soft_neighborhood_density(proba)


def test_density_is_the_mean_entropy_of_similarities():
    proba = np.random.default_rng(0).dirichlet(np.ones(4), size=12)
    rows = proba / np.linalg.norm(proba, axis=1, keepdims=True)
    logits = rows @ rows.T / 0.05
    expected = [entropy(np.exp(np.delete(row, i) - row.max())) for i, row in enumerate(logits)]
    np.testing.assert_allclose(soft_neighborhood_density(proba), np.mean(expected))


def test_macro_auc_equals_sklearn_where_every_class_is_known():
    rng = np.random.default_rng(0)
    y, proba = np.arange(60) % 4, rng.dirichlet(np.ones(4), size=60)
    expected = roc_auc_score(y, proba, multi_class="ovr", average="macro")
    assert macro_auc(y, proba, range(4)) == pytest.approx(expected)
    # A class without labels counts 1/2, like a column of zeros.
    known = [roc_auc_score(y == k, proba[:, k]) for k in range(3)]
    assert macro_auc(y, proba[:, :3], range(3)) == pytest.approx((sum(known) + 0.5) / 4)
