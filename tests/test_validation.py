"""Options, counts and labels."""

import datetime

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from skal._targets import check_labels

X = np.zeros((3, 2))
NAN = float("nan")


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (["a", "b", "a"], np.array(["a", "b", "a"])),
        ([3, 1, 3], np.array([3, 1, 3])),
        ([True, False, True], np.array([True, False, True])),
        ([1, 2.0, 3], np.array([1.0, 2.0, 3.0])),
        (range(3), np.arange(3)),
        (pd.Categorical(["a", "b", "a"]), np.array(["a", "b", "a"], dtype=object)),
        (pd.Series(["a", "b", "a"]), np.array(["a", "b", "a"], dtype=object)),
        (pd.Series([3, 1, 3], dtype="Int64"), np.array([3, 1, 3])),
        (pd.Series([True, False, True], dtype="boolean"), np.array([True, False, True])),
        (np.array(["2020", "2021", "2020"], "M8[Y]"), np.array(["2020", "2021", "2020"], "M8[Y]")),
    ],
)
def test_labels_stay_what_they_are(y, expected):
    labels = check_labels(None, X, y)
    assert labels.dtype.kind == expected.dtype.kind
    assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", 1, "b"], r"y contains labels of different types, such as 'a' \(str\) and 1 \(number\)"),
        (["a", b"b", "c"], "different types"),
        ([True, 1, 2], "different types"),
        (np.array(["a", 1, 2], dtype=object), "different types"),
        (["a", NAN, "b"], r"y\[1\] is nan; drop the row"),
        (["a", None, "b"], r"y\[1\] is None"),
        ([1, None, 2], r"y\[1\] is None"),
        (pd.Series(["a", None, "b"]), r"y\[1\] is (nan|None)"),
        (pd.Series([1, pd.NA, 2], dtype="Int64"), r"y\[1\] is <NA>"),
        (pd.Categorical(["a", None, "a"]), r"y\[1\] is nan"),
        (np.array(["2020", "NaT", "2021"], "M8[D]"), r"y\[1\] is .*NaT"),
        ([1.0, 2.0, np.inf], "Input y contains infinity"),
        (np.ma.masked_equal([1, 2, 3], 2), "y is a masked array"),
        ([[1], [2, 3], [4]], "y is not an array of class labels"),
        ([["", b"\x80"]] * 3, "y is not an array of class labels"),
        ([[1, 2]] * 3, "y is not an array of class labels: y should be a 1d array"),
        ([{"a": 1}, {}, {}], "y is not an array of class labels: Unknown label type"),
        ([datetime.date(2020, 1, 1)] * 3, "y is not an array of class labels: Unknown label type"),
        ([0.5, 1.5, 2.5], "y is not an array of class labels: Unknown label type: continuous"),
        ([1.0, 2.0, 1e300], "y is not an array of class labels"),
        (np.array([1j, 2, 3]), "y is not an array of class labels"),
        (np.zeros(3, dtype=[("a", int)]), "y is not an array of class labels"),
        ((label for label in "abc"), "y is not an array of class labels"),
        ({"a", "b", "c"}, "y is not an array of class labels"),
        ("abc", "y is not an array of class labels"),
        ([1, 2], "X and y have different lengths"),
        ([], "X and y have different lengths"),
        (None, "requires y to be passed"),
    ],
)
def test_labels_that_are_none_are_named(y, message):
    with pytest.raises(ValueError, match=message):
        check_labels(None, X, y)


def test_the_argument_is_named():
    with pytest.raises(ValueError, match=r"Input y_source contains NaN or None: y_source\[1\] is None"):
        check_labels(None, X, [1, None, 2], "y_source")
    with pytest.raises(ValueError, match=r"Input y contains NaN or None: y\[2\] is nan; drop the row"):
        check_labels(None, X, np.array([1, 2, np.nan]))
    with pytest.raises(ValueError, match="X_source and y_source have different lengths"):
        check_labels(None, X, [1, 2], "y_source")


def test_bytes_are_no_labels():
    with pytest.raises(TypeError, match=r"y is not an array of class labels: .*bytes"):
        check_labels(None, X, [b"a", b"b", b"a"])
