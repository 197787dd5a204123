"""The labels a classifier is fitted on: one check for every estimator."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d


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
