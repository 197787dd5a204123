"""Learning curves with the pool and without it, beside logistic regression with the same strategy, from zero labels.

    python examples/studies/pool_curves.py --images DIR --name scenes15 --backbone NAME --weights FILE --image-size 97

The regression (C = 10) reads the same network's features, scaled to length 1, read from the mean of the pool and scaled
again, in training and in queries: ten lines of scikit-learn. skal's own curves are of its head alone, or with
``--fine-tune`` of the whole default.
Runs resume from --output, which holds a folder of each task; ``--table FILE`` writes the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, load_task, network, unit
from sklearn.linear_model import LogisticRegression

from skal import FrozenPrefixClassifier, Query
from skal.experiment import Task, run_experiment
from skal.metrics import area_under_curve
from skal.query import max_herding_sampling, random_sampling, typiclust_sampling, uherding_sampling

STRATEGIES = {
    "UHerding": uherding_sampling,
    "MaxHerding": max_herding_sampling,
    "TypiClust": typiclust_sampling,
    "random": random_sampling,
}


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent after each of the first batches and the area under the curve, mean over the seeds."""
    keys = ["task", "strategy", "classifier"]
    records = records.assign(batch=records.groupby([*keys, "seed"]).cumcount() + 1, accuracy=100 * records["accuracy"])
    shown = records[records["batch"] <= 5].pivot_table(index=keys, columns="batch", values="accuracy")
    last = records.groupby([*keys, "seed"])["accuracy"].last().groupby(keys).mean()
    area = pd.concat(
        {name: area_under_curve(own)["mean"] for name, own in records.groupby("classifier")}, names=["classifier"]
    ).reorder_levels(keys)
    return shown.assign(last=last, area=area).round(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--rounds", type=int, default=15, help="batches of one label a class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--fine-tune", action="store_true", help="the whole default in place of the head alone")
    parser.add_argument("--name", default="fashion_mnist", help="of the data in the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("pool_curves"))
    parser.add_argument("--table", type=Path, help="write the table of --output to this file and stop")
    args = parser.parse_args()
    if args.table:
        files = sorted(args.output.glob("*.csv"))
        pd.concat([table(pd.read_csv(file)) for file in files]).to_csv(args.table)
        return

    X, y, X_test, y_test = load_task(args.images)
    net = FrozenPrefixClassifier(**network(args.backbone, args.weights, args.image_size))
    F, F_test = (unit(net.activations(images, [-2], pooled=True)[0]) for images in (X, X_test))
    mean = F.mean(axis=0)
    on_images, on_features = Task(X, y, X_test, y_test), Task(unit(F - mean), y, unit(F_test - mean), y_test)
    name = "skal" if args.fine_tune else "skal's head"
    net.set_params(max_epochs=30 if args.fine_tune else 0)
    parts = []
    for classifier, estimator, task, use_pool in [
        ("logistic regression", LogisticRegression(C=10, max_iter=500), on_features, "auto"),
        (name, net, on_images, False),
        (f"{name}, pool", net, on_images, True),
    ]:
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
        print(table(pd.concat(parts)).to_string(), flush=True)
    pd.concat(parts).to_csv(args.output / f"{args.name}{' fine-tuned' if args.fine_tune else ''}.csv", index=False)


if __name__ == "__main__":
    main()
