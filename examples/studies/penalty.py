"""How strong the penalty of the head should be: skal's rule, cross-validation, fixed values, and the best in hindsight.

    python examples/studies/penalty.py --images DIR --name scenes15 --output penalty.csv
    python examples/studies/penalty.py --output penalty.csv --table table.csv

The data are given as for baselines.py. Each penalty is that of a logistic regression with balanced classes on the
features of labelled images, centred and divided by the root of their mean squared norm, as skal's head has it.
Cross-validation chooses the C with the highest likelihood of held-out labels; *with a prior*, the likelihood is
multiplied by a log-normal around the rule (a factor of e is one standard deviation). With one label per class there is
nothing to hold out, and both are the rule. Rows that are in --output are not computed again.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from _common import unit
from baselines import add_task_options, data_of, labelled, network_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight
from tqdm import tqdm

from skal.training.head import HeadPenalty, default_C

C = np.array([0.3, 1.0, 3.0, 10.0, 30.0, 100.0])
KEYS = ["chosen by", "data", "labels", "seed"]


def log_proba(F: np.ndarray, y: np.ndarray, F_test: np.ndarray, C: float) -> pd.DataFrame:
    """Log probabilities of the classes, of a regression on the subspace that the labelled images span."""
    penalty = HeadPenalty.of(F)
    Z, Z_test = ((features - penalty.center) / penalty.scale for features in (F, F_test))
    basis, _ = np.linalg.qr(Z.T)
    model = LogisticRegression(C=C, max_iter=500, class_weight="balanced").fit(Z @ basis, y)
    return pd.DataFrame(model.predict_log_proba(Z_test @ basis), columns=model.classes_)


def held_out(F: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray | None:
    """Log likelihood of held-out labels for each C, summed over the images; None if a class has one image."""
    n_folds = min(5, np.unique(y, return_counts=True)[1].min())
    if n_folds < 2:
        return None
    total = np.zeros(len(C))
    for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(F, y):
        for i, strength in enumerate(C):
            proba = log_proba(F[train], y[train], F[test], strength)
            total[i] += proba.to_numpy()[np.arange(len(test)), proba.columns.get_indexer(y[test])].sum()
    return total


def compare(F: np.ndarray, y: np.ndarray, F_test: np.ndarray, y_test: np.ndarray, seed: int) -> dict[str, float]:
    """Accuracy with each way of choosing C."""

    def accuracy(strength: float) -> float:
        return float((log_proba(F, y, F_test, strength).idxmax(axis=1).to_numpy() == y_test).mean())

    fixed = dict(zip(C, map(accuracy, C), strict=True))
    rule = default_C(compute_sample_weight("balanced", y))
    found = {"rule": accuracy(rule)}
    likelihood = held_out(F, y, seed)
    if likelihood is None:
        found |= {"cross-validated": found["rule"], "with a prior": found["rule"]}
    else:
        prior = -(np.log(C / rule) ** 2) / 2
        found["cross-validated"] = fixed[C[likelihood.argmax()]]
        found["with a prior"] = fixed[C[(likelihood + prior).argmax()]]
    return found | {f"C = {value:g}": fixed[value] for value in C} | {"best": max(fixed.values())}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent, means over tasks and draws."""
    wide = rows.pivot_table(index=KEYS, columns="method", values="accuracy", sort=False)
    of_task = wide.groupby(["chosen by", "labels", "data"], sort=False).mean()
    return (100 * of_task.groupby(["chosen by", "labels"]).mean()).round(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_task_options(parser)
    parser.add_argument("--output", type=Path, default=Path("penalty.csv"))
    parser.add_argument("--table", type=Path, help="only write the table of --output to this file")
    args = parser.parse_args()

    rows = pd.read_csv(args.output) if args.output.exists() else pd.DataFrame(columns=[*KEYS, "method", "accuracy"])
    if args.table:
        table(rows).to_csv(args.table)
        return
    done = set(map(tuple, rows[KEYS].to_numpy().tolist()))
    X, y, X_test, y_test = data_of(args)
    net = network_of(args)
    F, F_test = (unit(net.activations(images, [-2], pooled=True)[0]) for images in (X, X_test))
    for seed in tqdm(range(args.seeds)):
        for k in args.labels:
            run = (args.chosen_by, args.name, k, seed)
            if run in done:
                continue
            few = labelled(F, y, k, seed, args.chosen_by)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # from scikit-learn: convergence
                found = compare(F[few], y[few], F_test, y_test, seed)
            new = [{**dict(zip(KEYS, run, strict=True)), "method": name, "accuracy": a} for name, a in found.items()]
            pd.DataFrame(new).round(4).to_csv(args.output, mode="a", header=not args.output.exists(), index=False)


if __name__ == "__main__":
    main()
