"""Compare all query strategies on one or more tasks, training on the pool too.

    python examples/studies/compare_strategies.py                          EfficientNet-Lite0 on Fashion-MNIST
    python examples/studies/compare_strategies.py --images DIR ...         class folders; networks as in quickstart.py
    python examples/studies/compare_strategies.py --npz FILE ...           arrays X_train, y_train, X_test, y_test
    python examples/studies/compare_strategies.py --digits MNIST USPS      a LeNet that was trained on the first
    python examples/studies/compare_strategies.py --tables                 the tables and figures alone

The baseline ("LR, ...") is what a user would do without skal: logistic regression (C = 10) on the features of the same
network, normalised to length 1, centred on the pool mean and normalised again, with the strategies that need nothing
else. ``--probe`` trains skal's head alone. Every curve starts from zero labels. A stopped run resumes, and tasks can be
added. All tasks are in --output, as NAME.csv and in the tables areas.csv (area under the accuracy curve, mean ± std),
ranks.csv, needed.csv (labels for 90, 95 and 99 % of the accuracy with all labels), seconds.csv (per query) and in
curves.png.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from _common import (
    add_images_option,
    add_network_options,
    add_profile_option,
    load_digits,
    load_profile,
    load_task,
    network,
    pixels,
    trained_lenet,
    unit,
    with_all_labels,
)
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier, Query, SourceProfile
from skal.experiment import Task, run_experiment
from skal.metrics import area_under_curve, labels_to_reach, rank_table
from skal.query import STRATEGIES

mpl.use("Agg")
import matplotlib.pyplot as plt

SHARES = (0.90, 0.95, 0.99)
HERDED = ("margin", "adma", "emoc")
RIVALS = ("random", "margin", "coreset", "typiclust", "max_herding", "uherding")
DISTINCT = 7  # curves drawn in colour


def views(images: np.ndarray) -> np.ndarray:
    """AIFT's patches, the same in every round: the four corners of each image, half of them flipped."""
    images = np.asarray(images)
    axes = (1, 2) if images.dtype == np.uint8 else (2, 3)
    of_corner = []
    for k in range(4):
        cropped = images
        for axis, is_end in zip(axes, (k // 2, k % 2), strict=True):
            side = images.shape[axis] * 7 // 8
            start = images.shape[axis] - side if is_end else 0
            cropped = cropped.take(range(start, start + side), axis=axis)
        if images.dtype != np.uint8:  # digits are not mirrored, and the network does not resize them
            padding = [(0, 0), (0, 0), *((images.shape[axis] - cropped.shape[axis], 0) for axis in axes)]
            of_corner.append(np.pad(cropped, padding, constant_values=-1.0))
        else:
            of_corner.append(np.flip(cropped, axes[1]) if k % 2 else cropped)
    return np.ascontiguousarray(np.stack(of_corner, axis=1))


#: Options that keep the comparison short. Sets that share a class have their own experiment.
OPTIONS: dict[str, dict[str, Any]] = {
    "adma": {"lam": 0.1, "batch": "top"},
    "emoc": {"n_reference": 20, "batch": "top"},
    "aift": {"patches": views},
}
#: UHerding with the kernel width of the paper.
LEAST_DISTANCE = "uherding, least distance"


def strategies(has_profile: bool) -> dict[str, Query]:
    """All compared strategies, by name."""
    compared = {
        name: Query(strategy.function, **OPTIONS.get(name, {}))
        for name, strategy in STRATEGIES.items()
        if name not in ("set", "emoc_set") and (has_profile or not strategy.needs_source)
    }
    for name in HERDED:
        if name in compared:
            compared[f"{name}, herding"] = clone(compared[name]).set_params(batch="herding")
    compared[LEAST_DISTANCE] = Query(STRATEGIES["uherding"].function, duplicates=0)
    return compared


def some(X: np.ndarray, y: np.ndarray, n: int | None) -> tuple[np.ndarray, np.ndarray]:
    """At most n images, stratified."""
    if n is None or n >= len(y):
        return X, y
    rows, _ = train_test_split(np.arange(len(y)), train_size=n, stratify=y, random_state=0)
    return X[rows], y[rows]


def load(args: argparse.Namespace) -> tuple[Task, FrozenPrefixClassifier]:
    """The task, and the network to train on it."""
    if args.digits is not None:
        X_source, y_source, *_ = load_digits(args.digits[0])
        X, y, X_test, y_test = load_digits(args.digits[1])
        lenet = trained_lenet(X_source, y_source, args.output / "lenet.safetensors")
        profile = SourceProfile(lenet, image_size=28).fit(X_source[:2000], y_source[:2000])
        net = FrozenPrefixClassifier(lenet, image_size=28, n_frozen=args.n_frozen, source=profile)
    else:
        profile = load_profile(args)
        parameters = network(args.backbone, args.weights, args.image_size)
        net = FrozenPrefixClassifier(**parameters, n_frozen=args.n_frozen, source=profile)
        if args.npz is not None:
            with np.load(args.npz) as data:
                X, y, X_test, y_test = (data[name] for name in ("X_train", "y_train", "X_test", "y_test"))
        else:
            X, y, X_test, y_test = load_task(args.images)
            if args.images is not None:
                X, X_test = pixels(X, args.image_size or 224), pixels(X_test, args.image_size or 224)
    return Task(*some(X, y, args.pool), *some(X_test, y_test, args.test)), net


def compare(args: argparse.Namespace) -> pd.DataFrame:
    """Records of all strategies and baselines on one task, and of training on all labels."""
    task, net = load(args)
    if args.probe:
        net.set_params(max_epochs=0)
    compared = strategies(net.source is not None)
    rivals = {f"LR, {name}": compared[name] for name in (*RIVALS, LEAST_DISTANCE)}
    chosen = args.strategy or [*compared, *rivals]
    if unknown := set(chosen) - {*compared, *rivals}:
        raise SystemExit(f"--strategy {sorted(unknown)} not found; choose from {[*compared, *rivals]}")
    compared, rivals = ({name: q for name, q in queries.items() if name in chosen} for queries in (compared, rivals))
    loop = {"n_queries": args.rounds, "batch_size": args.batch, "seeds": range(args.seeds), "verbose": 10}
    run = partial(run_experiment, folder=args.output / "runs", **loop)
    records = []
    if rivals:  # run first: features read from the cache filled by other runs differ in their last digits
        F, F_test = (unit(net.activations(X, [-2], pooled=True)[0]) for X in (task.X_pool, task.X_test))
        mean = F.mean(axis=0)
        features = task._replace(X_pool=unit(F - mean), X_test=unit(F_test - mean))
        records.append(run(LogisticRegression(C=10, max_iter=1000), rivals, {args.name: features}))
    if compared:
        records.append(run(net, compared, {args.name: task}))
    full = [with_all_labels(net, task, seed) for seed in range(args.ceilings)]
    return pd.concat([*records, pd.DataFrame(full).assign(task=args.name)]).drop(columns="indices")


def tables(records: pd.DataFrame, folder: Path) -> None:
    """Write the tables and figures of all tasks."""
    is_full = records["strategy"] == "all labels"
    curves, full = records[~is_full], records[is_full].groupby("task", sort=False)["accuracy"].mean()
    full = full.reindex(curves["task"].unique())  # --ceilings 0 leaves them out
    areas = area_under_curve(curves)
    text = areas.apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}", axis=1).unstack("task")[list(full.index)]
    ranks = rank_table(curves)
    text.loc[ranks.index].rename_axis(None, axis=1).to_csv(folder / "areas.csv")
    ranks.round(1).to_csv(folder / "ranks.csv")
    needed = {}
    ceilings = full.dropna()
    for share in SHARES if len(ceilings) else ():
        targeted = curves[curves["task"].isin(ceilings.index)]
        reached = labels_to_reach(targeted, (share * ceilings).to_dict()).unstack("task")
        for name in ceilings.index:
            most = curves.loc[curves["task"] == name, "n_labels"].max()
            of_task = reached[name].map(lambda n, most=most: f"{n:.0f}" if np.isfinite(n) else f"> {most}")
            needed[f"{name} {share:.0%}"] = of_task
    if needed:
        pd.DataFrame(needed).loc[ranks.index, sorted(needed)].to_csv(folder / "needed.csv")
    seconds = curves.groupby(["strategy", "task"])["query_seconds"].median().unstack("task")[list(full.index)]
    seconds.loc[ranks.index].round(2).rename_axis(None, axis=1).to_csv(folder / "seconds.csv")
    draw(curves, full, ranks.index, folder / "curves.png")
    print(text.loc[ranks.index].to_string(), ranks.round(1).to_string(), sep="\n\n")


def draw(curves: pd.DataFrame, full: pd.Series, order: pd.Index, path: Path) -> None:
    """Mean accuracy against labels, one panel per task. The best strategies and random are coloured, the rest grey."""
    figure, axes = plt.subplots(1, len(full), figsize=(4.6 * len(full), 4.4), layout="constrained", squeeze=False)
    bright = [*[name for name in order if name != "random"][: DISTINCT - 1], "random"]
    for ax, (task, ceiling) in zip(axes[0], full.items(), strict=True):
        mean = curves[curves["task"] == task].groupby(["strategy", "n_labels"])["accuracy"].mean()
        for name in reversed(order):
            if name in mean.index:
                style = {"label": name, "marker": "o", "markersize": 3} if name in bright else {"color": "0.8"}
                ax.plot(mean[name].index, mean[name], zorder=2 if name in bright else 1, **style)
        ax.axhline(ceiling, color="0.4", linestyle="--", linewidth=1)
        ax.set(title=task, xlabel="labels", ylabel="accuracy")
        ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="fashion_mnist", help="name of the task (default: %(default)s)")
    add_images_option(parser)
    parser.add_argument("--npz", type=Path, help="npz file of arrays, instead of a folder")
    parser.add_argument("--digits", type=Path, nargs=2, metavar=("SOURCE", "TARGET"), help="npz files of arrays")
    add_network_options(parser)
    add_profile_option(parser)
    parser.add_argument("--n-frozen", type=int, help="frozen weight layers (default: chosen from the number of labels)")
    parser.add_argument("--probe", action="store_true", help="train only the head, without fine-tuning")
    parser.add_argument("--pool", type=int, help="number of pool images to use (default: all)")
    parser.add_argument("--test", type=int, help="number of test images to use (default: all)")
    parser.add_argument("--strategy", nargs="+", metavar="NAME", help='run only these, such as margin or "LR, random"')
    parser.add_argument("--rounds", type=int, default=10, help="number of queries (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10, help="labels per query (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    parser.add_argument("--ceilings", type=int, default=2, help="number of fits on all labels (default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--output", type=Path, default=Path("comparison_results"))
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    if not args.tables:
        compare(args).round(4).to_csv(args.output / f"{args.name}.csv", index=False)
    kept = {"areas", "ranks", "needed", "seconds"}
    files = [path for path in sorted(args.output.glob("*.csv")) if path.stem not in kept]
    tables(pd.concat([pd.read_csv(path) for path in files]), args.output)


if __name__ == "__main__":
    main()
