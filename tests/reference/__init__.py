"""Plain versions of the equations as written in the papers: loops and full matrices, regardless of speed.

A strategy that chooses from features and probabilities has a ``ref_NAME(query)`` here, with which
tests/test_strategies.py compares it. `ALTERNATIVES` lists non-default values for every keyword of a strategy.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

import numpy as np


class PlainQuery(NamedTuple):
    """Input of a plain strategy: features of pool and labelled rows, labels, probabilities of the pool or None."""

    pool: np.ndarray
    labelled: np.ndarray
    y: np.ndarray
    proba: np.ndarray | None
    n: int
    generator: np.random.RandomState
    model: Any


class Given(str):
    """The name of a value that the suite creates: images, labels or a profile."""


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def read_from_mean(pool, labelled):
    """Pool and labelled features scaled to length 1, centred on their common mean, and scaled to length 1 again."""
    X = unit(np.concatenate([pool, labelled]))
    X = X - X.mean(axis=0)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    return X[: len(pool)], X[len(pool) :]


def pairwise(X, Y):
    """Squared distances of all pairs."""
    return ((X[:, None] - Y[None]) ** 2).sum(axis=2)


def indices_of(strategy):
    """The strategy called directly, returning only indices even with modAL 0.4.2, which expects scores too."""

    def call(*args, **kwargs):
        result = strategy(*args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    return call


def plain_versions():
    """Plain strategies by name, and alternative values of keywords by strategy."""
    versions, alternatives = {}, {}
    for module in sorted(one.name for one in iter_modules(__path__)):
        content = vars(import_module(f"{__name__}.{module}"))
        versions |= {name[4:]: value for name, value in content.items() if name.startswith("ref_")}
        alternatives |= content.get("ALTERNATIVES", {})
    return versions, alternatives
