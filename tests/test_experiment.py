"""Learning-curve records and macro AUC."""

from functools import partial

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from skal import adma_sampling, random_sampling
from skal.experiment import label_rounds, macro_auc
from skal.plots import contact_sheet, plot_learning_curves

mpl.use("Agg")


def test_records_of_a_run_to_the_end_of_the_pool(classifier, pixels):
    X, y = pixels
    run = label_rounds(classifier, adma_sampling, X, y, X, y, n_rounds=9, n_instances=15)
    records = pd.DataFrame(run)
    assert records["n_labels"].tolist() == [15, 30, 40]
    assert sorted(np.concatenate(records["indices"])) == list(range(40))
    assert records["accuracy"].iloc[-1] > 0.9
    assert not hasattr(classifier, "net_")


def test_a_strategy_with_a_generator_is_reproducible(classifier, pixels):
    X, y = pixels
    runs = [
        list(
            label_rounds(
                classifier,
                partial(random_sampling, random_state=np.random.RandomState(3)),
                X,
                y,
                X,
                y,
                n_rounds=2,
                n_instances=4,
            )
        )
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first["indices"], second["indices"])
        assert first["accuracy"] == second["accuracy"]
    assert set(runs[0][0]["indices"]).isdisjoint(runs[0][1]["indices"])


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
