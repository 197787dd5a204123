"""Compare skal with scikit-learn on the same features, with few labels per class, with and without the pool.

    python examples/studies/baselines.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

DIR has class folders. ``--arrays FILE`` uses X_train, y_train, X_test, y_test of an npz file instead. With ``--lenet
FILE`` the network is a LeNet trained on the digits of another such file. ``--classes 3 5`` uses two of the classes.
Without these options the data are Fashion-MNIST.

The baselines use features of the same network. Logistic regression (C by cross-validation, 10 where a class has one
label) is run on features normalised to length 1, and on the same features centred on the pool mean and normalised
again. LabelSpreading and SelfTrainingClassifier use the latter. "probe" is skal's head alone (``max_epochs=0``), "skal"
the full default, which ``--probes`` leaves out.

Labels are drawn at random, the same number for each class. ``--chosen-by anywhere`` draws as many in total at random
from the whole pool, so that classes have unequal numbers of labels and some have none. ``--chosen-by uherding`` uses
the labels that a logistic regression queries with this strategy. Rows already in the CSV file are kept. ``--tables
DIR`` writes the tables.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    add_images_option,
    add_network_options,
    equally,
    load_digits,
    load_task,
    network,
    trained_lenet,
    unit,
)
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from tqdm import tqdm

from skal import FrozenPrefixClassifier
from skal.active import labelling_rounds
from skal.query import margin_sampling, uherding_sampling

CHOSEN_BY = {"uherding": uherding_sampling, "margin": margin_sampling}
KEYS = ["chosen by", "data", "network", "labels"]
RIVALS = ["regression", "regression, centred", "label spreading", "self-training"]
OWN = ["probe", "probe, pool", "skal", "skal, pool"]


def labelled(F: np.ndarray, y: np.ndarray, k: int, seed: int, chosen_by: str) -> np.ndarray:
    """Positions of k random images per class, or of as many in total: at random, or queried by a strategy."""
    if chosen_by == "random":
        return equally(y, k, np.random.RandomState(seed))
    n = len(np.unique(y))
    if chosen_by == "anywhere":
        rng = np.random.RandomState(seed)
        while len(np.unique(y[few := rng.permutation(len(y))[: k * n]])) < 2:
            continue  # a classifier needs two classes
        return few
    rounds = labelling_rounds(
        LogisticRegression(C=10, max_iter=500), CHOSEN_BY[chosen_by], F, y, n_queries=max(k - 1, 1), batch_size=n,
        n_initial=n if k > 1 else 0, seed=seed,
    )  # fmt: skip
    *_, last = rounds
    return last.learner.labelled


def regression(F: np.ndarray, y: np.ndarray) -> Any:
    k = np.unique(y, return_counts=True)[1].min()
    if k == 1:
        return LogisticRegression(C=10, max_iter=500).fit(F, y)
    return LogisticRegressionCV(Cs=np.logspace(-2, 3, 6), cv=min(k, 5), max_iter=300).fit(F, y)


def rivals(F: np.ndarray, F_test: np.ndarray, y: np.ndarray, few: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Predictions of the scikit-learn baselines, by name."""
    mean = F.mean(axis=0)
    Z, Z_test = unit(F - mean), unit(F_test - mean)
    masked = np.full(len(y), -1)
    names, masked[few] = np.unique(y[few], return_inverse=True)
    spreading = LabelSpreading(kernel="knn", n_neighbors=15, alpha=0.8)
    training = SelfTrainingClassifier(LogisticRegression(C=10, max_iter=500), threshold=0.8)
    return {
        "regression": lambda: regression(F[few], y[few]).predict(F_test),
        "regression, centred": lambda: regression(Z[few], y[few]).predict(Z_test),
        "label spreading": lambda: names[spreading.fit(Z, masked).predict(Z_test)],
        "self-training": lambda: names[training.fit(Z, masked).predict(Z_test)],
    }


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent for each draw, skal's gain over the regressions, and the gain from the pool."""
    wide = rows.pivot_table(index=[*KEYS, "seed"], columns="method", values="accuracy") * 100
    wide = wide[[name for name in (*RIVALS, *OWN) if name in wide]]
    both = wide[["regression", "regression, centred"]]
    best = both.groupby(KEYS).transform("mean").idxmax(axis=1)  # the better of the two in a row of the table
    better = np.where(best == "regression", both["regression"], both["regression, centred"])
    for name in OWN:
        if name in wide:
            wide[f"{name}: over regression"] = wide[name] - (better if "pool" in name else wide["regression"])
    for name in ("probe", "skal"):
        if name in wide:
            wide[f"{name}: pool over none"] = wide[f"{name}, pool"] - wide[name]
    return wide


def table(wide: pd.DataFrame) -> pd.DataFrame:
    """Means over the draws. Differences also have their standard errors."""
    grouped = wide.groupby(KEYS)
    shown = grouped.mean()
    for name in [name for name in wide if ":" in name]:
        error = grouped[name].sem()
        shown[name] = shown[name].map("{:+.1f}".format) + error.map(" ± {:.1f}".format)
    return shown.round(1).replace({"+nan ± nan": ""})


