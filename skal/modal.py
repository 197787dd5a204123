"""What modAL needs to run beside current scikit-learn.

modAL passes ``force_all_finite`` to :func:`sklearn.utils.check_X_y`. scikit-learn 1.6 renamed that keyword to
``ensure_all_finite`` and 1.8 dropped the old name, so that every ``fit`` and ``teach`` raises a TypeError. Importing
skal translates the keyword; nothing else of modAL is touched, and ``modAL.models.ActiveLearner`` stays the class users
know.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import modAL.models.base
import modAL.models.learners
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_X_y


@functools.wraps(check_X_y)
def _check_X_y(*args: Any, force_all_finite: bool = True, **kwargs: Any) -> Any:
    return check_X_y(*args, ensure_all_finite=force_all_finite, **kwargs)


def repair() -> None:
    """Translate the keyword that modAL passes, where this scikit-learn has renamed it."""
    if "ensure_all_finite" in inspect.signature(check_X_y).parameters:
        for module in (modAL.models.base, modAL.models.learners):
            if hasattr(module, "check_X_y"):  # 0.4.1 checks in the first, 0.4.2 in the second
                module.check_X_y = _check_X_y


def query_result(learner: Any, indices: np.ndarray, scores: ArrayLike) -> Any:
    """What a strategy returns to this learner: indices, or these and their scores for modAL 0.4.2 and later.

    modAL 0.4.1 wants plain indices. 0.4.2 unpacks a pair, and calls the strategy a second time when it gets none.
    """
    query = getattr(type(learner), "query", None)
    wants_pair = query is not None and "return_metrics" in inspect.signature(query).parameters
    return (indices, np.asarray(scores)) if wants_pair else indices
