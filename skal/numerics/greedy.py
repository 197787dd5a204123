"""Greedy choices from many points: farthest first, D² sampling, and coverage, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

_ROWS = 1024  # points of a block of pairs
_KEPT = 400 << 20  # bytes up to which the similarities of all pairs are kept: 10,000 points in single precision
_AT_ONCE = 64  # candidates whose gains are computed anew at a time


def squared_distances(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances (n, m) of the rows of two tensors, not below 0."""
    norms = (X * X).sum(1)[:, None] + (Y * Y).sum(1)
    return norms.addmm_(X, Y.T, alpha=-2).clamp_(min=0)


def nearest_squared(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Squared distance (n,) of each row of `X` from the nearest row of `Y`; infinite where `Y` is empty."""
    if len(Y) == 0:
        return X.new_full((len(X),), torch.inf)
    return torch.cat([squared_distances(rows, Y).amin(1) for rows in X.split(_ROWS)])


def farthest_first(X: torch.Tensor, n_picks: int, nearest: torch.Tensor, first: int | None = None) -> np.ndarray:
    """k-centre greedy: repeatedly the point farthest from those chosen before.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    n_picks : int
    nearest : Tensor of shape (n,)
        Squared distance from the nearest centre that is there already.
    first : int, default=None
        The first pick, where there is no centre yet.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct rows; of equally far ones the first.

    References
    ----------
    .. [1] Sener, Savarese. "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
       Algorithm 1.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    >>> farthest_first(X, 3, nearest_squared(X, X[:1]))
    array([3, 2, 1])
    """
    norms = (X * X).sum(1)
    nearest = nearest.clone()
    picks: list[int] = []
    for _ in range(n_picks):
        pick = first if first is not None and not picks else int(nearest.argmax())
        picks.append(pick)
        nearest = torch.minimum(nearest, (norms + norms[pick] - 2 * (X @ X[pick])).clamp_(min=0))
        nearest[picks] = -1
    return np.array(picks)


def d2_sampling(
    inner: Callable[[int], torch.Tensor], norms: torch.Tensor, n_picks: int, generator: np.random.RandomState
) -> np.ndarray:
    """k-means++ seeding: the point of largest norm, then each with a probability proportional to D².

    Parameters
    ----------
    inner : callable
        Inner products (n,) of all points with one of them.
    norms : Tensor of shape (n,)
        Squared norms.
    n_picks : int
    generator : RandomState
        One number is drawn for each pick after the first.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct; where all points left coincide with chosen ones, any.

    References
    ----------
    .. [1] Arthur, Vassilvitskii. "k-means++: the advantages of careful seeding", SODA 2007, section 2.2.
    """
    nearest = torch.full_like(norms, torch.inf, dtype=torch.float64)
    picks = [int(norms.argmax())]
    while len(picks) < n_picks:
        last = picks[-1]
        nearest = torch.minimum(nearest, (norms + norms[last] - 2 * inner(last)).clamp_(min=0).double())
        nearest[picks] = 0
        weights = nearest
        if not float(weights.sum()) > 0:
            weights = torch.ones_like(nearest)
            weights[picks] = 0
        sums = weights.cumsum(0).cpu().numpy()
        picks.append(int(np.searchsorted(sums, generator.random_sample() * sums[-1], side="right")))
    return np.array(picks)


def greedy_coverage(
    X: torch.Tensor,
    n_picks: int,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor | None = None,
    covered: torch.Tensor | None = None,
) -> np.ndarray:
    """Repeatedly the point that adds most to the coverage of all points.

    The coverage of a point x is the largest similarity k(x, c) to a chosen c. A candidate c adds
    ``sum_x w(x) max(k(x, c) - covered(x), 0)``. What it adds never grows, so after one pass over all pairs only those
    candidates are computed anew that may still be best.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    n_picks : int
    kernel : callable
        From squared distances to similarities in [0, 1]; may work in place.
    weights : Tensor of shape (n,), default=None
        Of the points to be covered, at least 0.
    covered : Tensor of shape (n,), default=None
        Coverage by what is chosen already.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct; of equally good ones the first.

    References
    ----------
    .. [1] Bae, Noh, Choi, Sutherland. "Generalized coverage for more robust low-budget active learning", ECCV 2024,
       section 3.
    .. [2] Minoux. "Accelerated greedy algorithms for maximizing submodular set functions", 1978.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [0.1], [5.0], [5.1], [5.2], [9.0]])
    >>> greedy_coverage(X, 2, lambda squared: (squared <= 0.04).to(squared.dtype))
    array([2, 0])
    """
    n = len(X)
    weights = X.new_ones(n) if weights is None else weights.to(X.dtype)
    covered = X.new_zeros(n) if covered is None else covered.to(X.dtype).clone()
    kept = X.new_empty(n, n) if n * n * X.itemsize <= _KEPT else None
    bounds = _all_gains(X, kernel, weights, covered, kept)
    picks: list[int] = []
    while len(picks) < n_picks:
        exact = torch.zeros(n, dtype=torch.bool, device=X.device)
        exact |= not picks  # the first pass is exact
        while not bool(exact[best := int(bounds.argmax())]):
            again = torch.where(exact, -torch.inf, bounds).topk(min(_AT_ONCE, n)).indices
            bounds[again] = _gains(X, again, kernel, weights, covered, kept)
            bounds[picks] = -torch.inf
            exact[again] = True
        picks.append(best)
        covered = torch.maximum(covered, kernel(squared_distances(X, X[best : best + 1]))[:, 0])
        bounds[best] = -torch.inf
    return np.array(picks)


def _gains(
    X: torch.Tensor,
    candidates: torch.Tensor,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    covered: torch.Tensor,
    kept: torch.Tensor | None,
) -> torch.Tensor:
    """What some candidates add."""
    if kept is not None:
        return (kept[candidates].sub_(covered).clamp_(min=0) @ weights).double()
    total = torch.zeros(len(candidates), dtype=torch.float64, device=X.device)
    for rows, weight, before in zip(
        X.split(16 * _ROWS), weights.split(16 * _ROWS), covered.split(16 * _ROWS), strict=True
    ):
        similarity = kernel(squared_distances(rows, X[candidates]))
        total += (weight @ similarity.sub_(before[:, None]).clamp_(min=0)).double()
    return total


def _all_gains(
    X: torch.Tensor,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    covered: torch.Tensor,
    kept: torch.Tensor | None,
) -> torch.Tensor:
    """What every point adds, from each pair once; `kept` (n, n) is filled with the similarities."""
    total = torch.zeros(len(X), dtype=torch.float64, device=X.device)
    nothing_covered = not bool(covered.any())
    starts = range(0, len(X), _ROWS)
    for i in starts:
        own = slice(i, i + _ROWS)
        for j in range(i, len(X), _ROWS):
            other = slice(j, j + _ROWS)
            similarity = kernel(squared_distances(X[own], X[other]))
            if kept is not None:
                kept[own, other] = similarity
                kept[other, own] = similarity.T
            if nothing_covered:
                total[other] += weights[own] @ similarity
                if i != j:
                    total[own] += similarity @ weights[other]
                continue
            total[other] += weights[own] @ (similarity - covered[own][:, None]).clamp_(min=0)
            if i != j:
                total[own] += similarity.sub_(covered[other]).clamp_(min=0) @ weights[other]
    return total
