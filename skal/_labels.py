"""Class labels as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Types of labels in an object array that survive a JSON round trip.
_PLAIN = (str, int, float, bool)


def encode_labels(labels: np.ndarray) -> dict[str, Any]:
    """Encode labels and their type for JSON.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        Strings, integers, floats, bools, datetime64, timedelta64, or objects that are strings or plain numbers.

    Returns
    -------
    encoded : dict
        For :func:`decode_labels`.

    Raises
    ------
    ValueError
        If labels are of any other type.

    Examples
    --------
    >>> encoded = encode_labels(np.array(["2024-01-31", "2024-02-01"], dtype="datetime64[D]"))
    >>> encoded
    {'dtype': 'datetime64[D]', 'values': [19753, 19754]}
    >>> decode_labels(encoded)
    array(['2024-01-31', '2024-02-01'], dtype='datetime64[D]')
    """
    kind = labels.dtype.kind
    if kind in "mM":
        return {"dtype": str(labels.dtype), "values": labels.astype(np.int64).tolist()}
    if kind in "biuU" or (kind == "f" and labels.dtype.itemsize <= 8):
        return {"dtype": str(labels.dtype), "values": labels.tolist()}
    values = [value.item() if isinstance(value, np.generic) else value for value in labels.tolist()]
    others = {type(value).__name__ for value in values if type(value) not in _PLAIN}
    if kind != "O" or others:
        raise ValueError(
            f"labels of type {' and '.join(sorted(others)) or labels.dtype} cannot be saved: use strings, integers, "
            "floats, bools, datetime64 or timedelta64"
        )
    return {"dtype": "object", "values": values}


def decode_labels(encoded: dict[str, Any]) -> np.ndarray:
    """Decode labels encoded by :func:`encode_labels`.

    Parameters
    ----------
    encoded : dict

    Returns
    -------
    labels : ndarray of shape (n,)
    """
    return np.array(encoded["values"], dtype=encoded["dtype"])
