"""A query by discrepancy of a large pool: 50,000 images with 256 features against 10,000 of the source."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skal.query import discrepancy_coreset_sampling, mmd_sampling

pytestmark = pytest.mark.usefixtures("all_threads")


def peak_mib():
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling], ids=lambda s: s.__name__)
def test_a_large_pool(strategy, capsys):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(50_000, 256)).astype(np.float32)
    source = rng.normal(size=(10_000, 256)).astype(np.float32) + 0.3
    before, start = peak_mib(), time.perf_counter()
    strategy(LogisticRegression(), pool, 10, X_source=source)
    took, grown = time.perf_counter() - start, peak_mib() - before
    with capsys.disabled():
        print(f"\n{strategy.__name__}: {took:.1f} s, {grown:.0f} MiB above the data")
    assert took < 60
    assert grown < 500
