"""Compare selective joint fine-tuning with its alternatives: the rows of the paper's Table 2, and its Fig. 2.

    python examples/studies/selective_joint.py --target DIR --source DIR --backbone mobilenet_v2 --weights FILE
    python examples/studies/selective_joint.py --digits USPS MNIST   a LeNet from scratch; files of arrays, target first

TARGET and every SOURCE have class folders, as for quickstart.py. For each seed, --labels images of each target class
are drawn as labelled images, and the test images are scored (mean class accuracy). With --classes the target is that
many classes of its folder, drawn for each seed, and its other classes join the source.

The study compares fine-tuning without source; joint fine-tuning with all source images, and with as many random ones as
are borrowed; and selective joint fine-tuning without iterations, with the Gabor bank, with the network's first two
convolutions, and the same with the models of all iterations averaged. All use the same number of steps. Rows already in
--output are kept, so a stopped run resumes. Files written to --output: records.csv, table.csv, and neighbors.png
(labelled images and their 1st, 10th, 20th, 30th and 40th neighbours).
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from _common import add_network_options, class_folders, lenet, load_digits, load_task, network, pixels
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score

from skal import FrozenPrefixClassifier, SelectiveJoint
from skal.plots import contact_sheet
from skal.selective import FilterBankDescriptor

mpl.use("Agg")

ROWS = (
    "fine-tuning",
    "all source",
    "random source",
    "selective, no iterations",
    "Gabor",
    "selective",
    "selective + fusion",
)
SHOWN = (0, 9, 19, 29, 39)  # neighbours shown on the sheet


def load(args: argparse.Namespace) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, np.ndarray]]:
    """The target's training and test images with labels, and the source's images with labels, as arrays."""
    if args.digits is not None:
        (X_source, y_source, *_), target = (load_digits(file) for file in reversed(args.digits))
        return target, (X_source[:3000], y_source[:3000].astype(object))
    X, y, X_test, y_test = load_task(args.target)
    paths, labels = zip(*(class_folders(folder) for folder in args.source), strict=True) if args.source else ((), ())
    named = [f"{i} {label}" for i, of_set in enumerate(labels) for label in of_set]
    X_source = (
        pixels(np.concatenate(paths), args.image_size)
        if paths
        else np.empty((0, args.image_size, args.image_size, 3), np.uint8)
    )
    target = pixels(X, args.image_size), y, pixels(X_test, args.image_size), y_test
    return target, (X_source, np.array(named, dtype=object))


def split(data: Any, args: argparse.Namespace, seed: int) -> tuple[np.ndarray, ...]:
    """Labelled images, test images and source of one repeat."""
    (X, y, X_test, y_test), (X_source, y_source) = data
    rng = np.random.default_rng(seed)
    if args.classes:
        chosen = rng.permutation(np.unique(y))[: args.classes]
        rest = ~np.isin(y, chosen)
        X_source, y_source = np.concatenate([X_source, X[rest]]), np.concatenate([y_source, y[rest]])
        X, y = X[~rest], y[~rest]
        tested = np.isin(y_test, chosen)
        X_test, y_test = X_test[tested], y_test[tested]
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == label))[: args.labels] for label in np.unique(y)])
    return X[rows], y[rows], X_test, y_test, X_source, y_source.astype(str)


def rows_of(
    net: FrozenPrefixClassifier, seed: int, data: tuple[np.ndarray, ...]
) -> dict[str, Callable[[int], FrozenPrefixClassifier]]:
    """Functions that train each row of the table, given the number of images that selective fine-tuning borrows."""
    X, y, _, _, X_source, y_source = data
    n_source = len(X_source)
    gabor = FilterBankDescriptor("gabor", image_size=X.shape[2])

    def joint(rows: Any = slice(None), **changed: Any) -> FrozenPrefixClassifier:
        seeded = clone(net).set_params(random_state=seed, **changed)
        return seeded.fit(X, y, X_source=X_source[rows], y_source=y_source[rows])

    def at_random(n_borrowed: int) -> FrozenPrefixClassifier:
        rows = np.random.RandomState(seed).permutation(n_source)[:n_borrowed]
        return joint(rows, recipe__n_neighbors=n_borrowed, recipe__n_iterations=1)

    return {
        "selective": lambda _: joint(),
        "selective, no iterations": lambda _: joint(recipe__n_iterations=1),
        "Gabor": lambda _: joint(recipe__descriptor=gabor),
        "random source": at_random,
        "all source": lambda _: joint(recipe__n_neighbors=n_source, recipe__n_iterations=1),
        "fine-tuning": lambda _: clone(net).set_params(random_state=seed).fit(X, y),
    }


def with_models(fitted: FrozenPrefixClassifier, fused: list[Any]) -> FrozenPrefixClassifier:
    """A copy of the classifier that averages the given models with its last one."""
    other = copy.copy(fitted)
    other.fused_ = fused
    return other


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Mean class accuracy with its standard deviation, gain over plain fine-tuning, and images borrowed at the end."""
    wide = records.pivot_table(index="seed", columns="method", values="accuracy")[list(ROWS)]
    gain = 100 * wide.sub(wide["fine-tuning"], axis=0)
    of_method = records.groupby("method")
    return pd.DataFrame(
        {
            "mean class accuracy": [f"{wide[m].mean():.3f} ± {wide[m].std():.3f}" for m in wide],
            "gain": [f"{gain[m].mean():+.1f} ± {gain[m].std():.1f}" for m in wide],
            "borrowed": of_method["borrowed"].mean().reindex(wide.columns).round().astype(int).to_numpy(),
            "seconds": of_method["seconds"].median().reindex(wide.columns).round().astype(int).to_numpy(),
        },
        index=wide.columns,
    )


