"""Accuracy against the number of frozen layers, at a few labels a class and at many.

    python examples/studies/depth.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

Each draw of the labels is the same at every depth. ``default`` is ``n_frozen=None``. Seconds are processor time. Rows
already in the CSV file are kept, so a run that was stopped continues; ``--figure FILE`` and ``--table FILE`` show what
it holds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, equally, load_task, network
from sklearn.base import clone

from skal import FrozenPrefixClassifier

mpl.use("Agg")
import matplotlib.pyplot as plt


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy in percent at each depth, and the mean seconds of a fit of activations that are cached."""
    keys = ["data", "network", "labels"]
    accuracy = 100 * rows.pivot_table(index=keys, columns="n_frozen", values="accuracy", sort=False)
    return accuracy.join(
        rows.pivot_table(index=keys, columns="n_frozen", values="seconds", sort=False).add_suffix(" s")
    ).round(1)


def draw(rows: pd.DataFrame, file: Path) -> None:
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    fixed = rows[rows["n_frozen"] != "default"].assign(n_frozen=lambda own: own["n_frozen"].astype(int))
    for (data, net, k), own in fixed.groupby(["data", "network", "labels"]):
        mean = own.groupby("n_frozen")["accuracy"].mean()
        line = ax.plot(mean.index, mean, marker="o", label=f"{data}, {net}, {k} a class")
        default = rows[
            (rows["n_frozen"] == "default") & (rows[["data", "network", "labels"]] == (data, net, k)).all(axis=1)
        ]
        ax.axhline(default["accuracy"].mean(), color=line[0].get_color(), linestyle=":")
    ax.set(xlabel="frozen weight layers (dotted: the default)", ylabel="accuracy")
    ax.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 5, 20], help="labels a class")
    parser.add_argument("--n-frozen", type=int, nargs="+", default=[0, 10, 20, 35, 45, 50])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test", type=int, default=500, help="test images")
    parser.add_argument("--name", default="fashion_mnist", help="of the data (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("depth.csv"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    X, y, X_test, y_test = load_task(args.images)
    some = np.random.RandomState(0).permutation(len(y_test))[: args.test]
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    keys = ["data", "network", "labels", "seed", "n_frozen"]
    rows = pd.read_csv(args.output, dtype={"n_frozen": str}) if args.output.exists() else pd.DataFrame(columns=keys)
    done = set(map(tuple, rows[keys].astype(str).to_numpy().tolist()))
    for seed in range(args.seeds):
        for k in args.labels:
            few = equally(y, k, np.random.RandomState(seed))
            for depth in ("default", *map(str, sorted(args.n_frozen, reverse=True))):
                run = (args.name, args.backbone, str(k), str(seed), depth)
                if run in done:
                    continue
                n_frozen = None if depth == "default" else int(depth)
                fitted = clone(net).set_params(n_frozen=n_frozen, random_state=seed)
                fitted.set_params(max_epochs=1, min_steps=1).fit(X[few], y[few])  # what the cache holds is not timed
                start = time.process_time()
                fitted.set_params(max_epochs=net.max_epochs, min_steps=net.min_steps).fit(X[few], y[few])
                row = {**dict(zip(keys, run, strict=True)), "seconds": round(time.process_time() - start, 1)}
                row["accuracy"] = round(fitted.score(X_test[some], y_test[some]), 4)
                header = not args.output.exists()
                pd.DataFrame([row]).to_csv(args.output, mode="a", header=header, index=False)
    rows = pd.read_csv(args.output, dtype={"n_frozen": str})
    if args.table:
        table(rows).to_csv(args.table)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
