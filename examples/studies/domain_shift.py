"""Adaptation from one domain to another: DAN without target labels, and with a few queried ones.

    python examples/studies/domain_shift.py --digits MNIST USPS   LeNet, from the first to the second file of arrays
    python examples/studies/domain_shift.py --images DIR ...      class folders, in colour, and the same classes as
                                                              small grey pictures; networks as in quickstart.py

Source-only training is compared with DAN with uniform and with optimal kernel weights. Where scikit-adaptation is
installed, its deep DAN on the same LeNet is added. Then each strategy queries labels for 1 % and 5 % of the target
images, and DAN is retrained after each query. Rows already in --output are kept, so a stopped run resumes, and pairs of
domains can be added. Files written to --output: NAME.csv of each pair, table.csv and shift.png.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from _common import add_images_option, add_network_options, load_digits, load_task, network, pixels, trained_lenet
from PIL import Image
from sklearn.base import clone
from torch import nn

from skal import DAN, FrozenPrefixClassifier
from skal._random import seeded
from skal.active import Learner
from skal.query import STRATEGIES

mpl.use("Agg")
import matplotlib.pyplot as plt

QUERIED = ("random", "uherding", "coreset", "mmd", "discrepancy_coreset")
SHARES = (0.01, 0.05)


class Pair(NamedTuple):
    """A labelled source, the target images with their oracle labels, and the target test set."""

    X_source: np.ndarray
    y_source: np.ndarray
    X_target: np.ndarray
    y_target: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def degraded(images: np.ndarray) -> np.ndarray:
    """Convert to grey, shrink to a quarter of the size and enlarge again."""
    small = [Image.fromarray(image).convert("L").resize((image.shape[1] // 4, image.shape[0] // 4)) for image in images]
    return np.stack([np.asarray(part.resize(images.shape[1:3]).convert("RGB")) for part in small])


def load(args: argparse.Namespace) -> tuple[Pair, FrozenPrefixClassifier]:
    """All images of both domains, and the network."""
    if args.digits is not None:
        X, y, *_ = load_digits(args.digits[0])
        target = load_digits(args.digits[1])
        file = args.output / f"lenet_{args.digits[0].stem}.safetensors"
        lenet = trained_lenet(X, y, file)
        net = FrozenPrefixClassifier(lenet, recipe=DAN(), image_size=28, n_frozen=1, batch_size=64, max_epochs=10)
        return Pair(X, y, *target), net
    X, y, X_test, y_test = load_task(args.images)
    size = args.image_size or 224
    X, X_test = pixels(X, size), pixels(X_test, size)
    half = np.random.RandomState(0).permutation(len(X)) < len(X) // 2
    net = FrozenPrefixClassifier(
        **network(args.backbone, args.weights, args.image_size), recipe=DAN(), n_frozen=args.n_frozen
    )
    return Pair(X[half], y[half], degraded(X[~half]), y[~half], degraded(X_test), y_test), net


def drawn(pair: Pair, n: int, seed: int) -> Pair:
    """At most n images of each domain, drawn at random."""
    rng = np.random.RandomState(seed)
    rows = [rng.permutation(len(y))[:n] for y in (pair.y_source, pair.y_target)]
    return pair._replace(
        X_source=pair.X_source[rows[0]], y_source=pair.y_source[rows[0]],
        X_target=pair.X_target[rows[1]], y_target=pair.y_target[rows[1]],
    )  # fmt: skip


def unlabelled(pair: Pair, net: FrozenPrefixClassifier, seed: int) -> Iterator[tuple[str, float, float]]:
    """Results without target labels: name of the method, labelled fraction, accuracy on the target."""
    source_only = clone(net).set_params(recipe=None).fit(pair.X_source, pair.y_source)
    yield "source only", 0.0, source_only.score(pair.X_test, pair.y_test)
    for weights in ("uniform", "optimal"):
        dan = clone(net).set_params(recipe=DAN(kernel_weights=weights, labels="source"))
        dan.fit(pair.X_source, pair.y_source, X_unlabeled=pair.X_target)
        yield f"DAN, {weights}", 0.0, dan.score(pair.X_test, pair.y_test)
    if isinstance(net.backbone, nn.Module) and importlib.util.find_spec("skada"):
        yield "scikit-adaptation", 0.0, of_scikit_adaptation(pair, net, seed)


class TakesWeights(nn.Module):
    """A network with the call signature that scikit-adaptation expects."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, x: torch.Tensor, sample_weight: Any = None) -> torch.Tensor:
        return self.net(x)


def of_scikit_adaptation(pair: Pair, net: FrozenPrefixClassifier, seed: int) -> float:
    """Accuracy of scikit-adaptation's deep DAN, with the same network, epochs and batches."""
    from skada.deep import DAN

    with seeded(seed):
        dan = DAN(
            TakesWeights(net.backbone), layer_name="net.7", reg=net.recipe.lam, optimizer=torch.optim.AdamW, lr=1e-4,
            max_epochs=net.max_epochs, batch_size=net.batch_size, train_split=None, verbose=0,
        )  # fmt: skip
        X = np.concatenate([pair.X_source, pair.X_target])
        y = np.concatenate([pair.y_source, np.full(len(pair.X_target), -1)]).astype(np.int64)
        domain = np.concatenate([np.ones(len(pair.X_source)), -2 * np.ones(len(pair.X_target))]).astype(int)
        dan.fit(X, y, sample_domain=domain)
        found = dan.predict(pair.X_test, sample_domain=np.full(len(pair.X_test), -2), allow_source=True)
    return float(np.mean(np.asarray(found) == pair.y_test))