def picture(image: np.ndarray) -> np.ndarray:
    """The pixels of an image. For a pre-processed digit, its only channel."""
    return image if image.dtype == np.uint8 else image[0]


def sheet(fitted: FrozenPrefixClassifier, X: np.ndarray, X_source: np.ndarray, path: Path) -> None:
    """Save a sheet of eight labelled images, each with some of its neighbours, nearest first."""
    images, captions = [], []
    for i in np.linspace(0, len(X) - 1, 8).astype(int):
        shown = [k for k in SHOWN if k < fitted.neighbors_.shape[1]]
        images += [picture(image) for image in (X[i], *(X_source[fitted.neighbors_[i, k]] for k in shown))]
        captions += ["target", *(f"neighbour {k + 1}" for k in shown)]
    contact_sheet(images, captions, n_columns=len(images) // 8).savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="folder with one folder per class")
    parser.add_argument(
        "--digits", type=Path, nargs=2, metavar=("TARGET", "SOURCE"), help="npz files of arrays, not folders"
    )
    parser.add_argument("--source", type=Path, nargs="*", default=[])
    add_network_options(parser)
    parser.add_argument("--n-frozen", type=int, default=0, help="frozen weight layers (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=5, help="labels per class (default: %(default)s)")
    parser.add_argument("--classes", type=int, help="number of target classes (default: all)")
    parser.add_argument("--neighbors", type=int, default=20, help="K_0 (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("selective_results"))
    args = parser.parse_args()
    args.image_size = args.image_size or 128

    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "records.csv"
    records = pd.read_csv(file).to_dict("records") if file.exists() else []
    everything = load(args)
    recipe = SelectiveJoint(args.neighbors)
    if args.digits is not None:
        scratch = {"wise_alpha": 1.0, "lr": 0.03, "max_epochs": 60, "min_steps": 300}  # no probe to average with
        net = FrozenPrefixClassifier(lenet, recipe=recipe, n_frozen=0, image_size=28, **scratch)
    else:
        net = FrozenPrefixClassifier(
            **network(args.backbone, args.weights, args.image_size), recipe=recipe, n_frozen=args.n_frozen
        )
    for seed in range(args.seeds):
        data = split(everything, args, seed)
        X, _, X_test, y_test, X_source, _ = data
        for method, train in rows_of(net, seed, data).items():
            held = {row["method"]: row["borrowed"] for row in records if row["seed"] == seed}
            if method in held:
                continue
            start = time.perf_counter()
            fitted = train(held.get("selective", 0))
            row = {"seed": seed, "seconds": round(time.perf_counter() - start, 1)}
            row["borrowed"] = len(fitted.borrowed_[-1]) if hasattr(fitted, "borrowed_") else 0
            if method == "selective":
                sheet(fitted, X, X_source, args.output / "neighbors.png")
            for fusion in (True, False) if method == "selective" else (False,):
                name = f"{method} + fusion" if fusion else method
                models = fitted.fused_ if fusion else []
                accuracy = balanced_accuracy_score(y_test, with_models(fitted, models).predict(X_test))
                records.append({"method": name, "accuracy": round(accuracy, 4), **row})
                print(records[-1], flush=True)
            pd.DataFrame(records).to_csv(file, index=False)
    shown = table(pd.DataFrame(records))
    shown.to_csv(args.output / "table.csv")
    print(shown.to_string())


if __name__ == "__main__":
    main()
