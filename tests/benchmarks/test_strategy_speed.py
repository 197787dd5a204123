"""What a batch of each diversity strategy costs, beside scikit-activeml 1.0.1 where that is installed.

10,000 images with 512 features of 10 or 100 classes, 10 of each labelled, a batch of 10: features that lie near a
surface of 32 dimensions, as those of networks do (among points that are all equally far from each other, herding's
bounds say nothing and it is slower).
"""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skal.active import Learner
from skal.query import (
    badge_sampling,
    coreset_sampling,
    max_herding_sampling,
    probcover_sampling,
    typiclust_sampling,
    uherding_sampling,
)
from tests.benchmarks.conftest import seconds

pytestmark = pytest.mark.usefixtures("all_threads")

STRATEGIES = {
    "CoreSet": (coreset_sampling, 4),
    "Badge": (badge_sampling, 20),
    "TypiClust": (typiclust_sampling, 2),
    "ProbCover": (probcover_sampling, 10),
    "MaxHerding": (max_herding_sampling, 10),
}


def features(n, n_classes):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n)
    latent = 2 * rng.normal(size=(n_classes, 32))[y] + rng.normal(size=(n, 32))
    return np.maximum(latent @ rng.normal(size=(32, 512)), 0).astype(np.float32), y


def taught(X, y, n_labels=100):
    learner = Learner(LogisticRegression(max_iter=200), X, y)
    learner.labelled = np.random.default_rng(1).permutation(len(X))[:n_labels]
    learner.fit()
    return learner, np.delete(X, learner.labelled, axis=0)


@pytest.mark.parametrize(("name", "n_classes"), [*((name, 10) for name in STRATEGIES), ("Badge", 100)])
def test_a_batch_beside_scikit_activeml(name, n_classes, benchmark, capsys):
    pool = pytest.importorskip("skactiveml.pool")
    from skactiveml.classifier import SklearnClassifier

    strategy, asked = STRATEGIES[name]
    asked = 100 if n_classes == 100 else asked
    X, y = features(10_000, n_classes)
    learner, rest = taught(X, y, 10 * n_classes)
    benchmark.pedantic(lambda: strategy(learner, rest, 10, random_state=0), rounds=2, warmup_rounds=1)
    ours = benchmark.stats.stats.min
    masked = np.full(len(X), np.nan)
    masked[learner.labelled] = y[learner.labelled]
    arguments = {"X": X, "y": masked, "batch_size": 10}
    if name == "Badge":
        classifier = SklearnClassifier(LogisticRegression(max_iter=200), classes=range(n_classes)).fit(X, masked)
        arguments |= {"clf": classifier, "fit_clf": False}
    theirs = seconds(lambda: getattr(pool, name)(random_state=0).query(**arguments))
    benchmark.extra_info |= {"ours": ours, "scikit_activeml": theirs, "ratio": theirs / ours}
    with capsys.disabled():
        print(f"\n{name}, {n_classes} classes: {ours:.2f} s, scikit-activeml {theirs:.2f} s, ratio {theirs / ours:.1f}")
    assert theirs / ours > asked


def test_uherding_costs_what_max_herding_does(benchmark, capsys):
    learner, rest = taught(*features(10_000, 10))
    uherding_sampling(learner, rest, 10, random_state=0)
    benchmark.pedantic(lambda: uherding_sampling(learner, rest, 10, random_state=0), rounds=2)
    plain = seconds(lambda: max_herding_sampling(learner, rest, 10, random_state=0))
    with capsys.disabled():
        print(f"\nUHerding {benchmark.stats.stats.min:.2f} s, MaxHerding {plain:.2f} s")


_LARGE = """
import sys, time
from tests.benchmarks.test_strategy_speed import features, taught
import skal.query
memory = lambda line: int(open("/proc/self/status").read().split(line)[1].split()[0]) / 1024
name, n = sys.argv[1], int(sys.argv[2])
learner, rest = taught(*features(n, 10))
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of making the data
before, start = memory("VmRSS:"), time.perf_counter()
getattr(skal.query, name)(learner, rest, 10)
print(time.perf_counter() - start, memory("VmHWM:") - before)
"""


@pytest.mark.parametrize("n", [10_000, 100_000])
@pytest.mark.parametrize(
    "strategy", [s for s, _ in STRATEGIES.values()] + [uherding_sampling], ids=lambda s: s.__name__
)
def test_memory_and_large_pools(strategy, n, capsys):
    """Less than 500 MB above the data, and 100,000 images in under a minute."""
    arguments = [sys.executable, "-c", _LARGE, strategy.__name__, str(n)]
    took, grown = map(float, subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split())
    with capsys.disabled():
        print(f"\n{strategy.__name__}, {n} images: {took:.1f} s, {grown:.0f} MiB")
    assert grown < 500 * (1e6 / 2**20)
    assert took < 60
