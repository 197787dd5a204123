"""Label propagation over a neighbour graph, and class shares estimated from predictions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from skal._validation import check_count

_ROWS = 1024  # in a block of similarities
_SHARPNESS = 3  # power of the cosine: near neighbours count more
_TOLERANCE = 1e-4  # of the scores of a class, relative to its largest seed
_ROUNDING = 1e-12  # least residual, relative to the largest seed


def propagate(X: ArrayLike, seeds: ArrayLike, *, n_neighbors: int = 15, alpha: float = 0.9) -> np.ndarray:
    """Propagate labels over the nearest-neighbour graph (local and global consistency).

    F = (1 - alpha) (I - alpha S)^-1 Y with S = D^-1/2 W D^-1/2: each point combines the scores of its neighbours with a
    share 1 - alpha of its own seed (section 2 of [1]_). The weight of an edge is the cube of the cosine (section 3.1 of
    [2]_).

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        Features, compared by cosine similarity. Subtract the mean of the pool first, so that components common to all
        points do not count.
    seeds : array-like of shape (n, n_classes)
        Initial score of each class; 0 where nothing is known.
    n_neighbors : int, default=15
        Each point is connected to this many nearest neighbours, and to all points that have it among theirs.
    alpha : float, default=0.9
        Share of a point's score that comes from its neighbours, at least 0 and below 1.

    Returns
    -------
    scores : ndarray of shape (n, n_classes)
        float64, non-negative. Points that are not connected to a seed have 0. Neighbours are found in blocks, with
        n * 1024 similarities in memory at a time.

    Raises
    ------
    ValueError
        If a parameter is out of range, the lengths differ, or seeds are negative.

    References
    ----------
    .. [1] Zhou, Bousquet, Lal, Weston, Schölkopf. "Learning with local and global consistency", NIPS 2003.
    .. [2] Iscen, Tolias, Avrithis, Chum. "Label propagation for deep semi-supervised learning", CVPR 2019.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> seeds = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> propagate(X, seeds, n_neighbors=1).argmax(axis=1)
    array([0, 0, 1, 1])
    """
    check_count("n_neighbors", n_neighbors)
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha!r} must be at least 0 and below 1")
    seeds = np.asarray(seeds, dtype=np.float64)
    points = torch.as_tensor(np.asarray(X, dtype=np.float32))
    if seeds.ndim != 2 or points.ndim != 2 or len(seeds) != len(points):
        raise ValueError(
            f"X and seeds must be 2-D and of equal length, but have shapes {tuple(points.shape)} and {seeds.shape}"
        )
    if (seeds < 0).any():
        raise ValueError(f"seeds contains {seeds.min()}, but values must be at least 0")
    return spread(neighbor_graph(points, n_neighbors), seeds, alpha)


def nearest_neighbors(X: torch.Tensor, n_neighbors: int, n_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and positions (n_rows, n_neighbors) of the nearest neighbours of the first rows, in blocks of rows."""
    X = torch.nn.functional.normalize(X, dim=1)
    blocks = []
    for start in range(0, n_rows, _ROWS):
        similar = X[start : min(start + _ROWS, n_rows)] @ X.T
        own = torch.arange(len(similar))
        similar[own, start + own] = -torch.inf
        blocks.append(similar.topk(n_neighbors, dim=1))
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def neighbor_graph(X: torch.Tensor, n_neighbors: int) -> sparse.csr_array:
    """Symmetric, normalised weights S (n, n) of the nearest-neighbour graph by cosine similarity."""
    n, k = len(X), min(n_neighbors, len(X) - 1)
    if k < 1:
        return sparse.csr_array((n, n))
    cosines, nearest = nearest_neighbors(X, k, n)
    where = (np.repeat(np.arange(n), k), nearest.flatten().numpy())
    weights = (cosines.clamp(min=0) ** _SHARPNESS).flatten().double().numpy()
    W = sparse.csr_array((weights, where), shape=(n, n))
    W = W.maximum(W.T)
    degree = np.asarray(W.sum(axis=1)).ravel()
    scale = sparse.diags_array(np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0))
    return sparse.csr_array(scale @ W @ scale)


