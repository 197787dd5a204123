"""Learning curves from zero labels, with and without the pool, and of logistic regression with the same strategy.

    python examples/studies/pool_curves.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

The regression (C = 10) uses the same network's features, normalised to length 1, centred on the pool mean and
normalised again, in training and in queries: ten lines of scikit-learn. "skal's head" is the classifier without
fine-tuning. With ``--fine-tune`` the curves are those of the full default with the pool instead. The table has the
labels needed for 90, 95 and 99 % of the accuracy of the full default with all labels.

Runs resume from --output, which has one folder per task. ``--table FILE`` and ``--figure FILE`` write a table and a
figure of the finished runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, load_task, network, unit, with_all_labels
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from skal import FrozenPrefixClassifier, Query
from skal.experiment import Task, run_experiment
from skal.metrics import area_under_curve, labels_to_reach
from skal.query import max_herding_sampling, random_sampling, typiclust_sampling, uherding_sampling

mpl.use("Agg")
import matplotlib.pyplot as plt

STRATEGIES = {
    "UHerding": uherding_sampling,
    "MaxHerding": max_herding_sampling,
    "TypiClust": typiclust_sampling,
    "random": random_sampling,
}
KEYS = ["task", "strategy", "classifier"]
ALL, SHARES = "all labels", (0.9, 0.95, 0.99)


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent after each of the first batches, area under the curve, and labels needed."""
    full = records[records["strategy"] == ALL].set_index("task")["accuracy"]
    records = records[records["strategy"] != ALL]
    batch = records.groupby([*KEYS, "seed"]).cumcount() + 1
    first = records.assign(batch=batch, accuracy=100 * records["accuracy"])[batch <= 5]
    shown = first.pivot_table(index=KEYS, columns="batch", values="accuracy")
    last = records.groupby([*KEYS, "seed"])["accuracy"].last().groupby(KEYS).mean()
    shown = shown.assign(last=100 * last, area=100 * _by_classifier(records, lambda own: area_under_curve(own)["mean"]))
    for share in SHARES:
        targets = (share * full).to_dict()
        needed = _by_classifier(records, lambda own, targets=targets: labels_to_reach(own, targets))
        shown[f"{share:.0%}"] = needed.map(lambda n: f"{n:.0f}" if np.isfinite(n) else "more")
    return shown.round(1)


def _by_classifier(records: pd.DataFrame, of: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    parts = {name: of(own) for name, own in records.groupby("classifier")}
    return pd.concat(parts, names=["classifier"]).reorder_levels(KEYS)


def draw(records: pd.DataFrame, file: Path) -> None:
    """Draw mean accuracy against labels: one panel per task and strategy, one line per classifier."""
    curves, full = records[records["strategy"] != ALL], records[records["strategy"] == ALL].set_index("task")
    tasks, strategies = curves["task"].unique(), curves["strategy"].unique()
    size = (3.4 * len(strategies), 3.2 * len(tasks))
    figure, axes = plt.subplots(
        len(tasks), len(strategies), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    names = curves["classifier"].unique()
    for (task, strategy), own in curves.groupby(["task", "strategy"]):
        ax = axes[list(tasks).index(task), list(strategies).index(strategy)]
        for i, name in enumerate(names):
            mean = own[own["classifier"] == name].groupby("n_labels")["accuracy"].mean()
            ax.plot(mean.index, mean, color=f"C{i}", marker="o", markersize=3, label=name)
        ax.axhline(full.loc[task, "accuracy"], color="0.4", linestyle="--", linewidth=1)
        ax.set(title=f"{task}, {strategy}", xlabel="labels")
        ax.grid(alpha=0.3)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--rounds", type=int, default=15, help="number of batches of one label per class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--fine-tune", action="store_true", help="run only the fine-tuned default with the pool")
    parser.add_argument("--name", default="fashion_mnist", help="name of the data in the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("pool_curves"))
    parser.add_argument("--table", type=Path, help="only write the table of --output to this file")
    parser.add_argument("--figure", type=Path, help="only plot the curves of --output to this file")
    args = parser.parse_args()
    if args.table or args.figure:
        records = pd.concat([pd.read_csv(file) for file in sorted(args.output.glob("*.csv"))])
        if args.table:
            table(records).to_csv(args.table)
        if args.figure:
            draw(records, args.figure)
        return

    X, y, X_test, y_test = load_task(args.images)
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    F, F_test = (unit(net.activations(images, [-2], pooled=True)[0]) for images in (X, X_test))
    mean = F.mean(axis=0)
    on_images, on_features = Task(X, y, X_test, y_test), Task(unit(F - mean), y, unit(F_test - mean), y_test)
    head = clone(net).set_params(max_epochs=0)
    compared = [
        ("logistic regression", LogisticRegression(C=10, max_iter=500), on_features, "auto"),
        ("skal's head", head, on_images, False),
        ("skal's head, pool", head, on_images, True),
    ]
    if args.fine_tune:
        compared = [("skal, pool", net, on_images, True)]
    parts = []
    for classifier, estimator, task, use_pool in compared:
        records = run_experiment(
            estimator,
            {strategy: Query(STRATEGIES[strategy]) for strategy in args.strategy},
            {args.name: task},
            n_queries=args.rounds,
            batch_size=len(np.unique(y)),
            use_pool=use_pool,
            seeds=range(args.seeds),
            folder=args.output / args.name / classifier,
        )
        parts.append(records.drop(columns="indices").assign(classifier=classifier))
    if not args.fine_tune:
        full = {"task": args.name, **with_all_labels(net, on_images, 0), "classifier": "skal"}
        parts.append(pd.DataFrame([full | {"strategy": ALL}]))
    file = f"{args.name}, fine-tuned.csv" if args.fine_tune else f"{args.name}.csv"
    pd.concat(parts).to_csv(args.output / file, index=False)


if __name__ == "__main__":
    main()
