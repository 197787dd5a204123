"""Kendall's rank correlation tau-b for many pairs of rows at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import ArrayLike

_BLOCK = 128  # rows at a time, so that their sort keys fit the processor's cache
_SHORT = 16  # length of blocks whose pairs are compared directly; 16 * 15 / 2 fits a byte


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Kendall's tau-b of each row of `x` with the same row of `y`, exact with ties.

    Parameters
    ----------
    x, y : array-like of shape (n, K)

    Returns
    -------
    tau : ndarray of shape (n,)
        In [-1, 1]; NaN if a row is constant, as in :func:`scipy.stats.kendalltau`.

    Raises
    ------
    ValueError
        If the shapes differ or are not two-dimensional, or a value is NaN.

    Notes
    -----
    Discordant pairs are the inversions of the ranks of y in the order of (x, y). They are counted level by level as in
    a merge sort, where each level is one vectorised sort of small integers. In a merged block, the inversions follow
    from the sum of the positions of the elements from its right half.

    References
    ----------
    .. [1] Kendall. "The treatment of ties in ranking problems", Biometrika 1945.
    .. [2] Knight. "A computer method for calculating Kendall's tau with ungrouped data", JASA 1966.

    Examples
    --------
    >>> kendall_tau_b([[1, 2, 3, 4], [1, 1, 2, 3]], [[1, 2, 4, 3], [3, 2, 2, 1]]).round(3)
    array([ 0.667, -0.8  ])
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape (n, K), but got {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("x or y contains NaN, which cannot be ranked")
    if x.shape[1] < 2:
        return np.full(len(x), np.nan)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(x), _BLOCK)]
    threads = torch.get_num_threads()
    if threads == 1 or len(blocks) < 2:
        return np.concatenate([_tau_b(x[block], y[block]) for block in blocks]) if blocks else np.empty(0)
    with ThreadPoolExecutor(min(threads, len(blocks))) as pool:  # numpy releases the GIL while sorting
        return np.concatenate(list(pool.map(lambda block: _tau_b(x[block], y[block]), blocks)))


def _tau_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    K = x.shape[1]
    bits = (K - 1).bit_length()
    rank_x, rank_y = _dense_ranks(x), _dense_ranks(y)
    keys = np.sort(rank_x.astype(np.int64) << bits | rank_y, axis=1)
    sequence = (keys & ((1 << bits) - 1)).astype(np.int32)

    pairs = K * (K - 1) // 2
    tied_x = _tied_pairs(keys >> bits)
    tied_y = _tied_pairs(np.sort(rank_y, axis=1))
    tied_both = _tied_pairs(keys)
    concordant_minus_discordant = pairs - tied_x - tied_y + tied_both - 2 * _inversions(sequence)
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = concordant_minus_discordant / np.sqrt(pairs - tied_x) / np.sqrt(pairs - tied_y)
    return np.clip(tau, -1, 1)


def _dense_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value in its row, starting from 0; equal values share a rank."""
    order = np.argsort(values, axis=1)
    ascending = np.take_along_axis(values, order, axis=1)
    steps = np.zeros(values.shape, dtype=np.int32)
    np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1, out=steps[:, 1:])
    ranks = np.empty_like(steps)
    np.put_along_axis(ranks, order, steps, axis=1)
    return ranks


def _tied_pairs(ascending: np.ndarray) -> np.ndarray:
    """Number of pairs of equal values in each ascending row."""
    n, K = ascending.shape
    new = np.ones((n, K + 1), dtype=bool)
    np.not_equal(ascending[:, 1:], ascending[:, :-1], out=new[:, 1:-1])
    if np.count_nonzero(new) == new.size:
        return np.zeros(n, dtype=np.int64)
    row, start = np.nonzero(new)
    length = np.diff(start, append=0)
    length[start == K] = 0
    pairs = np.zeros(n, dtype=np.int64)
    np.add.at(pairs, row, length * (length - 1) // 2)
    return pairs


def _inversions(sequence: np.ndarray) -> np.ndarray:
    """Number of pairs i < j with sequence[i] > sequence[j] in each row; values are ranks below the row length."""
    n, K = sequence.shape
    width = 1 << (K - 1).bit_length()
    small = width <= 2**14  # a rank and one bit for its half fit 16 bits
    values = np.full((n, width), width - 1, dtype=np.int16 if small else np.int64)
    values[:, :K] = sequence
    # Within short blocks, pairs are compared directly, one pair of positions of all blocks at a time.
    half = min(_SHORT, width)
    places = np.ascontiguousarray(values.reshape(-1, half).T)
    inverted = np.zeros(places.shape[1], dtype=np.uint8)
    for i in range(half - 1):
        for j in range(i + 1, half):
            inverted += places[i] > places[j]
    total = inverted.reshape(n, -1).sum(axis=1, dtype=np.int64)
    values = np.sort(values.reshape(-1, half), axis=1).reshape(n, width)
    while half < width:
        blocks = values.reshape(n, -1, 2 * half) << 1
        blocks[:, :, half:] |= 1  # the last bit marks the right half; of equal values, the left one comes first
        blocks.sort(axis=2)
        # An element at position p, the r-th of the right half, has half - (p - r) greater elements in the left half.
        positions = np.arange(2 * half, dtype=np.float64)
        of_right = (blocks & 1).reshape(-1, 2 * half) @ positions
        per_block = half * half + half * (half - 1) // 2
        total += (per_block - of_right.reshape(n, -1)).sum(axis=1).astype(np.int64)
        values = (blocks >> 1).reshape(n, width)
        half *= 2
    return total
