"""What holds for tests and doctests alike."""

import os

# Two processes on two cores, each with one thread. Before the first import of a library that starts threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


def pytest_xdist_auto_num_workers(config):
    """Two processes run the whole suite; a file or a test runs where it was called, without their start."""
    return 2 if config.args_source is config.ArgsSource.TESTPATHS else 0


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    """A network that a doctest makes without a word about its weights has the same ones in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