def summary(wide: pd.DataFrame) -> pd.DataFrame:
    """Means over data sets and networks, one row per number of labels, and how many table rows are below 0.

    *Below* counts rows whose mean is negative by more than its standard error.
    """
    names = [name for name in wide if ":" in name]
    grouped = wide.groupby(KEYS)[names]
    mean, below = grouped.mean(), grouped.mean() < -grouped.sem()
    by = ["chosen by", "labels"]
    shown = mean.groupby(by).mean().round(1).astype(object)
    counts, n = below.groupby(by).sum(), mean.notna().groupby(by).sum()
    for name in names:
        shown[name] = shown[name].map("{:+.1f}".format) + [
            f" ({bad} of {all_} below)" for bad, all_ in zip(counts[name], n[name], strict=True)
        ]
    return shown.replace({"+nan (0 of 0 below)": ""})


def data_of(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images and labels, at most 2,000 of each."""
    if args.arrays is None:
        X, y, X_test, y_test = load_task(args.images)
    elif args.lenet:
        X, y, X_test, y_test = load_digits(args.arrays)
    else:
        with np.load(args.arrays) as data:
            X, y, X_test, y_test = (data[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    if args.classes:
        own, own_test = (np.isin(labels.astype(str), args.classes) for labels in (y, y_test))
        X, y, X_test, y_test = X[own], y[own], X_test[own_test], y_test[own_test]
    rng = np.random.RandomState(0)
    some, some_test = (np.sort(rng.permutation(len(labels))[:2000]) for labels in (y, y_test))
    return X[some], y[some], X_test[some_test], y_test[some_test]


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`data_of`, :func:`network_of` and :func:`labelled` need."""
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--arrays", type=Path, help="npz file with X_train, y_train, X_test and y_test")
    parser.add_argument("--lenet", type=Path, help="npz file of digits on which LeNet is pre-trained")
    parser.add_argument("--classes", nargs="+", help="classes of the task (default: all)")
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 2, 5, 10, 20], help="labels per class")
    parser.add_argument("--chosen-by", choices=["random", "anywhere", *CHOSEN_BY], default="random")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", default="fashion_mnist", help="name of the data in the table (default: %(default)s)")


def network_of(args: argparse.Namespace) -> FrozenPrefixClassifier:
    """The network by name, or a LeNet trained on other digits, whose weights are stored beside the output."""
    if not args.lenet:
        return FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    file = args.output.parent / f"lenet_{args.lenet.stem}.safetensors"
    return FrozenPrefixClassifier(trained_lenet(*load_digits(args.lenet)[:2], file), image_size=28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_task_options(parser)
    parser.add_argument("--probes", action="store_true", help="of skal's methods, run only the head")
    parser.add_argument("--output", type=Path, default=Path("baselines.csv"))
    parser.add_argument("--tables", type=Path, help="only write the tables of --output to this folder")
    args = parser.parse_args()

    rows = pd.read_csv(args.output) if args.output.exists() else pd.DataFrame()
    if args.tables:
        wide = differences(rows)
        args.tables.mkdir(parents=True, exist_ok=True)
        table(wide).to_csv(args.tables / "table.csv")
        summary(wide).to_csv(args.tables / "summary.csv")
        return
    keys = ["data", "network", "labels", "chosen by", "seed", "method"]
    done = set(map(tuple, rows[keys].to_numpy().tolist())) if len(rows) else set()
    X, y, X_test, y_test = data_of(args)
    net = network_of(args)
    F, F_test = (unit(net.activations(images, [-2], pooled=True)[0]) for images in (X, X_test))

    def own(few: np.ndarray, pool: Any = None, **settings: Any) -> np.ndarray:
        return clone(net).set_params(**settings).fit(X[few], y[few], X_unlabeled=pool).predict(X_test)

    for seed in tqdm(range(args.seeds)):
        for k in args.labels:
            few = labelled(F, y, k, seed, args.chosen_by)
            methods = rivals(F, F_test, y, few)
            for name, epochs in (("probe", 0), ("skal", 30))[: 1 if args.probes else 2]:
                settings = {"random_state": seed, "max_epochs": epochs}
                methods[name] = lambda few=few, settings=settings: own(few, **settings)
                methods[f"{name}, pool"] = lambda few=few, settings=settings: own(few, X, **settings)
            for method, predict in methods.items():
                run = (args.name, "lenet" if args.lenet else args.backbone, k, args.chosen_by, seed, method)
                if run in done:
                    continue
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # from scikit-learn: convergence, division by zero
                    accuracy = float(np.mean(predict() == y_test))
                row = {**dict(zip(keys, run, strict=True)), "accuracy": round(accuracy, 4)}
                row["seconds"] = round(time.perf_counter() - start, 2)
                header = not args.output.exists()
                pd.DataFrame([row]).to_csv(args.output, mode="a", header=header, index=False)


if __name__ == "__main__":
    main()
