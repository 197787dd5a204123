"""Discover new classes during training: the experiment of the EMOC paper's Fig. 1.

    python examples/studies/continuous_exploration.py --cifar100 DIR       CIFAR-100, as torchvision stores it, in DIR
    python examples/studies/continuous_exploration.py --npz FILE           arrays X_train, y_train, X_test, y_test
    python examples/studies/continuous_exploration.py --images DIR --resnet20 FILE
                                                                           class folders at 32 px, with a ResNet-20

Some classes are known: a network is trained on a few images of each. The pool has as many more images of each known
class, and as many of each novel class. In each update step the best of 1,000 random sets of images that share a class
is labelled, and training continues with old and new images. The study compares EMOC, the three heuristics of the paper
and random sets.

Without --resnet20 the network is the small CIFAR-10 convnet of the paper, trained from random weights on the known
classes. With it, the last stage of a network trained on CIFAR-10 is trained. Files written to --output: records.csv,
table.csv and exploration.png (accuracy and discovered classes against update steps). A stopped run resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from _common import load_task
from torch import nn

from skal import FineTuning, FrozenPrefixClassifier, ImageTransform, Query
from skal.experiment import Task, run_experiment
from skal.query import emoc_set_sampling, set_sampling

mpl.use("Agg")
import matplotlib.pyplot as plt

STRATEGIES = {
    "EMOC": Query(emoc_set_sampling, groups="truth"),
    "min": Query(set_sampling, score="least_confident", groups="truth"),
    "1-vs-2": Query(set_sampling, score="margin", groups="truth"),
    "max": Query(set_sampling, score="most_confident", groups="truth"),
    "random": Query(set_sampling, score="random", groups="truth"),
}


def convnet() -> nn.Module:
    """The small convnet of cuda-convnet's CIFAR-10 experiments. The classifier replaces its last layer."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2), nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(3, 2),
        nn.Flatten(), nn.Linear(576, 64), nn.Linear(64, 10),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:  # a shortcut without weights: every other pixel, padded with zero channels
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """The ResNet-20 for CIFAR-10 of He et al. (2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(*(_Block(16 if i == 0 else 32, 32, 2 if i == 0 else 1) for i in range(3)))
        self.layer3 = nn.Sequential(*(_Block(32 if i == 0 else 64, 64, 2 if i == 0 else 1) for i in range(3)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def load_data(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images with their labels."""
    if args.images is not None:
        return load_task(args.images)
    if args.npz is not None:
        with np.load(args.npz) as data:
            return data["X_train"], data["y_train"], data["X_test"], data["y_test"]
    from torchvision.datasets import CIFAR100

    train, test = (CIFAR100(args.cifar100, train=train) for train in (True, False))
    return train.data, np.array(train.targets), test.data, np.array(test.targets)


def split(data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], args: argparse.Namespace, seed: int) -> Task:
    """The task of one initialisation, with a random split into known and novel classes."""
    X, y, X_test, y_test = data
    rng = np.random.default_rng(seed)
    names, counts = np.unique(y, return_counts=True)
    large = names[counts >= 2 * args.per_class]
    if len(large) < args.known + args.novel:
        raise SystemExit(
            f"{args.known} known and {args.novel} novel classes with {2 * args.per_class} training images each are "
            f"required, but only {len(large)} classes are that large"
        )
    classes = rng.permutation(large)[: args.known + args.novel]
    initial, rest = [], []
    for k, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(y == name))
        if k < args.known:
            initial.append(rows[: args.per_class])
            rest.append(rows[args.per_class : 2 * args.per_class])
        else:
            rest.append(rows[: args.per_class])
    rows = np.concatenate([*initial, *rest])
    tested = np.flatnonzero(np.isin(y_test, classes))
    first = np.arange(args.known * args.per_class)
    return Task(X[rows], y[rows], X_test[tested], y_test[tested], initial=first)


def learner(args: argparse.Namespace, task: Task, seed: int) -> FrozenPrefixClassifier:
    """Continuous learning as in the paper, with a network already trained on the known classes.

    Every strategy starts from the layers of this first fit.
    """
    start = continuing(args, convnet if args.resnet20 is None else ResNet20, args.resnet20, args.first_iterations)
    known = np.asarray(task.initial)
    fitted = start.set_params(random_state=seed).fit(task.X_pool[known], np.asarray(task.y_pool)[known])
    trained = fitted.backbone_.layers.module
    unknown = trained.load_state_dict(fitted.net_.module_.body.state_dict(), strict=False).unexpected_keys
    if unknown:
        raise RuntimeError(f"the trained layers {unknown} do not exist in the network")
    return continuing(args, trained, None, args.iterations)


