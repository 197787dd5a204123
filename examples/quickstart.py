"""Adapt an ImageNet network to a new image task, starting from zero labels.

Compares UHerding, the default strategy, with random labelling, and with logistic regression on the features of the
same network.

    python examples/quickstart.py                       EfficientNet-Lite0 learns Fashion-MNIST (four minutes)
    python examples/quickstart.py --full                three times the rounds, three seeds, and all labels
    python examples/quickstart.py --images DIR          the same on a folder of class folders

DIR has one folder per class, or folders ``train`` and ``test`` with one folder per class each. Another network needs
its own source profile, made by ``examples/studies/make_source_profile.py``:

    python examples/quickstart.py --images DIR --backbone mobilenet_v2 --profile FILE --image-size 129

Files written to --output: records.csv and learning_curve.png after every round, and table.csv, queried.png and
queried.csv at the end. Times are for two idle cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier, Query, SourceProfile
from skal.experiment import Task, label_rounds
from skal.metrics import macro_auc, table_at
from skal.numerics.distances import euclidean_distances
from skal.plots import contact_sheet, plot_learning_curves
from skal.query import STRATEGIES

mpl.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).parent / "data"
DEFAULT = "efficientnet_lite0"
REGRESSION = "logistic regression"


def network(backbone: str = DEFAULT, weights: str | None = "auto", image_size: int | None = None) -> dict[str, Any]:
    """Backbone parameters shared by classifiers and profiles. EfficientNet-Lite0 uses 96 pixels by default here."""
    size = 96 if image_size is None and backbone == DEFAULT else image_size
    return {"backbone": backbone, "weights": weights, "image_size": size}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`network` takes."""
    parser.add_argument("--backbone", default=DEFAULT, help="torchvision name or timm:NAME (default: %(default)s)")
    parser.add_argument(
        "--weights", default="auto", help="state-dict file (default: the network's pre-trained weights)"
    )
    parser.add_argument("--image-size", type=int, help="side of the network's input in pixels")


def add_profile_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that :func:`load_profile` reads."""
    parser.add_argument("--profile", type=Path, help="source profile of the backbone, from make_source_profile.py")


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that :func:`load_task` takes."""
    parser.add_argument("--images", type=Path, help="folder with one folder per class (default: Fashion-MNIST)")


def load_profile(args: argparse.Namespace) -> SourceProfile | None:
    """The requested profile, or that of the default network. None for another network without a profile."""
    if args.profile is None and args.backbone == DEFAULT:
        return SourceProfile.load(DATA / "efficientnet_lite0_imagenet_96px.safetensors")
    return None if args.profile is None else SourceProfile.load(args.profile)


def class_folders(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Paths and labels of the images in a folder with one folder per class."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp"})
    if not paths:
        raise SystemExit(f"{folder} contains no images in class folders")
    return np.array([str(path) for path in paths]), np.array([path.parent.name for path in paths])


