"""Greedy choices from many points: farthest first, D² sampling, and coverage, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

_ROWS = 1024  # points of a block of pairs
_KEPT = 256 << 20  # bytes of similarities that are kept from one pick to the next
_AT_ONCE = 64  # candidates whose gains are computed anew at a time


def squared_distances(
    X: torch.Tensor, Y: torch.Tensor, X_norms: torch.Tensor | None = None, Y_norms: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared Euclidean distances (n, m) of the rows of two tensors, not below 0; squared norms may be given."""
    X_norms = squared_norms(X) if X_norms is None else X_norms
    Y_norms = squared_norms(Y) if Y_norms is None else Y_norms
    return (X_norms[:, None] + Y_norms).addmm_(X, Y.T, alpha=-2).clamp_(min=0)


def squared_norms(X: torch.Tensor) -> torch.Tensor:
    """Squared norm (n,) of each row."""
    return torch.cat([(rows * rows).sum(1) for rows in X.split(_ROWS)]) if len(X) else X.new_empty(0)


def nearest_squared(X: torch.Tensor, Y: torch.Tensor) -> torch.Tensor:
    """Squared distance (n,) of each row of `X` from the nearest row of `Y`; infinite where `Y` is empty."""
    if len(Y) == 0:
        return X.new_full((len(X),), torch.inf)
    norms = squared_norms(Y)
    return torch.cat([squared_distances(rows, Y, None, norms).amin(1) for rows in X.split(_ROWS)])


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
    norms = squared_norms(X)
    picks = [] if first is None else [first]
    # What a point is from the first `seen` picks; further ones can only be nearer, so only the farthest are looked at.
    nearest = torch.minimum(nearest, nearest_squared(X, X[picks]))
    nearest[picks] = -1
    seen = torch.full((len(X),), len(picks), device=X.device)
    while len(picks) < n_picks:
        while picks and int(seen[best := int(nearest.argmax())]) < len(picks):
            least = int(seen[best])
            again = torch.where(seen < len(picks), nearest, -torch.inf).topk(min(_AT_ONCE, len(X))).indices
            again = again[seen[again] >= least]
            to_picks = squared_distances(X[again], X[picks[least:]], norms[again], norms[picks[least:]])
            nearest[again] = torch.minimum(nearest[again], to_picks.amin(1))
            nearest[picks] = -1
            seen[again] = len(picks)
        picks.append(int(nearest.argmax()))
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
    ``sum_x w(x) max(k(x, c) - covered(x), 0)``. What it adds never grows, so one rough pass over all pairs bounds it
    from above, and only those candidates are computed exactly that may still be best.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    n_picks : int
    kernel : callable
        From squared distances to similarities in [0, 1] that fall with them; may work in place.
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
    bounds = _gain_bounds(X, kernel, weights, covered)
    similarities = _Similarities(X, kernel)
    picks: list[int] = []
    while len(picks) < n_picks:
        exact = torch.zeros(n, dtype=torch.bool, device=X.device)
        while not bool(exact[best := int(bounds.argmax())]):
            again = torch.where(exact, -torch.inf, bounds).topk(min(_AT_ONCE, n)).indices
            again[-1] = best  # which of equal bounds topk takes is not said
            rows = similarities.of(again.tolist())
            bounds[again] = (rows.sub_(covered).clamp_(min=0) @ weights).double()
            bounds[picks] = -torch.inf
            exact[again] = True
        picks.append(best)
        covered = torch.maximum(covered, similarities.of([best])[0])
        bounds[best] = -torch.inf
    return np.array(picks)


class _Similarities:
    """Similarities of candidates to all points, which are asked for again at the next picks, as memory allows."""

    def __init__(self, X: torch.Tensor, kernel: Callable[[torch.Tensor], torch.Tensor]):
        self._X, self._norms, self._kernel = X, squared_norms(X), kernel
        self._kept: dict[int, torch.Tensor] = {}
        self._most = _KEPT // (len(X) * X.itemsize)

    def of(self, candidates: list[int]) -> torch.Tensor:
        """A new tensor (n_candidates, n)."""
        lacking = [row for row in candidates if row not in self._kept]
        found: dict[int, torch.Tensor] = {}
        if lacking:
            squared = squared_distances(self._X[lacking], self._X, self._norms[lacking], self._norms)
            squared[range(len(lacking)), lacking] = 0  # not what rounding leaves, which is much to a narrow kernel
            found = dict(zip(lacking, self._kernel(squared), strict=True))
        rows = torch.stack([found[row] if row in found else self._kept[row] for row in candidates])
        if len(self._kept) + len(lacking) <= self._most:
            self._kept |= found
        return rows


def _gain_bounds(
    X: torch.Tensor,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    covered: torch.Tensor,
) -> torch.Tensor:
    """At least what every point adds, from each pair once, in the numbers this machine multiplies fastest."""
    total = torch.zeros(len(X), dtype=torch.float64, device=X.device)
    rough, norms = _rough(X)
    nothing_covered = not bool(covered.any())
    starts = range(0, len(X), _ROWS)
    for i in starts:
        own = slice(i, i + _ROWS)
        for j in range(i, len(X), _ROWS):
            other = slice(j, j + _ROWS)
            squared = (norms[own, None] + norms[other]).sub_(rough[own] @ rough[other].T, alpha=2).clamp_(min=0)
            similarity = kernel(squared)
            if nothing_covered:
                total[other] += weights[own] @ similarity
                if i != j:
                    total[own] += similarity @ weights[other]
                continue
            total[other] += weights[own] @ (similarity - covered[own][:, None]).clamp_(min=0)
            if i != j:
                total[own] += similarity.sub_(covered[other]).clamp_(min=0) @ weights[other]
    return total.mul_(1 + 1e-4)  # sums of single precision


def _rough(X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded rows r, and s so that s_i + s_j - 2 r_i r_j is never more than the squared distance of rows i and j."""
    squared = squared_norms(X)
    rough, off = X, torch.zeros_like(squared)
    if X.dtype == torch.float32 and X.device.type == "cpu" and _half_precision_is_fast():
        rough = X.to(torch.bfloat16)
        off = torch.cat([(a - b).norm(dim=1) for a, b in zip(X.split(_ROWS), rough.split(_ROWS), strict=True)])
    largest = squared.max().sqrt()
    # |x y - r s| <= |x - r| |y| + |r| |y - s|. The product is rounded as r is, its sum and exact distances as X is.
    product = 0.6 * torch.finfo(rough.dtype).eps + X.shape[1] * torch.finfo(X.dtype).eps
    return rough, squared - 2.02 * off * largest - product * largest**2


@cache
def _half_precision_is_fast() -> bool:
    """Whether this processor multiplies matrices of bfloat16 clearly faster than those of single precision."""

    def seconds(matrix: torch.Tensor) -> float:
        times = []
        for _ in range(10):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        return min(times)

    single = torch.eye(512)
    return 1.5 * seconds(single.bfloat16()) < seconds(single)
