"""Coverage estimated on a sample beside exact coverage, and how time and memory grow with the pool.

Features near a surface of 32 dimensions, as those of networks are; clusters of uneven size; and the positive features
of a random map, where all images are nearly as far from each other and bounds say little. Seconds are processor time.

Run: OMP_NUM_THREADS=1 SKAL_ROWS=1000000 python -m pytest tests/benchmarks/test_coverage_scale.py -s
"""

import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from skal.numerics.coverage import greedy_coverage, sampled_coverage
from skal.numerics.greedy import squared_distances


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


_LARGE = """
import sys, time
import numpy as np
from sklearn.linear_model import LogisticRegression
import skal.query
from skal.active import Learner
from tests.benchmarks.test_coverage_scale import surface

def resident(kind="VmRSS:"):
    return int(open("/proc/self/status").read().split(kind)[1].split()[0]) / 1024

name, n, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
X = np.load(path, mmap_mode="r")[:n]
y = np.arange(100) % 10
learner = Learner(LogisticRegression(max_iter=50), np.array(X[:100]), y)
learner.labelled = np.arange(100)
learner.fit()
X.sum(axis=1)  # so that the file is in memory
before, start = resident(), time.process_time()
picks = getattr(skal.query, name)(learner, X, 100, random_state=0)
picks = picks[0] if isinstance(picks, tuple) else picks
assert len(set(picks.tolist())) == 100
print(time.process_time() - start, resident("VmHWM:") - before)
"""

NAMES = ["max_herding", "uherding", "probcover", "typiclust", "coreset", "badge", "margin"]


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """Features of a million images, or of as many as SKAL_ROWS says, in a file."""
    n = int(os.environ.get("SKAL_ROWS", 100_000))
    path = tmp_path_factory.mktemp("features") / "features.npy"
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, 512))
    base = surface(10_000)
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):  # between two images of the base each, so that no two are alike
        rows = base[rng.integers(0, 10_000, (2, min(10_000, n - start)))]
        X[start : start + 10_000] = (rows * rng.dirichlet([1, 1], rows.shape[1]).T[..., None]).sum(0)
    X.flush()
    del X
    return path, n


@pytest.mark.parametrize("name", NAMES)
def test_time_and_memory_grow_with_the_pool(name, large_file, capsys):
    """A batch of 100 from 10,000, 100,000 and, with SKAL_ROWS=1000000, a million memory-mapped rows."""
    path, most = large_file
    seconds = {}
    for n in [n for n in (10_000, 100_000, 1_000_000) if n <= most]:
        arguments = [sys.executable, "-c", _LARGE, f"{name}_sampling", str(n), str(path)]
        took, grown = map(float, subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split())
        seconds[n] = took
        with capsys.disabled():
            print(f"\n{name}, {n:,} images: {took:.1f} s, {grown:.0f} MiB above the file", end="")
    assert seconds[most] < 300