def load_task(folder: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pool and test images with their labels."""
    if folder is None:
        with np.load(DATA / "fashion_mnist.npz") as data:
            names = data["class_names"]
            return data["X_pool"], names[data["y_pool"]], data["X_test"], names[data["y_test"]]
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return *class_folders(folder / "train"), *class_folders(folder / "test")
    X, y = class_folders(folder)
    X_pool, X_test, y_pool, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    return X_pool, y_pool, X_test, y_test


def nearest_centers(net: FrozenPrefixClassifier, profile: SourceProfile, X: np.ndarray) -> list[str]:
    """For each image, the name of the source class with the nearest centre at layer A."""
    layer = profile.layers_[0][0]
    (activations,) = net.activations(X, [layer], pooled=profile.pooled, pretrained=True)
    nearest = euclidean_distances(activations, profile.centers_[layer]).argmin(axis=1)
    return [profile.class_names_[k] for k in nearest]


def with_all_labels(net: FrozenPrefixClassifier, task: Task, seed: int) -> dict[str, Any]:
    """Record of the same network trained on all labels of the pool."""
    full = clone(net).set_params(random_state=seed).fit(task.X_pool, task.y_pool)
    proba = full.predict_proba(task.X_test)
    return {
        "strategy": "all labels",
        "seed": seed,
        "n_labels": len(task.y_pool),
        "n_classes": len(full.classes_),
        "accuracy": float(np.mean(full.classes_[proba.argmax(axis=1)] == task.y_test)),
        "macro_auc": macro_auc(task.y_test, proba, full.classes_),
    }


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of both metrics over the seeds, at each number of labels."""
    parts = [
        table_at(records, metric).add_suffix(f" {metric}".replace("_", " ")) for metric in ("accuracy", "macro_auc")
    ]
    return pd.concat(parts, axis=1)


def draw(records: pd.DataFrame, path: Path) -> None:
    """Draw learning curves of accuracy and macro AUC. The network trained on all labels, if any, is the ceiling."""
    curves, full = records[records.strategy != "all labels"], records[records.strategy == "all labels"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, metric in zip(axes, ("accuracy", "macro_auc"), strict=True):
        plot_learning_curves(curves, metric, ceiling=None if full.empty else full[metric].mean(), ax=ax)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    add_profile_option(parser)
    parser.add_argument("--n-frozen", type=int, help="frozen weight layers (default: chosen from the number of labels)")
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=["uherding", "random"])
    parser.add_argument("--lam", type=float, default=0.1, help="ADMA's trade-off (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="number of queries (default: 4, or 12 with --full)")
    parser.add_argument("--batch", type=int, default=10, help="labels per query (default: %(default)s)")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: 1, or 3 with --full)")
    parser.add_argument("--full", action="store_true", help="longer run; also trains the network on all labels")
    parser.add_argument("--output", type=Path, default=Path("quickstart_results"))
    args = parser.parse_args()
    n_rounds = args.rounds or (12 if args.full else 4)
    n_seeds = args.seeds or (3 if args.full else 1)

    profile = load_profile(args)
    if profile is None and "adma" in args.strategy:
        parser.error(f"--strategy adma requires a --profile of {args.backbone}; see make_source_profile.py")
    task = Task(*load_task(args.images))
    X_pool, y_pool = task.X_pool, task.y_pool
    net = FrozenPrefixClassifier(
        **network(args.backbone, args.weights, args.image_size), n_frozen=args.n_frozen, source=profile
    )
    args.output.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(X_pool)} pool and {len(task.X_test)} test images of {len(set(y_pool))} classes; results in {args.output}"
    )

    start = time.perf_counter()
    F, F_test = (net.activations(X, [-2], pooled=True, pretrained=True)[0] for X in (task.X_pool, task.X_test))
    print(f"features of all images: {time.perf_counter() - start:.0f} s")
    regression = LogisticRegression(max_iter=1000), Query(STRATEGIES["uherding"].function)
    records, first_queries = [], {}
    for seed in range(n_seeds):
        runs = {}
        for name in args.strategy:
            options = {"lam": args.lam, "batch": "top"} if name == "adma" else {}  # the paper's batch
            runs[name] = clone(net).set_params(random_state=seed), Query(STRATEGIES[name].function, **options), task
        runs[REGRESSION] = *regression, task._replace(X_pool=F, X_test=F_test)
        curves = [label_rounds(*run, n_queries=n_rounds, batch_size=args.batch, seed=seed) for run in runs.values()]
        for number, of_round in enumerate(zip(*curves, strict=True), 1):
            for name, record in zip(runs, of_round, strict=True):
                indices = record.pop("indices")
                first_queries.setdefault(name, []).extend(indices if seed == 0 else [])
                records.append({"strategy": name, "seed": seed, **record})
            accuracies = ", ".join(f"{one['strategy']} {one['accuracy']:.3f}" for one in records[-len(runs) :])
            labels = records[-1]["n_labels"]
            print(
                f"{time.perf_counter() - start:5.0f} s, seed {seed + 1} of {n_seeds}, round {number} of {n_rounds}, "
                f"{labels} labels: {accuracies}",
                flush=True,
            )
            pd.DataFrame(records).to_csv(args.output / "records.csv", index=False)
            draw(pd.DataFrame(records), args.output / "learning_curve.png")
    if args.full:
        records.append(with_all_labels(net, task, 0))

    frame = pd.DataFrame(records)
    frame.to_csv(args.output / "records.csv", index=False)
    shown = table(frame)
    shown.to_csv(args.output / "table.csv")
    print(shown.to_string())
    draw(frame, args.output / "learning_curve.png")

    if profile is not None:
        name = args.strategy[0]
        chosen = np.array(first_queries[name])
        centers = nearest_centers(net, profile, X_pool[chosen])
        queried = pd.DataFrame({"position": chosen, "label": y_pool[chosen], "nearest_center": centers})
        queried.to_csv(args.output / "queried.csv", index_label="order")
        captions = [f"{row.label}\nlike {row.nearest_center[:18]}" for row in queried.head(40).itertuples()]
        contact_sheet(X_pool[chosen[:40]], captions).savefig(args.output / "queried.png", dpi=120)


if __name__ == "__main__":
    main()
