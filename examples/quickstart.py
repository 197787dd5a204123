"""Adapt an ImageNet network to a new image task, starting from zero labels: UHerding against random labelling.

    python examples/quickstart.py                       EfficientNet-Lite0 learns Fashion-MNIST (about 6 minutes)
    python examples/quickstart.py --images DIR          the same on a folder of class folders

DIR holds one folder a class, or two folders ``train`` and ``test`` that do. Another network needs its own source
profile, which ``examples/make_source_profile.py`` makes:

    python examples/quickstart.py --images DIR --backbone mobilenet_v2 --profile FILE --image-size 129

Written to --output: records.csv and table.csv, learning_curve.png, queried.png and queried.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from tqdm import tqdm

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


def network(backbone: str = DEFAULT, weights: str | None = "auto", image_size: int | None = None) -> dict[str, Any]:
    """The parameters of a backbone that classifiers and profiles share; EfficientNet-Lite0 takes 96 pixels here."""
    size = 96 if image_size is None and backbone == DEFAULT else image_size
    return {"backbone": backbone, "weights": weights, "image_size": size}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`network` takes."""
    parser.add_argument("--backbone", default=DEFAULT, help="name, as in 'timm:resnet18' (default: %(default)s)")
    parser.add_argument(
        "--weights", default="auto", help="state-dict file (default: the network's pre-trained weights)"
    )
    parser.add_argument("--image-size", type=int, help="side of the network's input in pixels")


def add_profile_option(parser: argparse.ArgumentParser) -> None:
    """The option that :func:`load_profile` reads."""
    parser.add_argument("--profile", type=Path, help="source profile of the backbone, made by make_source_profile.py")


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """The option that :func:`load_task` takes."""
    parser.add_argument("--images", type=Path, help="folder of class folders (default: Fashion-MNIST)")


def load_profile(args: argparse.Namespace) -> SourceProfile | None:
    """The profile asked for, or the default network's own; None where another network has none."""
    if args.profile is None and args.backbone == DEFAULT:
        return SourceProfile.load(DATA / "efficientnet_lite0_imagenet_96px.safetensors")
    return None if args.profile is None else SourceProfile.load(args.profile)


def class_folders(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Paths and labels of a folder with one folder a class."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp"})
    if not paths:
        raise SystemExit(f"{folder} holds no images in class folders")
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
    """Name of the source class whose centre is nearest to each image at layer A."""
    layer = profile.layers_[0][0]
    (activations,) = net.activations(X, [layer], pooled=profile.pooled, pretrained=True)
    nearest = euclidean_distances(activations, profile.centers_[layer]).argmin(axis=1)
    return [profile.class_names_[k] for k in nearest]


def with_all_labels(net: FrozenPrefixClassifier, task: Task, seed: int) -> dict[str, Any]:
    """Record of the same network trained on every label of the pool."""
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
    """Mean and standard deviation over the seeds at each number of labels, of both metrics."""
    parts = [
        table_at(records, metric).add_suffix(f" {metric}".replace("_", " ")) for metric in ("accuracy", "macro_auc")
    ]
    return pd.concat(parts, axis=1)


def draw(records: pd.DataFrame, path: Path) -> None:
    """Learning curves of accuracy and macro AUC, with the network trained on all labels as the ceiling."""
    curves, full = records[records.strategy != "all labels"], records[records.strategy == "all labels"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, metric in zip(axes, ("accuracy", "macro_auc"), strict=True):
        plot_learning_curves(curves, metric, ceiling=full[metric].mean(), ax=ax)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images_option(parser)
    add_network_options(parser)
    add_profile_option(parser)
    parser.add_argument("--n-frozen", type=int, help="frozen weight layers (default: up to layer A)")
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=["uherding", "random"])
    parser.add_argument("--lam", type=float, default=0.1, help="ADMA's trade-off (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=12, help="queries (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10, help="labels a query (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="repeats (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("quickstart_results"))
    args = parser.parse_args()

    profile = load_profile(args)
    if profile is None and "adma" in args.strategy:
        parser.error(f"--strategy adma needs the --profile of {args.backbone}; see make_source_profile.py")
    task = Task(*load_task(args.images))
    X_pool, y_pool = task.X_pool, task.y_pool
    net = FrozenPrefixClassifier(
        **network(args.backbone, args.weights, args.image_size), n_frozen=args.n_frozen, source=profile
    )
    args.output.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(X_pool)} pool and {len(task.X_test)} test images of {len(set(y_pool))} classes; results in {args.output}"
    )

    records, first_queries = [], {}
    steps = args.seeds * (len(args.strategy) * args.rounds + 1)
    with tqdm(total=steps, desc="rounds", mininterval=1) as progress:
        for seed in range(args.seeds):
            seeded = clone(net).set_params(random_state=seed)
            for name in args.strategy:
                options = {"lam": args.lam, "batch": "top"} if name == "adma" else {}  # the paper's batch
                strategy = Query(STRATEGIES[name].function, **options)
                run = label_rounds(seeded, strategy, task, n_queries=args.rounds, batch_size=args.batch, seed=seed)
                for record in run:
                    indices = record.pop("indices")
                    first_queries.setdefault(name, []).extend(indices if seed == 0 else [])
                    records.append({"strategy": name, "seed": seed, **record})
                    progress.set_postfix_str(f"{name} {record['n_labels']} labels: {record['accuracy']:.3f}")
                    progress.update()
            records.append(with_all_labels(net, task, seed))
            progress.update()

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
