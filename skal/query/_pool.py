"""Score a pool block by block, locally or on a Dask cluster, with identical results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils import _safe_indexing
from tqdm import tqdm

from skal.images.forms import as_data

#: Rows scored at a time. Scores do not depend on it.
BLOCK = 512


def score_pool(score: Callable[[Any], np.ndarray], X_pool: Any, *, verbose: bool = False) -> np.ndarray:
    """Score a pool of any size with a function that scores a block of its rows.

    Parameters
    ----------
    score : callable
        Maps rows of the pool to an array with one output row per row, which must not depend on the other rows. For a
        Dask array the function is sent to the workers, so it must be picklable: a bound method of an estimator, or
        ``functools.partial``.
    X_pool : array-like of length n, or dask Array
        Processed 512 rows at a time. A Dask array is processed in parallel, in its own chunks of rows.
    verbose : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    scores : ndarray of shape (n, ...)

    Examples
    --------
    >>> score_pool(lambda rows: rows.sum(axis=1), np.arange(6).reshape(3, 2))
    array([1, 5, 9])
    """
    if is_dask(X_pool):
        return _on_dask(score, X_pool)
    n = n_rows(X_pool)
    parts = []
    with tqdm(total=n, unit="row", disable=not verbose) as progress:
        for start in range(0, n, BLOCK):
            rows = np.arange(start, min(start + BLOCK, n))
            parts.append(np.asarray(score(rows_of(X_pool, rows))))
            progress.update(len(parts[-1]))
    return np.concatenate(parts)


def n_rows(X: Any) -> int:
    """Number of rows of an array, sparse matrix, data frame or list. Raises a ValueError if `X` has no length."""
    if hasattr(X, "shape"):
        return X.shape[0]
    if not hasattr(X, "__len__"):
        raise ValueError(f"images are given as a {type(X).__name__}, which has no length; pass a list or an array")
    return len(X)


def rows_of(X: Any, rows: np.ndarray) -> Any:
    """Some rows of a pool, loaded into memory if it is a Dask array."""
    return np.asarray(X[rows]) if is_dask(X) else _safe_indexing(X, rows)


def joined(parts: Sequence[Any]) -> Any:
    """Rows of several parts, in one: an array, sparse matrix or data frame, or else a list."""
    if any(sparse.issparse(part) for part in parts):
        return sparse.vstack(parts, format="csr")
    if all(isinstance(part, pd.DataFrame) for part in parts):
        return pd.concat(parts)
    # Beside parts of another form, the rows of a data frame; iterating over it would give the names of its columns.
    parts = [np.asarray(as_data(part)) if isinstance(part, pd.DataFrame) else part for part in parts]
    first = parts[0]
    if isinstance(first, np.ndarray) and (first.ndim > 1 or first.dtype != object):
        return np.concatenate(parts)
    return [row for part in parts for row in part]  # images may be of several sizes, or in tuples with their labels


def is_dask(X: Any) -> bool:
    """Whether `X` is a Dask array."""
    return type(X).__module__.startswith("dask.array")


def with_known_size(X: Any) -> Any:
    """`X`, with chunk sizes computed if it is a filtered Dask array."""
    unknown = is_dask(X) and any(np.isnan(rows) for rows in X.chunks[0])
    return X.compute_chunk_sizes() if unknown else X


def chunks_of(X: Any) -> tuple[list[Any], list[int]]:
    """The non-empty chunks of whole rows of a Dask array, as delayed arrays, and their row counts."""
    X = with_known_size(X)
    whole_rows = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    sizes = whole_rows.chunks[0]
    chunks = [chunk for chunk, rows in zip(whole_rows.to_delayed().ravel(), sizes, strict=True) if rows > 0]
    return chunks, [rows for rows in sizes if rows > 0]


def _on_dask(score: Callable[[Any], np.ndarray], X_pool: Any) -> np.ndarray:
    import dask

    send = dask.delayed(score, traverse=False)  # one node of the graph, not a copy per chunk
    parts = [send(chunk) for chunk in chunks_of(X_pool)[0]]
    return np.concatenate([np.asarray(part) for part in dask.compute(*parts)])
