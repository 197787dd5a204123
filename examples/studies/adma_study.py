"""Repeat the study design of the ADMA paper on any folder of images: Figures 3 to 7 and Tables 1 and 2.

    python examples/studies/adma_study.py                   EfficientNet-Lite0 on Fashion-MNIST
    python examples/studies/adma_study.py --images DIR ...  as quickstart.py; --two-patterns needs a profile of both

The study compares ADMA with weights by distance and by prediction (Fig. 7), with one pattern and two (Fig. 5), random
and margin sampling, and the same network trained on all labels. A stopped run resumes: each curve is stored in
--output/runs. Files written to --output: records.csv, areas.csv, accuracy.csv and macro_auc.csv (mean ± std at each
number of labels), curves.png (Fig. 3 and 4), queried.png (t-SNE of layer B, Fig. 6) and sheet.png (queried and other
images, each above the class of its nearest centre, Fig. 6).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from _common import (
    add_images_option,
    add_network_options,
    add_profile_option,
    load_profile,
    load_task,
    nearest_centers,
    network,
    with_all_labels,
)
from sklearn.base import clone

from skal import FrozenPrefixClassifier, Query, adma_sampling, random_sampling
from skal.experiment import Task, run_experiment
from skal.metrics import area_under_curve, table_at
from skal.plots import contact_sheet, plot_learning_curves, plot_queried
from skal.query import margin_sampling

mpl.use("Agg")
import matplotlib.pyplot as plt


def strategies(lam: float, two_patterns: bool) -> dict[str, Query]:
    """The strategies that the paper compares, by the names in its legends."""
    adma = Query(adma_sampling, lam=lam, batch="top")  # the paper's batch
    compared = {
        "ADMA-distance": clone(adma),
        "ADMA-predict": clone(adma).set_params(alpha="predict"),
        "random": Query(random_sampling),
        "margin": Query(margin_sampling),
    }
    if two_patterns:
        compared["ADMA-distance"].set_params(layers=[(-4, -2)])
        compared["ADMA-predict"].set_params(layers=[(-4, -2)])
        compared["ADMA-2 mean"] = clone(adma)
        compared["ADMA-2 variance"] = clone(adma).set_params(aggregate="variance")
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    add_profile_option(parser)
    parser.add_argument("--n-frozen", type=int, help="frozen weight layers (default: chosen from the number of labels)")
    parser.add_argument("--two-patterns", action="store_true", help="also run ADMA-2")
    parser.add_argument("--lam", type=float, default=0.1, help="ADMA's trade-off (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="number of queries (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10, help="labels per query (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="curves computed in parallel (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("adma_study_results"))
    args = parser.parse_args()

    profile = load_profile(args)
    if profile is None:
        parser.error(f"the study requires a --profile of {args.backbone}; see make_source_profile.py")
    task = Task(*load_task(args.images))
    net = FrozenPrefixClassifier(
        **network(args.backbone, args.weights, args.image_size),
        n_frozen=args.n_frozen,
        source=profile,
        cache=True if args.jobs == 1 else args.output / "cache",
    )
    compared = strategies(args.lam, args.two_patterns)
    records = run_experiment(
        net,
        compared,
        {"study": task},
        n_queries=args.rounds,
        batch_size=args.batch,
        seeds=range(args.seeds),
        folder=args.output / "runs",
        n_jobs=args.jobs,
        verbose=10,
    )
    full = pd.DataFrame([with_all_labels(net, task, 0)])
    with_ceiling = pd.concat([records, full])

    records.drop(columns="indices").round(4).to_csv(args.output / "records.csv", index=False)
    areas = area_under_curve(records).droplevel("task").round(4)
    areas.to_csv(args.output / "areas.csv")
    print(areas.to_string())
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for ax, metric in zip(axes, ("accuracy", "macro_auc"), strict=True):
        table_at(with_ceiling, metric).to_csv(args.output / f"{metric}.csv")
        plot_learning_curves(records, metric, ceiling=full[metric].mean(), ax=ax)
    figure.savefig(args.output / "curves.png", dpi=120)
    print(table_at(with_ceiling).to_string())

    mine = records[(records.strategy == "ADMA-distance") & (records.seed == 0)]
    queried = np.concatenate(mine["indices"].tolist()).astype(int)
    figure, ax = plt.subplots(figsize=(6, 6), layout="constrained")
    (layer_B,) = net.activations(task.X_pool, [-2], pooled=True)
    plot_queried(layer_B, task.y_pool, queried, ax=ax)
    figure.savefig(args.output / "queried.png", dpi=120)
    rest = np.setdiff1d(np.arange(len(task.y_pool)), queried)
    shown = np.concatenate([queried[:20], np.random.RandomState(0).permutation(rest)[:20]])
    centers = nearest_centers(net, profile, np.asarray(task.X_pool)[shown])
    captions = [f"{'queried' if i < 20 else 'not queried'}\nlike {name[:18]}" for i, name in enumerate(centers)]
    contact_sheet(np.asarray(task.X_pool)[shown], captions).savefig(args.output / "sheet.png", dpi=120)


if __name__ == "__main__":
    main()
