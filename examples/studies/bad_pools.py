"""Pools that could mislead: test accuracy of skal with and without each of them.

    python examples/studies/bad_pools.py --images DIR --strangers DIR --backbone NAME --weights FILE --image-size 97

- ``as it is``: the unmodified pool; ``with the labelled``: the pool includes the labelled images, as in a loop that
  passes its whole pool;
- ``unequal``: class frequencies differ by a factor of up to 20, in the test set as well;
- ``unequal, labels too``: in addition, the labels are drawn at random from this pool;
- ``strangers``: 30 % of the pool are images of no class of the task; ``another domain``: all of them are;
- ``twenty``: the pool has twenty images;
- ``hidden classes``: the last third of the classes has no labels yet. Accuracy is measured on the classes with labels.
  The table also has the number of hidden classes that the next batch of UHerding finds.

The classifier is skal's head alone, or the full default with ``--fine-tune``. Rows are appended to --output.
``--table FILE`` writes the table of its rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, class_folders, equally, load_task, network
from sklearn.base import clone
from tqdm import tqdm

from skal import FrozenPrefixClassifier
from skal.query import uherding_sampling

COLUMNS = ["classifier", "pool of", "labels", "seed", "alone", "pool", "found alone", "found pool"]


def unequal(y: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Positions of images such that class frequencies differ by a factor of up to 20."""
    classes = rng.permutation(np.unique(y))
    largest = np.unique(y, return_counts=True)[1].min()
    sizes = np.maximum(largest * 20.0 ** (-np.arange(len(classes)) / (len(classes) - 1)), 12).astype(int)
    parts = [rng.permutation(np.flatnonzero(y == label))[:n] for label, n in zip(classes, sizes, strict=True)]
    return np.sort(np.concatenate(parts))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies in percent, the gain and its standard error, and the number of hidden classes found."""
    rows = rows.assign(gain=100 * (rows["pool"] - rows["alone"]))
    grouped = rows.groupby(["classifier", "pool of", "labels"], sort=False)
    shown = 100 * grouped[["alone", "pool"]].mean()
    shown["gain"], shown["standard error"] = grouped["gain"].mean(), grouped["gain"].sem()
    shown[["found alone", "found with the pool"]] = grouped[["found alone", "found pool"]].mean()
    return shown.round(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--strangers", type=Path, required=True, help="class folders of another kind of images")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5, 10], help="labels per class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bad_pools.csv"))
    parser.add_argument("--fine-tune", action="store_true", help="fine-tune instead of training only the head")
    parser.add_argument("--table", type=Path, help="only write the table of --output to this file")
    args = parser.parse_args()
    if args.table:
        table(pd.read_csv(args.output)).to_csv(args.table)
        return
    X, y, X_test, y_test = load_task(args.images)
    strange = class_folders(args.strangers)[0]
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    if not args.fine_tune:
        net.set_params(max_epochs=0)
    for seed in tqdm(range(args.seeds)):
        rng = np.random.RandomState(seed)
        own, own_test = unequal(y, rng), unequal(y_test, rng)
        others = rng.permutation(len(strange))
        everything, whole = np.arange(len(y)), np.arange(len(y_test))
        known = np.unique(y)[: -(len(np.unique(y)) // 3)]
        for k in args.labels:
            few = equally(y, k, rng)
            of_unequal = own[equally(y[own], k, rng)]
            at_random = own[rng.permutation(len(own))[: k * len(np.unique(y))]]
            of_known = few[np.isin(y[few], known)]
            rest = np.setdiff1d(everything, few)
            cases = {
                "as it is": (few, X[rest], whole),
                "with the labelled": (few, X, whole),
                "unequal": (of_unequal, X[own], own_test),
                "unequal, labels too": (at_random, X[own], own_test),
                "strangers": (few, np.r_[X[rest], strange[others[: len(rest) * 3 // 7]]], whole),
                "another domain": (few, strange[others[:1500]], whole),
                "twenty": (few, X[rng.permutation(rest)[:20]], whole),
                "hidden classes": (of_known, X[rest], whole[np.isin(y_test, known)]),
            }
            for name, (labelled, pool, tested) in cases.items():
                row = {"classifier": "skal" if args.fine_tune else "head", "pool of": name, "labels": k, "seed": seed}
                for how, given in (("alone", None), ("pool", pool)):
                    fitted = clone(net).fit(X[labelled], y[labelled], X_unlabeled=given)
                    row[how] = fitted.score(X_test[tested], y_test[tested])
                    if name == "hidden classes":
                        picks = uherding_sampling(fitted, X[rest], 20, random_state=seed)
                        row[f"found {how}"] = len(set(y[rest][picks]) - set(known))
                columns = pd.DataFrame([row]).reindex(columns=COLUMNS)
                columns.to_csv(args.output, mode="a", header=not args.output.exists(), index=False)


if __name__ == "__main__":
    main()
