"""From scores to the indices a strategy returns."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def top(scores: np.ndarray, n_instances: int, generator: np.random.RandomState | None = None) -> np.ndarray:
    """Positions of the highest scores, best first; equal scores in their order, or in one that `generator` draws.

    Examples
    --------
    >>> top(np.array([0.1, 0.7, 0.3, 0.7]), 3)
    array([1, 3, 2])
    """
    among_equals = np.arange(len(scores)) if generator is None else generator.permutation(len(scores))
    return np.lexsort((among_equals, -scores))[:n_instances]


def select_top(
    learner: Any, scores: np.ndarray, n_instances: int, generator: np.random.RandomState | None = None
) -> Any:
    """The highest scores, in the form that this learner's modAL expects."""
    indices = top(scores, n_instances, generator)
    return query_result(learner, indices, scores[indices])


def select_picks(learner: Any, picks: np.ndarray) -> Any:
    """Positions that were chosen together, not by scores of their own; modAL is given zeros."""
    return query_result(learner, picks, np.zeros(len(picks)))


def query_result(learner: Any, indices: np.ndarray, scores: ArrayLike) -> Any:
    """What a strategy returns to this learner: indices, or these and their scores for modAL 0.4.2 and later.

    modAL 0.4.1 wants plain indices. 0.4.2 unpacks a pair, and calls the strategy a second time when it gets none.
    """
    query = getattr(type(learner), "query", None)
    wants_pair = query is not None and "return_metrics" in inspect.signature(query).parameters
    return (indices, np.asarray(scores)) if wants_pair else indices