def labelled(
    pair: Pair, net: FrozenPrefixClassifier, seed: int, name: str, start: FrozenPrefixClassifier
) -> Iterator[tuple[str, float, float]]:
    """Accuracy on the target as labels are queried."""
    learner = Learner(copy.copy(start), pair.X_target, pair.y_target)
    left = np.arange(len(pair.y_target))
    for t, share in enumerate(SHARES):
        n = round(share * len(pair.y_target)) - len(learner.labelled)
        generator = np.random.RandomState([seed, t])
        answer = STRATEGIES[name].function(learner, pair.X_target[left], n, random_state=generator)
        picks = np.asarray(answer[0] if isinstance(answer, tuple) else answer)
        learner.labelled = np.concatenate([learner.labelled, left[picks]])
        left = np.delete(left, picks)
        learner.estimator = clone(net).fit(
            learner.X_training, learner.y_training,
            X_source=pair.X_source, y_source=pair.y_source, X_unlabeled=pair.X_target[left],
        )  # fmt: skip
        yield f"DAN + {name}", share, learner.estimator.score(pair.X_test, pair.y_test)


def table(records: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of the accuracy on the target test set."""
    cells = records.groupby(["pair", "share", "method"], sort=False)["accuracy"].agg(["mean", "std"])
    text = cells.apply(lambda row: f"{row['mean']:.3f} ± {row['std']:.3f}", axis=1)
    wide = text.unstack(["pair", "share"]).fillna("")
    return wide.set_axis([f"{pair}, {share:.0%}" for pair, share in wide.columns], axis=1)


def draw(records: pd.DataFrame, path: Path) -> None:
    """Accuracy against the labelled fraction, one panel per pair. Source only and DAN are horizontal lines."""
    pairs = list(dict.fromkeys(records["pair"]))
    figure, axes = plt.subplots(1, len(pairs), figsize=(4.5 * len(pairs), 4), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], pairs, strict=True):
        of_pair = records[records["pair"] == name]
        start = of_pair.loc[of_pair["method"] == "DAN, uniform", "accuracy"].mean()
        for method, rows in of_pair[of_pair["share"] > 0].groupby("method", sort=False):
            curve = rows.groupby("share")["accuracy"].agg(["mean", "std"])
            ax.errorbar(
                [0, *100 * curve.index], [start, *curve["mean"]], [0, *curve["std"]], label=method[6:], capsize=2
            )
        for method, style in (("source only", ":"), ("DAN, uniform", "--")):
            ax.axhline(of_pair.loc[of_pair["method"] == method, "accuracy"].mean(), color="0.4", linestyle=style)
        ax.set(title=name, xlabel="labelled share of the target (%)", ylabel="accuracy on the target")
        ax.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="name of the pair (default: from the files)")
    parser.add_argument("--digits", type=Path, nargs=2, metavar=("SOURCE", "TARGET"), help="npz files of arrays")
    add_images_option(parser)
    add_network_options(parser)
    parser.add_argument("--n-frozen", type=int, help="frozen weight layers (default: up to layer A)")
    parser.add_argument("--images-used", type=int, default=1000, help="images used per domain (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--output", type=Path, default=Path("domain_shift_results"))
    args = parser.parse_args()
    if not (args.tables or args.digits or args.images):
        parser.error("one of --digits, --images and --tables is required")
    args.output.mkdir(parents=True, exist_ok=True)

    if not args.tables:
        name = args.name or (" to ".join(file.stem for file in args.digits) if args.digits else args.images.name)
        file = args.output / f"{name}.csv"
        records = pd.read_csv(file).to_dict("records") if file.exists() else []
        everything, net = load(args)
        for seed in range(args.seeds):
            pair = drawn(everything, args.images_used, seed)
            seeded_net = clone(net).set_params(random_state=seed)
            done = {row["method"] for row in records if row["seed"] == seed}
            runs = [] if "DAN, optimal" in done else [unlabelled(pair, seeded_net, seed)]
            missing = [query for query in QUERIED if f"DAN + {query}" not in done]
            if missing:
                start = clone(seeded_net).set_params(recipe__labels="source")
                start.fit(pair.X_source, pair.y_source, X_unlabeled=pair.X_target)
                runs += [labelled(pair, seeded_net, seed, query, start) for query in missing]
            for run in runs:
                for method, share, accuracy in run:
                    row = {"pair": name, "method": method, "share": share, "seed": seed}
                    records.append({**row, "accuracy": round(accuracy, 4)})
                    print(records[-1], flush=True)
                pd.DataFrame(records).to_csv(file, index=False)
    files = [path for path in sorted(args.output.glob("*.csv")) if path.stem != "table"]
    everything = pd.concat([pd.read_csv(path) for path in files])
    shown = table(everything)
    shown.to_csv(args.output / "table.csv")
    draw(everything, args.output / "shift.png")
    print(shown.to_string())


if __name__ == "__main__":
    main()
