"""What scoring costs, as ratios measured side by side: ``pytest tests/benchmarks``."""

import time

import numpy as np
import pytest
from modAL.models import ActiveLearner
from scipy.stats import kendalltau

from skal import FrozenPrefixClassifier, Query, SourceProfile, adma_sampling
from skal.features.cache import CACHE
from skal.numerics.kendall import kendall_tau_b
from tests.benchmarks.conftest import seconds

pytestmark = pytest.mark.usefixtures("all_threads")


@pytest.mark.parametrize("K", [100, 1000])
def test_tau_b_against_scipy(benchmark, K, capsys):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, K)), rng.normal(size=(2000, K))
    kendall_tau_b(x, y)
    benchmark.pedantic(lambda: kendall_tau_b(x, y), rounds=5)
    ours = benchmark.stats.stats.min / 2000
    scipy = seconds(lambda: [kendalltau(a, b).statistic for a, b in zip(x[:200], y[:200], strict=True)], 3) / 200
    benchmark.extra_info |= {"us_per_row": ours * 1e6, "scipy_us_per_row": scipy * 1e6, "ratio": scipy / ours}
    with capsys.disabled():
        print(f"\ntau-b, K = {K}: {ours * 1e6:.0f} us a row, scipy {scipy * 1e6:.0f}, ratio {scipy / ours:.1f}")


def test_adma_query_against_a_forward_pass(benchmark, monkeypatch, capsys):
    """2,000 images, 1,000 centres, MobileNetV2 at 129 px with random weights: its speed is that of the trained one."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, 255, size=(1000, 129, 129, 3), dtype=np.uint8)
    pool = rng.integers(0, 255, size=(2000, 129, 129, 3), dtype=np.uint8)
    profile = SourceProfile("mobilenet_v2", weights=None, image_size=129).fit(source, np.arange(1000))
    net = FrozenPrefixClassifier(
        "mobilenet_v2", weights=None, image_size=129, source=profile, random_state=0, max_epochs=1
    )
    learner = ActiveLearner(net, query_strategy=Query(adma_sampling, batch="top"))
    learner.teach(pool[:20], np.arange(20) % 10)
    CACHE.clear()
    forward = seconds(lambda: net.predict(pool))

    passes = []
    for name in ("activations", "predict_proba"):
        original = getattr(FrozenPrefixClassifier, name)

        def timed(self, *args, original=original, **kwargs):
            start = time.perf_counter()
            try:
                return original(self, *args, **kwargs)
            finally:
                passes.append(time.perf_counter() - start)

        monkeypatch.setattr(FrozenPrefixClassifier, name, timed)
    learner.query(pool, n_instances=10)
    passes.clear()
    benchmark.pedantic(lambda: learner.query(pool, n_instances=10), rounds=3)
    query = benchmark.stats.stats.mean
    scoring = query - sum(passes) / 3
    benchmark.extra_info |= {"forward": forward, "query": query, "scoring": scoring, "ratio": scoring / forward}
    with capsys.disabled():
        print(
            f"\nforward pass {forward:.2f} s, warm query {query:.2f} s ({query / forward:.2f} of it), "
            f"of which scoring {scoring:.2f} s ({scoring / forward:.3f})"
        )
