"""Accuracy against the number of frozen layers, with few and with many labels per class.

    python examples/studies/depth.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

Every depth uses the same draws of labels. ``default`` is ``n_frozen=None``. ``--flips`` adds training of all layers on
randomly flipped and cropped images, without averaging with the probe. ``--labels all`` uses every label. Seconds are
CPU time. Rows already in the CSV file are kept, so a stopped run resumes. ``--figure FILE`` and ``--table FILE`` write
a figure and a table of its rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import add_images_option, add_network_options, equally, load_task, network
from sklearn.base import clone

from skal import FrozenPrefixClassifier

mpl.use("Agg")
import matplotlib.pyplot as plt

FLIPS = "0, flips and crops"


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy in percent at each depth, and mean seconds of a fit with cached activations."""
    keys = {"index": ["network", "n_frozen"], "columns": "labels", "sort": False}
    accuracy = 100 * rows.pivot_table(values="accuracy", **keys)
    shown = accuracy.join(rows.pivot_table(values="seconds", **keys).add_suffix(" s"))
    shown = shown.round(1).rename_axis(["network", "frozen layers"])
    ends = {"default": -np.inf, FLIPS: 1}
    return shown.loc[sorted(shown.index, key=lambda row: (row[0], ends[row[1]] if row[1] in ends else -int(row[1])))]


def flipped_and_cropped(x: torch.Tensor) -> torch.Tensor:
    """Flip each image at random, and shift all images of a batch together by up to an eighth of their side."""
    side = x.shape[-1]
    padded = F.pad(x, [side // 8] * 4, mode="reflect")
    top, left = torch.randint(0, 2 * (side // 8) + 1, (2,)).tolist()
    flip = torch.rand(len(x), 1, 1, 1) < 0.5
    crop = padded[..., top : top + side, left : left + side]
    return torch.where(flip, crop.flip(3), crop)


def draw(rows: pd.DataFrame, file: Path) -> None:
    """Draw one panel per network, with the default as a dotted line."""
    networks = rows["network"].unique()
    figure, axes = plt.subplots(1, len(networks), figsize=(5 * len(networks), 4), layout="constrained", squeeze=False)
    for ax, net in zip(axes[0], networks, strict=True):
        for k, own in rows[rows["network"] == net].groupby("labels", sort=False):
            mean = own.groupby("n_frozen")["accuracy"].mean()
            fixed = mean[[depth for depth in mean.index if depth.isdigit()]].rename(index=int).sort_index()
            line = ax.plot(
                fixed.index, fixed, marker="o", label="all labels" if k == "all" else f"{k} labels per class"
            )
            ax.axhline(mean["default"], color=line[0].get_color(), linestyle=":")
        ax.set(xlabel="frozen weight layers", ylabel="accuracy", title=net)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument(
        "--labels", nargs="*", default=["2", "5", "20"], help="labels per class, or all; no value: run nothing"
    )
    parser.add_argument("--n-frozen", type=int, nargs="+", default=[0, 10, 20, 35, 45, 50])
    parser.add_argument("--flips", action="store_true", help="also train all layers with flips and crops")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test", type=int, default=500, help="number of test images")
    parser.add_argument("--name", default="fashion_mnist", help="name of the data in the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("depth.csv"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    X, y, X_test, y_test = load_task(args.images)
    some = np.random.RandomState(0).permutation(len(y_test))[: args.test]
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    keys = ["data", "network", "labels", "seed", "n_frozen"]
    rows = (
        pd.read_csv(args.output, dtype={"n_frozen": str, "labels": str})
        if args.output.exists()
        else pd.DataFrame(columns=keys)
    )
    done = set(map(tuple, rows[keys].astype(str).to_numpy().tolist()))
    for seed in range(args.seeds):
        for k in args.labels:
            few = np.arange(len(y)) if k == "all" else equally(y, int(k), np.random.RandomState(seed))
            for depth in ("default", *map(str, sorted(args.n_frozen, reverse=True)), *[FLIPS] * args.flips):
                run = (args.name, args.backbone, k, str(seed), depth)
                if run in done:
                    continue
                n_frozen = None if depth == "default" else int(depth.partition(",")[0])
                fitted = clone(net).set_params(n_frozen=n_frozen, random_state=seed)
                if depth == FLIPS:
                    fitted.set_params(augment=flipped_and_cropped, wise_alpha=1)
                fitted.set_params(max_epochs=1, min_steps=1).fit(X[few], y[few])  # fills the cache, not timed
                start = time.process_time()
                fitted.set_params(max_epochs=net.max_epochs, min_steps=net.min_steps).fit(X[few], y[few])
                row = {**dict(zip(keys, run, strict=True)), "seconds": round(time.process_time() - start, 1)}
                row["accuracy"] = round(fitted.score(X_test[some], y_test[some]), 4)
                header = not args.output.exists()
                pd.DataFrame([row]).to_csv(args.output, mode="a", header=header, index=False)
    rows = pd.read_csv(args.output, dtype={"n_frozen": str, "labels": str})
    if args.table:
        table(rows).to_csv(args.table)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
