"""Checks of options, counts and labels, made before any work."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d


def check_options(**options: tuple[Any, tuple[Any, ...]]) -> None:
    """Raise a ValueError that names the first option that is not one of those allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {allowed}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not an integer of at least {least}")


def check_labels(estimator: Any, X: Any, y: Any) -> np.ndarray:
    """Class labels (n,) as an array; a ValueError if they are missing, no classes, not finite or not as many as `X`."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    labels: np.ndarray = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_consistent_length(X, labels)
    with warnings.catch_warnings():
        # With few labels of many classes, most of them are different: that is what skal is for.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        check_classification_targets(labels)
    return labels


def check_sample_weight(sample_weight: Any, y: np.ndarray) -> np.ndarray | None:
    """Weights (n,) of rows as an array; a ValueError if they are negative, all 0, not finite or not as many as `y`."""
    if sample_weight is None:
        return None
    weights: np.ndarray = _check_sample_weight(sample_weight, y, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"sample_weight holds {weights.min()}, but a weight is at least 0")
    if not weights.any():
        raise ValueError("sample_weight is 0 for every row: there is nothing to learn from, not even a class")
    return weights
