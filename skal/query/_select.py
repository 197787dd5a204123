"""From scores to the indices a strategy returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from skal.modal import query_result


def top(scores: np.ndarray, n_instances: int) -> np.ndarray:
    """Positions of the highest scores, best first; of equal scores the first come first.

    Examples
    --------
    >>> top(np.array([0.1, 0.7, 0.3, 0.7]), 3)
    array([1, 3, 2])
    """
    return np.argsort(-scores, kind="stable")[:n_instances]


def select_top(learner: Any, scores: np.ndarray, n_instances: int) -> Any:
    """The highest scores, in the form that this learner's modAL expects."""
    return query_result(learner, top(scores, n_instances), scores)
