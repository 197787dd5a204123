"""Coverage estimated on a sample beside exact coverage, and its time and memory in a large pool.

Features near a surface of 32 dimensions, as those of networks are; clusters of uneven size; and the positive features
of a random map, where all images are nearly as far from each other and bounds say little. Seconds are processor time.

Run: OMP_NUM_THREADS=1 SKAL_ROWS=1000000 python -m pytest tests/benchmarks/test_coverage_scale.py -s
"""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from skal.numerics.coverage import greedy_coverage, sampled_coverage
from skal.numerics.greedy import squared_distances
from skal.numerics.points import Points

SCALE = str(Path(__file__).parents[2] / "examples/studies/scale.py")


def surface(n, D=512, seed=0):
    rng = np.random.default_rng(seed)
    latent = 2 * rng.normal(size=(10, 32))[rng.integers(0, 10, n)] + rng.normal(size=(n, 32))
    return np.maximum(latent @ rng.normal(size=(32, D)), 0)


def clusters(n, D=256, seed=0):
    rng = np.random.default_rng(seed)
    own = rng.choice(200, n, p=rng.dirichlet(np.full(200, 0.5)))
    return rng.normal(size=(200, D))[own] + 0.5 * rng.normal(size=(n, D))


def random_map(n, D=256, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(n, 64)) @ rng.normal(size=(64, D)), 0)


def gaussian(squared, sigma):
    return squared.mul_(-1 / sigma**2).exp_()


def timed(call):
    start = time.process_time()
    return call(), time.process_time() - start


def coverage(X, picks, kernel):
    return float(torch.cat([kernel(squared_distances(rows, X[picks])).amax(1) for rows in X.split(4096)]).mean())


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("features", [surface, clusters], ids=lambda features: features.__name__)
def test_coverage_beside_exact(features, sigma, capsys):
    X = normalize(torch.from_numpy(features(20_000).astype(np.float32)))
    kernel = partial(gaussian, sigma=sigma)
    exact, exact_seconds = timed(lambda: greedy_coverage(X, 50, kernel))
    picks, seconds = timed(lambda: sampled_coverage(X, 50, kernel, generator=np.random.RandomState(0)))
    ratio = coverage(X, picks, kernel) / coverage(X, exact, kernel)
    with capsys.disabled():
        print(f"\n20,000 {features.__name__}, sigma {sigma}: {seconds:.1f} s, exact {exact_seconds:.1f} s, ", end="")
        print(f"coverage {coverage(X, exact, kernel):.3f} x {ratio:.4f}")
    assert ratio > 0.985


@pytest.mark.parametrize("n_picks", [10, 50])
def test_features_of_a_random_map(n_picks, capsys):
    X = normalize(torch.from_numpy(random_map(20_000).astype(np.float32)))
    kernel = partial(gaussian, sigma=1.0)
    picks, seconds = timed(lambda: sampled_coverage(X, n_picks, kernel, generator=np.random.RandomState(0)))
    line = f"\n20,000 x 256 of a random map, batch of {n_picks}: {seconds:.1f} s"
    if n_picks == 10:
        exact, exact_seconds = timed(lambda: greedy_coverage(X, n_picks, kernel))
        ratio = coverage(X, picks, kernel) / coverage(X, exact, kernel)
        line += f", exact {exact_seconds:.1f} s, coverage x {ratio:.4f}"
        assert ratio > 0.99
        assert seconds < exact_seconds
    with capsys.disabled():
        print(line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "n_features", "n_picks"), [(clusters, 64, 20), (surface, 512, 10)], ids=["clusters", "surface"]
)
def test_coverage_beside_exact_at_100_000(features, n_features, n_picks, capsys):
    """Exact greedy takes minutes: similarities of 10^10 pairs."""
    points = Points([torch.from_numpy(features(100_000, n_features).astype(np.float32))]).scaled(unit=True)
    kernel, X = partial(gaussian, sigma=0.5), points.whole()
    exact, exact_seconds = timed(lambda: greedy_coverage(X, n_picks, kernel))
    picks, seconds = timed(lambda: sampled_coverage(points, n_picks, kernel, generator=np.random.RandomState(0)))
    ratio = coverage(X, picks, kernel) / coverage(X, exact, kernel)
    with capsys.disabled():
        print(f"\n100,000 {features.__name__}, {n_features} wide, a batch of {n_picks}: {seconds:.1f} s, ", end="")
        print(f"exact {exact_seconds:.1f} s, coverage x {ratio:.4f}")
    assert ratio > 0.99


@pytest.mark.parametrize("pool", ["memory map", "Dask"])
def test_a_batch_of_100_from_a_large_pool(pool, tmp_path, capsys):
    """From 100,000 memory-mapped rows, or as many as SKAL_ROWS says: 1 GB above the data at most."""
    n = os.environ.get("SKAL_ROWS", "100000")
    command = [sys.executable, SCALE, "--features", tmp_path / "features.npy", "--sizes", n]
    command += ["--output", tmp_path / "scale.csv", "--strategies", "max_herding", "uherding", "probcover"]
    subprocess.run(command + (["--dask"] if pool == "Dask" else ["adma"]), check=True, capture_output=True)
    rows = pd.read_csv(tmp_path / "scale.csv")
    with capsys.disabled():
        print(f"\n{rows}")
    assert len(rows) == (3 if pool == "Dask" else 4)
    assert (rows["MiB"] < 1e9 / 2**20).all()
    assert (rows[rows["strategy"] != "adma"]["seconds"] < 300).all()
