"""Greedy selection from many points: farthest first and D² sampling, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from skal.numerics.points import Points

_AT_ONCE = 64  # points whose distances are updated at a time


def squared_distances(
    X: torch.Tensor, Y: torch.Tensor, X_norms: torch.Tensor | None = None, Y_norms: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared Euclidean distances (n, m) of the rows of two tensors, non-negative; squared norms may be given."""
    X_norms = squared_norms(X) if X_norms is None else X_norms
    Y_norms = squared_norms(Y) if Y_norms is None else Y_norms
    return (X_norms[:, None] + Y_norms).addmm_(X, Y.T, alpha=-2).clamp_(min=0)


def squared_norms(X: torch.Tensor) -> torch.Tensor:
    """Squared norm (n,) of each row."""
    return Points([X]).norms()


def nearest_squared(X: Points | torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Squared distance (n,) of each row of `X` from the nearest row of `Y`; infinite if `Y` is empty."""
    if len(Y) == 0:
        return Y.new_full((len(X),), torch.inf)
    return Points.of(X).each(partial(_nearest, Y=Y, norms=squared_norms(Y)))


def farthest_first(X: Points | torch.Tensor, n_picks: int, centers: torch.Tensor, first: int = 0) -> np.ndarray:
    """k-centre greedy: repeatedly pick the point farthest from those chosen before.

    Parameters
    ----------
    X : Points or Tensor of shape (n, D)
    n_picks : int
    centers : Tensor of shape (m, D)
        Existing centres.
    first : int, default=0
        The first pick if there are no centres.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct rows. Of equally far rows, the first is picked.

    References
    ----------
    .. [1] Sener, Savarese. "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
       Algorithm 1.

    Examples
    --------
    >>> X = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    >>> farthest_first(X, 3, X[:1])
    array([3, 2, 1])
    """
    X = Points.of(X)
    picks = [] if len(centers) else [first]
    centers = X[picks] if picks else centers
    norms, nearest = X.each(partial(_norm_and_nearest, Y=centers, Y_norms=squared_norms(centers))).T.contiguous()
    nearest[picks] = -1
    chosen, chosen_norms = centers.new_empty(n_picks, centers.shape[1]), norms.new_empty(n_picks)
    chosen[: len(picks)], chosen_norms[: len(picks)] = centers[: len(picks)], norms[picks]
    # `nearest` takes only the first `seen` picks into account. Later picks can only decrease it, so only the farthest
    # points are updated.
    seen = torch.full((len(X),), len(picks), device=norms.device)
    while (n := len(picks)) < n_picks:
        while (least := int(seen[best := int(nearest.argmax())])) < n:
            again = torch.where(seen < n, nearest, -torch.inf).topk(min(_AT_ONCE, len(X))).indices
            again[-1] = best  # topk does not specify which of equal distances it returns
            again = again[seen[again] >= least]
            to_picks = squared_distances(X[again], chosen[least:n], norms[again], chosen_norms[least:n])
            nearest[again] = torch.fmin(nearest[again], to_picks.amin(1))  # a pick stays at -1
            seen[again] = n
        chosen[n], chosen_norms[n], nearest[best] = X[[best]][0], norms[best], -1
        picks.append(best)
    return np.array(picks)


def d2_sampling(
    inner: Callable[[int], torch.Tensor], norms: torch.Tensor, n_picks: int, generator: np.random.RandomState
) -> np.ndarray:
    """k-means++ seeding: the point of largest norm, then points with a probability proportional to D².

    Parameters
    ----------
    inner : callable
        Maps the index of a point to the inner products (n,) of all points with it.
    norms : Tensor of shape (n,)
        Squared norms.
    n_picks : int
    generator : RandomState
        One number is drawn for each pick after the first.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct rows. If all remaining points coincide with chosen ones, they are drawn uniformly.

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


def _norm_and_nearest(rows: torch.Tensor, Y: torch.Tensor, Y_norms: torch.Tensor) -> torch.Tensor:
    norms = squared_norms(rows)
    return torch.stack([norms, squared_distances(rows, Y, norms, Y_norms).amin(1)], 1)


def _nearest(rows: torch.Tensor, Y: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return squared_distances(rows, Y, None, norms).amin(1)
