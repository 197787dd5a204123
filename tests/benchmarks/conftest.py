"""What the benchmarks share."""

import os
import time

import pytest
import torch
from threadpoolctl import threadpool_limits


@pytest.fixture
def all_threads():
    """As many threads as the machine has processors, as outside the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    with threadpool_limits(os.cpu_count(), "blas"):
        yield
    torch.set_num_threads(before)


def seconds(call, repeats=1):
    """The least time that a call takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
