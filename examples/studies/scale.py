"""Time and memory of a query of 100 images as the pool grows from 10,000 images to a million.

Each image has 512 features (2 KB) in a memory-mapped file; 100 images of 10 classes are labelled. The learner is
logistic regression. For ADMA it is a network of four layers with a profile of 1,000 source classes and without a cache.
Each strategy and pool size runs in its own process. Seconds are the CPU time of the query. Memory is the peak memory
during the query minus the memory before it, without the file itself. Rows already in the CSV file are not measured
again. ``--table`` and ``--figure`` write a table and a figure of the rows.

    OMP_NUM_THREADS=1 python examples/studies/scale.py --output scale.csv
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from skal import FrozenPrefixClassifier, SourceProfile
from skal.active import Learner
from skal.query import STRATEGIES

NAMES = {
    "max_herding": "MaxHerding",
    "uherding": "UHerding",
    "probcover": "ProbCover",
    "typiclust": "TypiClust",
    "coreset": "core-set",
    "badge": "BADGE",
    "margin": "margin",
    "adma": "ADMA",
    "adma_top": 'ADMA, batch="top"',
}
SIZES = [10_000, 100_000, 1_000_000]
D, N_LABELS, N_CLASSES, BATCH, N_SOURCE = 512, 100, 10, 100, 1000
_ROWS = 10_000


def write_features(path: Path, n: int) -> None:
    """Write positive features near a 32-dimensional surface, similar to those of networks. All rows differ."""
    rng = np.random.default_rng(0)
    latent = 2 * rng.normal(size=(N_CLASSES, 32))[rng.integers(0, N_CLASSES, _ROWS)] + rng.normal(size=(_ROWS, 32))
    base = np.maximum(latent @ rng.normal(size=(32, D)), 0)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, D))
    for start in range(0, n, _ROWS):
        pairs = base[rng.integers(0, _ROWS, (2, min(_ROWS, n - start)))]
        X[start : start + _ROWS] = (pairs * rng.dirichlet([1, 1], pairs.shape[1]).T[..., None]).sum(0)
    X.flush()


class Memory(threading.Thread):
    """Peak anonymous memory of this process above its initial value, sampled every 5 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self._done = threading.Event()
        self._first = self._most = self._now()

    def run(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, self._now())

    def stop(self) -> float:
        """Stop sampling and return the peak in MiB."""
        self._done.set()
        self.join()
        return (self._most - self._first) / 1024

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def network(source: np.ndarray) -> FrozenPrefixClassifier:
    """A network of four layers on features, with a profile of source classes with one image each."""
    torch.manual_seed(0)
    widths = [D, 256, 256, 128]
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], N_SOURCE))
    profile = SourceProfile(net).fit(source, np.arange(len(source)))
    return FrozenPrefixClassifier(net, source=profile, cache=False, max_epochs=5, random_state=0)


def query(path: Path, name: str, n: int, dask: bool) -> tuple[float, float, float]:
    """CPU seconds, wall-clock seconds and MiB of one query."""
    X = np.load(path, mmap_mode="r")[:n]
    y = np.arange(N_LABELS) % N_CLASSES
    estimator = network(np.array(X[-N_SOURCE:])) if name.startswith("adma") else LogisticRegression(max_iter=1000)
    learner = Learner(estimator, np.array(X[:N_LABELS]), y)
    learner.labelled = np.arange(N_LABELS)
    learner.fit()
    X.sum(axis=1)  # loads the file into memory
    pool = X
    if dask:
        import dask.array

        pool = dask.array.from_array(X, chunks=(65_536, -1))
    function = STRATEGIES[name.removesuffix("_top")].function
    options = {"batch": "top"} if name.endswith("_top") else {}
    memory, start, clock = Memory(), time.process_time(), time.perf_counter()
    memory.start()
    picks = function(learner, pool, BATCH, random_state=0, **options)
    seconds, on_the_clock = time.process_time() - start, time.perf_counter() - clock
    assert len(set(picks.tolist())) == BATCH
    return seconds, on_the_clock, memory.stop()


def measured(path: Path, name: str, n: int, dask: bool) -> dict:
    """Measure a row of the CSV file in a separate process."""
    command = [sys.executable, __file__, "--features", str(path), "--one", name, str(n), *(["--dask"] if dask else [])]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, clock, mib = map(float, printed.split())
    held = "Dask" if dask else "memory map"
    return {"strategy": name, "images": n, "pool": held, "seconds": seconds, "clock": clock, "MiB": mib}


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds by strategy and pool size, and MiB at the largest."""
    rows = rows[rows["pool"] == "memory map"]
    most = rows["images"].max()
    shown = rows.pivot(index="strategy", columns="images", values="seconds").round(1)
    shown.columns = [f"{n:,} images (s)" for n in shown.columns]
    shown[f"{most:,} images (MiB)"] = rows[rows["images"] == most].set_index("strategy")["MiB"].round().astype(int)
    return shown.loc[[name for name in NAMES if name in shown.index]].rename(index=NAMES)


def draw(rows: pd.DataFrame, file: Path) -> None:
    """Draw seconds and memory against the pool size, on logarithmic scales."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharex=True)
    rows = rows[rows["pool"] == "memory map"].sort_values("images")
    for ax, what, label in zip(
        axes, ("seconds", "MiB"), ("seconds on one core", "MiB beyond the features"), strict=True
    ):
        for name, shown in NAMES.items():
            own = rows[rows["strategy"] == name]
            ax.plot(own["images"], own[what].clip(lower=0.01), marker="o", label=shown)
        ax.set(xscale="log", yscale="log", xlabel="images in the pool", ylabel=label)
        ax.grid(alpha=0.3)
    sizes = np.array(sorted(rows["images"].unique()))
    axes[0].plot(sizes, sizes / sizes[0] * 0.02, "k:", label="linear")
    copied = axes[1].plot(sizes, sizes * D * 4 / 2**20, "k--", label="copy of the features")
    figure.legend(handles=[*axes[0].get_lines(), *copied], loc="outside right center")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("scale.csv"))
    parser.add_argument("--features", type=Path, default=Path("features.npy"), help="created if it does not exist")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--strategies", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--dask", action="store_true", help="use a Dask array on threads as the pool")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*query(args.features, args.one[0], int(args.one[1]), args.dask))
        return
    if not args.features.exists():
        write_features(args.features, max(args.sizes))
    rows = pd.read_csv(args.output).to_dict("records") if args.output.exists() else []
    done = {(row["strategy"], row["images"], row["pool"]) for row in rows}
    for n in sorted(args.sizes):
        for name in args.strategies:
            if (name, n, "Dask" if args.dask else "memory map") in done:
                continue
            rows.append(measured(args.features, name, n, args.dask))
            print(*rows[-1].values(), flush=True)
            pd.DataFrame(rows).round(3).to_csv(args.output, index=False)
    if args.table:
        table(pd.DataFrame(rows)).to_csv(args.table)
    if args.figure:
        draw(pd.DataFrame(rows), args.figure)


if __name__ == "__main__":
    main()
