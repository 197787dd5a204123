"""Euclidean distances by matrix product, without cancellation errors."""

from __future__ import annotations

import numpy as np

_CANCELLED = 1e-6  # relative to the squared norms; below it, the product form has lost half of float64's digits


def euclidean_distances(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Euclidean distance between each row of `X` and each row of `Y`.

    Parameters
    ----------
    X : ndarray of shape (n, D)
    Y : ndarray of shape (m, D)

    Returns
    -------
    distances : ndarray of shape (n, m)
        float64. Equal rows have distance exactly 0, and small distances are as accurate as large ones: if the squared
        distance is small relative to the norms, it is summed directly.

    Examples
    --------
    >>> euclidean_distances(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[3.0, 4.0]]))
    array([[5.],
           [0.]])
    """
    X, Y = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    norms = (X * X).sum(axis=1)[:, None] + (Y * Y).sum(axis=1)[None, :]
    squared = norms - 2 * X @ Y.T
    rows, columns = np.nonzero(squared <= _CANCELLED * norms)
    for start in range(0, len(rows), 1024):
        i, j = rows[start : start + 1024], columns[start : start + 1024]
        squared[i, j] = ((X[i] - Y[j]) ** 2).sum(axis=1)
    return np.sqrt(squared)
