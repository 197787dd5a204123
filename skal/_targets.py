"""Validation of labels and weights."""

from __future__ import annotations

import math
import warnings
from numbers import Number, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d


def check_labels(estimator: Any, X: Any, y: Any, name: str = "y") -> np.ndarray:
    """Class labels (n,) as an array, with unchanged values.

    Parameters
    ----------
    estimator : object
        Named in the message if there are no labels.
    X : array-like of length n
    y : array-like of shape (n,)
    name : str, default="y"
        Name of the argument that holds the labels. That of `X` has the same ending: "X_source" for "y_source".

    Raises
    ------
    ValueError or TypeError
        If labels are missing, of several kinds, not classes, not finite or not as many as `X`.
    """
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires {name} to be passed, but the target {name} is None")
    y = _as_given(y, name)
    try:
        labels: np.ndarray = column_or_1d(y, warn=True)
        if labels.dtype.kind in "Vc":
            raise ValueError(f"labels of type {labels.dtype} are not supported; use strings or numbers")
        if len(labels) and isinstance(labels[0], bytes):  # scikit-learn before 1.7 takes them, with a warning
            raise TypeError(f"labels such as {labels[0]!r} are bytes; decode them, e.g. [k.decode() for k in y]")
        assert_all_finite(labels, input_name=name)
        with warnings.catch_warnings():
            # With few labels of many classes, most labels differ. This is the usual case for skal.
            warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
            warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)  # from 1e300
            check_classification_targets(labels)
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} is not an array of class labels: {error}") from error
    try:
        check_consistent_length(X, labels)
    except ValueError as error:
        raise ValueError(f"X{name[1:]} and {name} have different lengths: {error}") from error
    return labels


def _as_given(y: Any, name: str) -> Any:
    """Labels, checked before NumPy converts them to text.

    Raises a ValueError if one is missing or they are of several kinds.
    """
    if np.ma.is_masked(y):
        raise ValueError(f"{name} is a masked array; drop the rows without a label")
    dtype = getattr(y, "dtype", None)
    is_nullable = isinstance(dtype, pd.api.extensions.ExtensionDtype)
    is_mixable = isinstance(dtype, np.dtype) and dtype.kind in "OmMf" and np.ndim(y) == 1
    values = list(y) if isinstance(y, (list, tuple)) or is_nullable or is_mixable else []
    kinds: dict[str, Any] = {}
    for i, label in enumerate(values):
        is_single = np.isscalar(label) or label is pd.NA or label is pd.NaT
        if label is None or (is_single and pd.isna(label)):
            raise ValueError(
                f"Input {name} contains NaN or None: {name}[{i}] is {label}; drop the row or give it a label"
            )
        kinds.setdefault(_kind(label), label)
    if len(kinds) > 1:
        named = " and ".join(f"{label!r} ({kind})" for kind, label in list(kinds.items())[:2])
        raise ValueError(
            f"{name} contains labels of different types, such as {named}; convert them, e.g. [str(k) for k in y]"
        )
    # scikit-learn would convert pandas's nullable integers to floats.
    number = getattr(dtype, "numpy_dtype", None)
    return y.to_numpy(dtype=number) if is_nullable and number is not None and values else y


def _kind(label: Any) -> str:
    for name, kind in (("str", str), ("bytes", bytes), ("bool", (bool, np.bool_)), ("number", (Number, np.number))):
        if isinstance(label, kind):
            return name
    return type(label).__name__


def dtype_kind(labels: np.ndarray) -> str:
    """Kind of all labels of an array. Labels of different kinds are not classes of one task.

    Examples
    --------
    >>> dtype_kind(np.array(["a"])), dtype_kind(np.array([1.0])), dtype_kind(np.array([True]))
    ('text', 'number', 'bool')
    """
    kinds = {"b": "bool", "M": "time", "m": "duration"} | dict.fromkeys("iuf", "number")
    return kinds.get(labels.dtype.kind, "text")


def check_class_weight(class_weight: Any) -> None:
    """Raise a ValueError that names the first weight of a dict that is not a finite number of at least 0."""
    weights = class_weight if isinstance(class_weight, dict) else {}
    for label, weight in weights.items():
        if not isinstance(weight, Real) or not 0 <= float(weight) < math.inf:
            raise ValueError(f"class_weight[{label!r}] is {weight!r}, which is not a finite number of at least 0")


def check_sample_weight(sample_weight: Any, y: np.ndarray) -> np.ndarray | None:
    """Sample weights (n,) as an array.

    Raises a ValueError if they are negative, all 0, not finite or not as many as `y`.
    """
    if sample_weight is None:
        return None
    weights: np.ndarray = _check_sample_weight(sample_weight, y, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"sample_weight contains {weights.min()}, but weights must be at least 0")
    if not weights.any():
        raise ValueError("sample_weight is 0 for every row; at least one weight must be greater than 0")
    return weights