def spread(S: sparse.csr_array, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """The fixed point of F = alpha S F + (1 - alpha) seeds, by Chebyshev's semi-iterative method.

    The eigenvalues of S lie between -1 and 1, so the error shrinks by (1 - sqrt(1 - alpha^2)) / alpha per step: for
    alpha = 0.9 by .63, where repeated substitution has .9.

    References
    ----------
    .. [1] Golub, Varga. "Chebyshev semi-iterative methods, successive overrelaxation iterative methods, and second
       order Richardson iterative methods", Numerische Mathematik 3, 1961.
    """
    given = (1 - alpha) * seeds
    # The error is at most the residual / (1 - alpha), and rounding leaves a residual.
    enough = max(_TOLERANCE * (1 - alpha) ** 2, _ROUNDING) * seeds.max(axis=0, initial=0)
    before, scores, factor = given, alpha * (S @ given) + given, 2.0
    while True:
        change = alpha * (S @ scores) + given - scores
        if not (np.linalg.norm(change, axis=0) > enough).any():  # NaN ends it too
            return np.maximum(scores, 0)
        factor = 4 / (4 - alpha**2 * factor)
        before, scores = scores, before + factor * (scores + change - before)


def align(proba: ArrayLike, *, prior: ArrayLike | None = None, n_prior: float = 0.0) -> np.ndarray:
    """Adjust class probabilities to the class shares among the given rows.

    A classifier that was trained on balanced classes assumes that all are equally frequent. The shares are estimated
    from its probabilities by expectation maximisation (equation 2.2 of [1]_), here with a prior: the result maximises
    the posterior of the shares under a Dirichlet distribution, which acts like `n_prior` additional rows with the
    shares of `prior`.

    Parameters
    ----------
    proba : array-like of shape (n, n_classes)
        Rows that sum to 1.
    prior : array-like of shape (n_classes,), default=None
        Class shares assumed by `proba`. None means equal shares.
    n_prior : float, default=0.0
        Number of rows that the prior counts as.

    Returns
    -------
    aligned : ndarray of shape (n, n_classes)
        Rows sum to 1. If `n_prior` is 0, their mean is the estimated shares.

    Raises
    ------
    ValueError
        If shares are not positive or do not fit `proba`, or `n_prior` is negative.

    References
    ----------
    .. [1] Saerens, Latinne, Decaestecker. "Adjusting the outputs of a classifier to new a priori probabilities: a
       simple procedure", Neural Computation 14(1), 2002.

    Examples
    --------
    More rows look like the first class than like the second, so an ambiguous row is more likely of the first:

    >>> align([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], n_prior=4).round(2)
    array([[0.92, 0.08],
           [0.92, 0.08],
           [0.57, 0.43],
           [0.13, 0.87]])
    """
    P = np.asarray(proba, dtype=np.float64)
    if P.ndim != 2:
        raise ValueError(f"proba has shape {P.shape}, but must have shape (n, C)")
    before = np.full(P.shape[1], 1 / max(P.shape[1], 1)) if prior is None else np.asarray(prior, dtype=np.float64)
    if before.shape != (P.shape[1],) or not (before > 0).all():
        raise ValueError(f"prior={prior!r} must contain one positive number for each of {P.shape[1]} classes")
    if n_prior < 0:
        raise ValueError(f"n_prior={n_prior!r} must be at least 0")
    if len(P) == 0:
        return P
    shares = before = before / before.sum()
    while True:
        aligned = P * (shares / before)
        aligned /= aligned.sum(axis=1, keepdims=True)
        after = (aligned.sum(axis=0) + n_prior * before) / (len(P) + n_prior)
        if not np.abs(after - shares).max() >= 1e-6:  # NaN ends it too
            return aligned
        shares = after
