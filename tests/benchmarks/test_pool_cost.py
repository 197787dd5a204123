"""What a round costs: the query, a fit, and the pool, as ratios measured side by side: ``pytest tests/benchmarks``."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from sklearn.base import clone
from sklearn.model_selection import KFold
from torch import nn

from skal import FrozenPrefixClassifier
from skal.active import Learner
from skal.numerics.propagation import neighbor_graph, spread
from skal.query import max_herding_sampling, uherding_sampling
from skal.training.head import HeadPenalty, solve_head
from tests.benchmarks.conftest import seconds

pytestmark = pytest.mark.usefixtures("all_threads")

SIZE = 96


@pytest.fixture(scope="module")
def taught():
    """EfficientNet-Lite0 on 100 of 2,000 random images, everything cached."""
    rng = np.random.default_rng(0)
    y = np.arange(2000) % 10
    base = rng.integers(60, 200, size=(10, 3))[y]
    pool = (base[:, None, None] + rng.integers(-50, 50, (2000, SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
    net = FrozenPrefixClassifier("efficientnet_lite0", image_size=SIZE, n_frozen=-3, random_state=0)
    learner = Learner(net, pool, y)
    learner.labelled = np.arange(100)
    learner.fit()
    net.predict_proba(pool)
    net.activations(pool, [-2], pooled=True, pretrained=True)
    return learner, pool, y


def test_a_query_of_uherding_beside_max_herding(taught, capsys):
    """After a fit nothing of the new network is known: each query computes the pool's features once.

    What UHerding adds are three probes on folds of the labelled images, for the temperature.
    """
    learner, pool, _ = taught

    def query(strategy):
        learner.estimator._final.clear()
        return strategy(learner, pool[100:], 10, random_state=0)

    times = dict.fromkeys(("max_herding_sampling", "uherding_sampling"), np.inf)
    for _ in range(5):  # in turn, so that both meet the same load of the machine
        for strategy in (max_herding_sampling, uherding_sampling):
            taken = seconds(lambda s=strategy: query(s))
            times[strategy.__name__] = min(taken, times[strategy.__name__])
    ratio = times["uherding_sampling"] / times["max_herding_sampling"]
    with capsys.disabled():
        print(f"\n{times}: UHerding {ratio:.2f} x MaxHerding")
    assert ratio < 1.3


def test_a_round_beside_one_that_refits_for_the_temperature(taught, capsys):
    """A fit and a query of UHerding, and the same with three more fits on folds of the labelled images.

    Refits of the whole network are the direct way to held-out probabilities; skal solves probes on cached features.
    """
    learner, pool, y = taught
    folds = [train for train, _ in KFold(3, shuffle=True, random_state=0).split(np.arange(100))]

    def refits():
        for rows in folds:
            clone(learner.estimator).fit(pool[rows], y[rows])

    fit = seconds(learner.fit, 2)
    query = seconds(lambda: uherding_sampling(learner, pool[100:], 10, random_state=0), 2)
    direct = fit + query + seconds(refits, 2)
    with capsys.disabled():
        print(f"\nround {fit + query:.2f} s, with refits {direct:.2f} s: {(fit + query) / direct:.2f} x")
    assert fit + query < 0.5 * direct


def test_a_fit_with_the_pool_beside_one_without(taught, capsys):
    _, pool, y = taught
    net = FrozenPrefixClassifier("efficientnet_lite0", image_size=SIZE, n_frozen=-3, random_state=0)
    alone = seconds(lambda: net.fit(pool[:100], y[:100]), 3)
    with_pool = seconds(lambda: net.fit(pool[:100], y[:100], X_unlabeled=pool), 3)
    with capsys.disabled():
        print(f"\nfit {alone:.2f} s, with a pool of 2,000 {with_pool:.2f} s: {with_pool / alone:.2f} x")
    assert with_pool < 2 * alone


def test_propagation_beside_repeated_substitution(capsys):
    """To an error that is no larger, for 5 labels of 10 classes in 2,000 images and the five folds of the votes."""
    rng = np.random.default_rng(0)
    y = np.arange(2000) % 10
    S = neighbor_graph(torch.from_numpy((rng.normal(size=(10, 64))[y] + rng.normal(size=(2000, 64))).astype("f4")), 15)
    seeds = np.zeros((2000, 10))
    seeds[np.arange(50), y[:50]] = 0.2
    seeds = np.tile(seeds, (1, 6))

    def substituted():
        scores, change = 0.1 * seeds, np.inf
        while change > 1e-4 * 0.1 * 0.02:
            before, scores = scores, 0.9 * (S @ scores) + 0.1 * seeds
            change = np.abs(scores - before).max()
        return scores

    exact = 0.1 * spsolve(sparse.csc_array(sparse.eye_array(2000) - 0.9 * S), seeds)
    errors = [np.abs(found - exact).max() for found in (spread(S, seeds, 0.9), substituted())]
    ours, plain = seconds(lambda: spread(S, seeds, 0.9), 3), seconds(substituted, 3)
    with capsys.disabled():
        print(f"\npropagation {ours:.3f} s, repeated substitution {plain:.3f} s: {plain / ours:.1f} x; errors {errors}")
    assert errors[0] < errors[1]
    assert ours < 0.7 * plain


@pytest.mark.parametrize("n", [100, 1500])
def test_the_head_with_one_thread_beside_several(n, capsys):
    """Products with a few columns, many times in turn: threads wait for each other longer than they compute."""
    y = np.arange(n) % 15
    features = np.random.default_rng(0).normal(size=(n, 1280)).astype(np.float32)
    penalty, head = HeadPenalty.of(features), nn.utils.skip_init(nn.Linear, 1280, 15)
    one = seconds(lambda: solve_head(head, features, y, penalty), 3)
    several = seconds(lambda: solve_head.__wrapped__(head, features, y, penalty), 3)
    with capsys.disabled():
        print(f"\nhead of {n} images: {one:.3f} s with one thread, {several:.3f} s with several: {several / one:.1f} x")
    assert one < 1.1 * several


@pytest.mark.parametrize("relative_lr", [False, True])
def test_a_fit_beside_the_same_steps_in_plain_pytorch(taught, relative_lr, capsys):
    """The steps of AdamW on the same suffix and batches, without skorch and history, and without relative steps."""
    _, pool, y = taught
    net = FrozenPrefixClassifier(
        "efficientnet_lite0", image_size=SIZE, n_frozen=-3, random_state=0, relative_lr=relative_lr, lr=1e-4
    )
    probe = net.linear_probe()
    net.fit(pool[:100], y[:100])
    n_steps = 4 * len(net.net_.history)
    suffix, x = net.net_.module_, torch.cat([*net._checked(pool[:100])[0].activations(net._checked(pool[:100])[1])])
    target = torch.from_numpy(y[:100])

    @torch.random.fork_rng()
    def plain():
        suffix.train()
        optimizer = torch.optim.AdamW(suffix.parameters(), lr=1e-4, weight_decay=0.01)
        for step in range(n_steps):
            if step % 4 == 0:
                order = torch.randperm(100, generator=torch.Generator().manual_seed(step))
            rows = order[32 * (step % 4) :][:32]
            optimizer.zero_grad()
            nn.functional.cross_entropy(suffix(x[rows]), target[rows]).backward()
            optimizer.step()

    fit, head, bare = np.full(3, np.inf)
    for _ in range(5):  # in turn, so that all meet the same load of the machine
        fit = min(fit, seconds(lambda: net.fit(pool[:100], y[:100])))
        head = min(head, seconds(lambda: probe.fit(pool[:100], y[:100])))
        bare = min(bare, seconds(plain))
    ratio = (fit - head) / bare
    with capsys.disabled():
        print(f"\n{relative_lr=}, {n_steps} steps: {fit - head:.2f} s in fit, {bare:.2f} s plain: {ratio:.2f} x")
    assert ratio < 1.15


def test_a_pool_of_100000_features(capsys):
    """Head on features, at the default max_unlabeled: seconds, and memory as the operating system sees it."""
    script = """
import time
import numpy as np, psutil
from torch import nn
from skal import FrozenPrefixClassifier
rng = np.random.default_rng(0)
y = rng.integers(0, 20, 100_000)
X = rng.normal(size=(20, 512)).astype(np.float32)[y] + 2 * rng.standard_normal((100_000, 512), dtype=np.float32)
module = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 20))
net = FrozenPrefixClassifier(module, max_epochs=0, random_state=0)
before, start = psutil.Process().memory_info().rss, time.perf_counter()
net.fit(X[:200], y[:200], X_unlabeled=X)
print(time.perf_counter() - start, (psutil.Process().memory_info().rss - before) / 2**30)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ)
    taken, gibibytes = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\n100,000 unlabelled: {taken:.1f} s, {gibibytes:.2f} GiB more")
    assert taken < 60
    assert gibibytes < 2
