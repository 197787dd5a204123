"""Retrieval by symmetric KL divergence beside the two matrix products it cannot do without, and the direct sum.

500 queries at 35,200 dimensions (352 filters of 100 bins, as of AlexNet's first two layers) against `_SOURCE` rows; the
time is proportional to them.
"""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from skal.selective import SymmetricKLNeighbors
from tests.benchmarks.conftest import seconds

pytestmark = pytest.mark.usefixtures("all_threads")

_SOURCE = 20_000
_QUERIES = 500
_FILTERS, _BINS = 352, 100


def histograms(base, n, rng, spread):
    """Histograms that scatter around a common one, with a few empty bins."""
    made = np.empty((n, base.size), np.float32)
    for start in range(0, n, 500):
        rows = made[start : start + 500]
        rows[:] = np.abs(base * (1 + spread * rng.standard_normal(rows.shape, dtype=np.float32)))
        rows *= rng.random(rows.shape, dtype=np.float32) > 0.05
        of_filters = rows.reshape(len(rows), _FILTERS, _BINS)
        of_filters /= of_filters.sum(axis=2, keepdims=True)
    return made


def peak_mib():
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


def test_retrieval(benchmark, capsys):
    rng = np.random.default_rng(0)
    base = rng.dirichlet(np.ones(_BINS), _FILTERS).astype(np.float32).ravel()
    source, queries = histograms(base, _SOURCE, rng, 0.7), histograms(base, _QUERIES, rng, 0.7)
    weights = np.full(base.size, 1 / _FILTERS)
    search = SymmetricKLNeighbors(100, weights=weights).fit(source)
    before = peak_mib()
    benchmark.pedantic(lambda: search.kneighbors(queries), rounds=1)
    grown, ours = peak_mib() - before, benchmark.stats.stats.min
    P = torch.from_numpy(queries)

    def products():
        for start in range(0, _SOURCE, 1000):
            block = torch.from_numpy(source[start : start + 1000])
            P @ block.T
            P @ block.T

    two = seconds(products)

    def by_filter():
        p, q = queries[0].reshape(_FILTERS, _BINS), source[0].reshape(_FILTERS, _BINS)
        return sum(
            entropy(a + 2.220446e-16, b + 2.220446e-16) + entropy(b + 2.220446e-16, a + 2.220446e-16)
            for a, b in zip(p, q, strict=True)
        )

    def at_once():
        p, q = queries[0].astype(np.float64), source[0].astype(np.float64)
        return (weights * (p - q) * (np.log(p + 2.220446e-16) - np.log(q + 2.220446e-16))).sum()

    direct, plain = (seconds(lambda call=call: [call() for _ in range(20)]) / 20 for call in (by_filter, at_once))
    a_pair = ours / (_SOURCE * _QUERIES)
    with capsys.disabled():
        print(
            f"\n{ours:.1f} s, {a_pair * 1e6:.2f} us a pair; two products {two:.1f} s, ratio {ours / two:.2f}; "
            f"{direct / a_pair:.0f} x a sum filter by filter ({direct * 1e6:.0f} us), {plain / a_pair:.0f} x one numpy "
            f"expression a pair ({plain * 1e6:.0f} us); {grown:.0f} MiB above the data"
        )
    assert ours / two < 1.5
    assert direct / a_pair > 300
    assert grown < 500
