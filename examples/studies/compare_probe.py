r"""FrozenPrefixClassifier against logistic regression on the same network's features, at a few labels a class.

    python examples/studies/compare_probe.py --images DIR --backbone mobilenet_v2 --weights FILE \
        --image-size 129 --output CSV

With ``--random`` the labels are so many images of the whole pool, as the first batches of active learning: classes then
have unequal numbers, and some none. With ``--n-frozen 42 26`` the classifier is also fitted with so many frozen layers
instead of the default.

DIR holds class folders, as for quickstart.py; without it, Fashion-MNIST and EfficientNet-Lite0. The regression's C is
chosen by cross-validation (1 where a class has one label). Rows already in the CSV file are kept, so a run that was
stopped continues, and several data sets and networks can share a file. ``--table FILE`` only sums up what it holds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, equally, load_task, network
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

from skal import FrozenPrefixClassifier


def drawn(y: np.ndarray, k: int, seed: int, *, at_random: bool = False) -> np.ndarray:
    """Positions of k images of each class, or of k images of all."""
    rng = np.random.RandomState(seed)
    if at_random:
        return rng.permutation(len(y))[:k]
    return equally(y, k, rng)


def regression(F: np.ndarray, y: np.ndarray) -> LogisticRegression | LogisticRegressionCV:
    """Logistic regression on features, C from 0.001 to 1000 by cross-validation where a class has two labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        k = np.unique(y, return_counts=True)[1].min()
        if k == 1:
            return LogisticRegression(max_iter=300).fit(F, y)
        return LogisticRegressionCV(Cs=np.logspace(-3, 3, 7), cv=min(k, 5), max_iter=300).fit(F, y)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies, and the mean and spread over the seeds of what skal gains, in points."""
    wide = rows.pivot_table(index=["data", "network", "labels", "seed"], columns="method", values="accuracy")
    wide["difference"] = 100 * (wide["skal"] - wide["regression"])
    grouped = wide.groupby(["data", "network", "labels"])
    shown = grouped[["regression", "probe", "skal"]].mean().map("{:.3f}".format)
    shown["difference"] = grouped["difference"].mean().map("{:+.1f}".format)
    shown["its spread"] = grouped["difference"].std().map("{:.1f}".format)
    for method in sorted((name for name in wide if name.endswith(" frozen")), reverse=True):
        shown[f"skal, {method}"] = grouped[method].mean().map("{:.3f}".format)
    names = {"regression": "logistic regression", "probe": "skal's probe"}
    return shown.rename(columns=names).rename_axis(["data", "network", "labels a class"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5, 10, 20], help="labels a class")
    parser.add_argument("--random", action="store_true", help="so many labels in all, of images at random")
    parser.add_argument("--n-frozen", type=int, nargs="+", default=[], help="further numbers of frozen layers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", default="fashion_mnist", help="of the data in the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("compare_probe.csv"))
    parser.add_argument("--table", type=Path, help="file for the table of what --output holds; runs nothing")
    args = parser.parse_args()

    rows = pd.read_csv(args.output).to_dict("records") if args.output.exists() else []
    if args.table:
        table(pd.DataFrame(rows)).to_csv(args.table)
        return
    done = {(row["data"], row["network"], row["labels"], row["seed"], row["method"]) for row in rows}
    X, y, X_test, y_test = load_task(args.images)
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    F, F_test = (net.activations(images, [-2], pooled=True)[0] for images in (X, X_test))

    def score(few: np.ndarray, **settings: Any) -> float:
        return clone(net).set_params(**settings).fit(X[few], y[few]).score(X_test, y_test)

    for seed in range(args.seeds):
        for k in args.labels:
            few = drawn(y, k, seed, at_random=args.random)
            methods = {
                "skal": partial(score, few, random_state=seed),
                "probe": partial(score, few, random_state=seed, max_epochs=0),
                **{f"{n} frozen": partial(score, few, random_state=seed, n_frozen=n) for n in args.n_frozen},
                "regression": lambda few=few: regression(F[few], y[few]).score(F_test, y_test),
            }
            for method, accuracy_of in methods.items():
                run = (args.name, args.backbone, k, seed, method)
                if run in done:
                    continue
                start = time.perf_counter()
                accuracy = accuracy_of()
                row = dict(zip(("data", "network", "labels", "seed", "method"), run, strict=True))
                row |= {"accuracy": round(accuracy, 4), "seconds": round(time.perf_counter() - start, 2)}
                header = not args.output.exists()
                pd.DataFrame([row]).to_csv(args.output, mode="a", header=header, index=False)
                print(row, flush=True)


if __name__ == "__main__":
    main()
