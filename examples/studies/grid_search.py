"""Search a query parameter and the frozen depth with GridSearchCV, for a fixed labelling budget.

    python examples/studies/grid_search.py                      EfficientNet-Lite0 on Fashion-MNIST
    python examples/studies/grid_search.py --images DIR ...     as quickstart.py

Each grid point runs the whole labelling loop in every fold. Folds, depths and trade-offs share the cache, so the first
layers are computed once per image. ``--compare`` also times a search without a cache, on one split, and prints the
ratio. The results are written to grid.csv in --output.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from _common import add_images_option, add_network_options, add_profile_option, load_profile, load_task, network
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from skal import ActiveClassifier, FrozenPrefixClassifier, Query, adma_sampling
from skal.backbones.load import load_backbone
from skal.features.cache import CACHE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    add_profile_option(parser)
    parser.add_argument("--lam", type=float, nargs="+", default=[0, 0.05, 0.2, 1])
    parser.add_argument("--trainable", type=int, nargs="+", default=[0, 1, 2], help="trainable layers below the head")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--batch", type=int, default=10, help="labels per query (default: %(default)s)")
    parser.add_argument("--images-used", type=int, default=1000, help="pool images to use (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--dask", action="store_true", help="run on a local Dask cluster of --jobs workers")
    parser.add_argument("--compare", action="store_true", help="also run without a cache")
    parser.add_argument("--output", type=Path, default=Path("grid_search_results"))
    args = parser.parse_args()

    profile = load_profile(args)
    if profile is None:
        parser.error(f"the search over lambda requires a --profile of {args.backbone}; see make_source_profile.py")
    X, y, *_ = load_task(args.images)
    chosen = np.random.RandomState(0).permutation(len(y))[: args.images_used]
    args.output.mkdir(parents=True, exist_ok=True)
    shared = network(args.backbone, args.weights, args.image_size)
    net = FrozenPrefixClassifier(
        **shared,
        source=profile,
        random_state=0,
        cache=args.output / "cache" if args.jobs > 1 or args.dask else True,  # processes share a folder
    )
    depth = len(load_backbone(**shared).layers.weight_layers)
    grid = {"query__lam": args.lam, "estimator__n_frozen": [depth - k for k in args.trainable]}
    query = Query(adma_sampling, batch="top")  # the paper's batch
    active = ActiveClassifier(net, query, n_queries=args.queries, batch_size=args.batch, random_state=0)

    def search(estimator: ActiveClassifier, cv: int | StratifiedShuffleSplit, refit: bool = True) -> GridSearchCV:
        return GridSearchCV(estimator, grid, cv=cv, n_jobs=args.jobs, refit=refit).fit(X[chosen], y[chosen])

    with ExitStack() as cluster:
        if args.dask:
            from distributed import Client, LocalCluster

            local = cluster.enter_context(LocalCluster(n_workers=args.jobs, threads_per_worker=1))
            cluster.enter_context(Client(local))
            cluster.enter_context(parallel_config(backend="dask"))
        found = search(active, 3)
    results = pd.DataFrame(found.cv_results_)
    columns = ["param_query__lam", "param_estimator__n_frozen", "mean_test_score", "std_test_score", "mean_fit_time"]
    results[columns].round(4).to_csv(args.output / "grid.csv", index=False)
    print(
        results.pivot(index="param_estimator__n_frozen", columns="param_query__lam", values="mean_test_score").round(3)
    )
    print(f"best: {found.best_params_}, {found.best_score_:.3f} with {args.queries * args.batch} labels")

    if args.compare:
        split = StratifiedShuffleSplit(1, random_state=0)
        seconds = []
        for cache in (True, False):
            CACHE.clear()
            start = time.perf_counter()
            search(active.set_params(estimator__cache=cache), split, refit=False)
            seconds.append(time.perf_counter() - start)
        print(
            f"one split: {seconds[0]:.0f} s with the cache, {seconds[1]:.0f} s without, {seconds[1] / seconds[0]:.1f}x"
        )


if __name__ == "__main__":
    main()
