"""How useful are the most distinctive images? Rank a pool before any label, and fit a linear probe to either end.

    python examples/studies/distinctive_batches.py --images DIR --backbone mobilenet_v2 --weights FILE --profile FILE \
        --image-size 129 --output FILE.csv

For several batch sizes, the table has the number of classes among the most distinctive, the least distinctive and
random images, and the test accuracy of a logistic regression on the pre-trained features of those images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _common import DATA, add_network_options, load_task, network

from skal import FrozenPrefixClassifier, SourceProfile, adma_sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with one folder per class (default: Fashion-MNIST)")
    add_network_options(parser)
    parser.add_argument("--profile", type=Path, default=DATA / "efficientnet_lite0_imagenet_96px.safetensors")
    parser.add_argument("--sizes", type=int, nargs="+", default=[75, 150])
    parser.add_argument("--seeds", type=int, default=5, help="number of random batches (default: %(default)s)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    X_pool, y_pool, X_test, y_test = load_task(args.images)
    net = FrozenPrefixClassifier(
        **network(args.backbone, args.weights, args.image_size),
        source=SourceProfile.load(args.profile),
        max_epochs=0,  # the linear probe alone
        random_state=0,
    )
    records = []
    for alpha in ("distance", "predict"):
        ranking = adma_sampling(net, X_pool, len(X_pool), alpha=alpha, batch="top")
        for size in args.sizes:
            batches = {"most distinctive": [ranking[:size]], "least distinctive": [ranking[-size:]]}
            shuffles = [np.random.default_rng(seed).permutation(len(X_pool)) for seed in range(args.seeds)]
            batches["random"] = [shuffle[:size] for shuffle in shuffles]
            for name, choices in batches.items():
                accuracies = [net.fit(X_pool[chosen], y_pool[chosen]).score(X_test, y_test) for chosen in choices]
                n_classes = np.mean([len(set(y_pool[chosen])) for chosen in choices])
                batch = {"alpha": alpha, "labels": size, "batch": name, "classes": n_classes}
                records.append(batch | {"probe_accuracy": np.mean(accuracies)})
    table = pd.DataFrame(records)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(args.output, index=False)


if __name__ == "__main__":
    main()