def continuing(
    args: argparse.Namespace, backbone: object, weights: Path | None, iterations: int
) -> FrozenPrefixClassifier:
    """Mini-batch gradient descent with momentum on old and new images, continuing from the last fit."""
    image_net = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return FrozenPrefixClassifier(
        backbone,
        weights=weights,
        n_frozen=0 if args.resnet20 is None else 13,
        preprocess=ImageTransform(32, 32, *image_net),
        optimizer=torch.optim.SGD,
        lr=args.lr,
        relative_lr=False,
        weight_decay=5e-4,
        net_params={"optimizer__momentum": 0.9},
        batch_size=64,
        max_epochs=1,
        min_steps=iterations,
        class_weight=None,
        normalize=False,
        head_init="random",
        warm_start=True,
        recipe=FineTuning(replay=0.9),
    )


def table(records: pd.DataFrame, n_known: int, n_initial: int) -> pd.DataFrame:
    """Accuracy and discovered classes: mean over all steps and value after the last, ± over initialisations."""
    updates = records[records.n_labels > n_initial].assign(discovered=lambda rows: rows.n_classes - n_known)
    of_run = updates.groupby(["strategy", "seed"], sort=False)[["accuracy", "discovered"]]
    runs = pd.concat({"mean": of_run.mean(), "last": of_run.last()}, axis=1)
    cells = runs.groupby("strategy", sort=False).agg(["mean", "std"])
    text = {
        f"{what}, {'all steps' if when == 'mean' else 'last step'}": [
            f"{row[when, what, 'mean']:.{digits}f} ± {row[when, what, 'std']:.{digits}f}" for _, row in cells.iterrows()
        ]
        for what, digits in (("accuracy", 3), ("discovered", 1))
        for when in ("mean", "last")
    }
    return pd.DataFrame(text, index=cells.index)


def draw(records: pd.DataFrame, args: argparse.Namespace, path: Path) -> None:
    """Draw accuracy and discovered classes against update steps, mean and standard error over the initialisations."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    step = (records["n_labels"] - args.known * args.per_class) // args.set_size
    shown = records.assign(step=step, discovered=records["n_classes"] - args.known)
    for ax, column, label in zip(
        axes, ("accuracy", "discovered"), ("accuracy on all classes", "classes discovered"), strict=True
    ):
        for strategy, rows in shown.groupby("strategy", sort=False):
            curve = rows.groupby("step")[column].agg(["mean", "sem"])
            (line,) = ax.plot(curve.index, curve["mean"], label=strategy)
            ax.fill_between(
                curve.index,
                curve["mean"] - curve["sem"],
                curve["mean"] + curve["sem"],
                color=line.get_color(),
                alpha=0.2,
            )
        ax.set(xlabel=f"update steps ({args.set_size} labels each)", ylabel=label)
    axes[1].axhline(args.novel, color="grey", linestyle=":")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cifar100", type=Path, help="folder of torchvision's CIFAR-100")
    source.add_argument("--npz", type=Path, help="npz file of arrays")
    source.add_argument("--images", type=Path, help="folder with one folder per class")
    parser.add_argument("--resnet20", type=Path, help="weights of a CIFAR-10 ResNet-20 to train from layer3 on")
    parser.add_argument("--known", type=int, default=10, help="number of known classes (default: %(default)s)")
    parser.add_argument("--novel", type=int, default=10, help="number of novel classes (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=100, help="images per class in each part (default: 100)")
    parser.add_argument("--set-size", type=int, default=25, help="labels per update step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="number of update steps (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=1000, help="training steps per update (default: 1000)")
    parser.add_argument(
        "--first-iterations", type=int, default=1000, help="steps before the first update (default: 1000)"
    )
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate, decays to 0 (default: %(default)s)")
    parser.add_argument("--initialisations", type=int, default=9, help="number of repetitions (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="curves computed in parallel (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("exploration_results"))
    args = parser.parse_args()

    data = load_data(args)
    parts = []
    for seed in range(args.initialisations):
        task = split(data, args, seed)
        part = run_experiment(
            learner(args, task, seed),
            STRATEGIES,
            {f"split {seed}": task},
            n_queries=args.steps,
            batch_size=args.set_size,
            seeds=[seed],
            folder=args.output / "runs",
            n_jobs=args.jobs,
            verbose=10,
        )
        parts.append(part.drop(columns="indices"))
        records = pd.concat(parts)
        records.round(4).to_csv(args.output / "records.csv", index=False)
        shown = table(records, args.known, args.known * args.per_class)
        shown.to_csv(args.output / "table.csv")
        draw(records, args, args.output / "exploration.png")
    print(shown.to_string())


if __name__ == "__main__":
    main()
