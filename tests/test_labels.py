"""Class labels survive JSON."""

import datetime
import json

import numpy as np
import pytest

from skal._labels import decode_labels, encode_labels


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "née", "日本"]),
        np.array([3, -1], dtype=np.int16),
        np.array([2**63], dtype=np.uint64),
        np.array([0.1, -2.5]),
        np.array([0.1], dtype=np.float32),
        np.array([False, True]),
        np.array(["2024-02-29", "1969-12-31"], dtype="datetime64[D]"),
        np.array(["2024-02-29T12:34:56.789"], dtype="datetime64[ns]"),
        np.array([-3, 90], dtype="timedelta64[m]"),
        np.array([1, 2], dtype="timedelta64[25s]"),
        np.array(["a", "bcd"], dtype=object),
        np.array([1, True], dtype=object),
        np.array([np.int64(4), 2.5], dtype=object),
        np.array([], dtype="<U1"),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_come_back_with_their_type(labels):
    decoded = decode_labels(json.loads(json.dumps(encode_labels(labels))))
    assert decoded.dtype == labels.dtype
    np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize(
    "labels", [np.array([datetime.date(2024, 1, 1)], object), np.array([1j]), np.array([b"a"]), np.array([None])]
)
def test_other_labels_are_refused_by_name(labels):
    with pytest.raises(ValueError, match=r"labels of type \w+ cannot be saved: use strings"):
        encode_labels(labels)
