"""The forms of ``X``: arrays, file paths, and pools that pass whole."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Pool:
    """Images that are passed whole, whatever happens to ``X``.

    scikit-learn's searches cut every array that is as long as ``X`` to the rows of a fold, silently. A `Pool` has no
    length, no shape and no ``__array__``, so they hand it on as it is.

    Parameters
    ----------
    images : array-like
        Images, or anything else with a row per image, such as labels.

    Attributes
    ----------
    images : array-like

    Examples
    --------
    >>> hasattr(Pool(np.zeros((3, 2))), "__len__")
    False
    """

    def __init__(self, images: Any):
        self.images = images

    def __repr__(self) -> str:
        return f"Pool({type(self.images).__name__} of {len(self.images)} rows)"


def unwrap(X: Any) -> Any:
    """What is in a :class:`Pool`; anything else as it is."""
    return X.images if isinstance(X, Pool) else X


def as_data(X: Any) -> Any:
    """`X` with rows that can be indexed: lists become arrays, and file paths an array of strings."""
    X = unwrap(X)
    paths = as_paths(X)
    if paths is not None:
        return paths
    if isinstance(X, (list, tuple)):
        try:
            return np.asarray(X)
        except ValueError as error:
            raise ValueError("images of different sizes cannot be one array; pass their files as paths") from error
    return X


def is_images(X: Any) -> bool:
    """Whether `X` (see :func:`as_data`) is images rather than 2-D features."""
    return len(getattr(X, "shape", ())) >= 3 or as_paths(X) is not None


def as_paths(X: Any) -> np.ndarray | None:
    """`X` as a 1-D array of file paths, or None if it is none."""
    if isinstance(X, (str, os.PathLike)):
        raise ValueError(f"X is the single path {str(X)!r}; pass a list of image files")
    if isinstance(X, np.ndarray) and (X.ndim != 1 or X.dtype.kind not in "OUT"):
        return None
    if not isinstance(X, (list, tuple, np.ndarray)) and type(X).__name__ != "Series":
        return None
    items = list(X)
    if not items or not all(isinstance(item, (str, os.PathLike)) for item in items):
        return None
    return np.array([os.fspath(item) for item in items])
