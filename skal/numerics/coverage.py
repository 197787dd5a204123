"""Greedy coverage of many points by a few of them: exact, or estimated on a sample in linear time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from skal.numerics.greedy import nearest_squared, squared_distances, squared_norms
from skal.numerics.points import Points

#: Number of points up to which coverage is exact, and the sample size above it. The gain of a candidate is estimated
#: with a standard error of at most 1 / (2 sqrt(8192)) = 0.6 % of the coverage still missing, and the similarities of
#: all pairs of the sample just fit the cache.
MAX_REFERENCE = 8192

_ROWS = 1024  # rows in a block of pairs
_CACHED = 256 << 20  # bytes of similarities that are cached between picks
_AT_ONCE = 64  # candidates whose gains are recomputed at a time
_AROUND = 256  # number of points nearest to the best candidate of the sample that become candidates too


def greedy_coverage(
    X: torch.Tensor,
    n_picks: int,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor | None = None,
    covered: torch.Tensor | None = None,
) -> np.ndarray:
    """Repeatedly pick the point that adds most to the coverage of all points.

    The coverage of a point x is the largest similarity k(x, c) to a chosen c. A candidate c adds
    ``sum_x w(x) max(k(x, c) - covered(x), 0)``. This gain never increases. One rough pass over all pairs therefore
    gives upper bounds, and gains are computed exactly only for candidates that may still be best.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    n_picks : int
    kernel : callable
        Maps squared distances to similarities in [0, 1] that decrease with distance. It may work in place.
    weights : Tensor of shape (n,), default=None
        Non-negative weights of the points to be covered.
    covered : Tensor of shape (n,), default=None
        Coverage by points that are already chosen.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct rows. Of equally good candidates, the first is picked.

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
    weights = X.new_ones(len(X)) if weights is None else weights.to(X.dtype)
    covered = X.new_zeros(len(X)) if covered is None else covered.to(X.dtype)
    candidates = _Candidates(X, kernel, weights, covered, torch.zeros_like(weights))
    picks: list[int] = []
    while len(picks) < n_picks:
        best, _ = candidates.best()
        candidates.cover(candidates.similarities([best])[0])
        candidates.drop(best)
        picks.append(best)
    return np.array(picks)


def sampled_coverage(
    X: Points | torch.Tensor,
    n_picks: int,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor | None = None,
    covered: torch.Tensor | None = None,
    *,
    max_reference: int = MAX_REFERENCE,
    generator: np.random.RandomState,
) -> np.ndarray:
    """Greedy coverage with gains estimated on a sample, in time linear in the number of points.

    Up to `max_reference` points, this is :func:`greedy_coverage`. For more points, a sample is drawn with probabilities
    proportional to the missing coverage of each point, ``w(x) (1 - covered(x))``, and weighted by their inverse, so
    that estimated gains are unbiased. Candidates are the sample and, at each pick, the 256 points nearest to its best
    candidate, since gains change smoothly from point to point. For its coverage of itself, a candidate in the sample
    counts with its own weight, not with that of the points it represents. When the sample is covered, another one is
    drawn.

    Parameters
    ----------
    X : Points or Tensor of shape (n, D)
        Read in blocks; only the sample is copied.
    n_picks, kernel, weights, covered
        As in :func:`greedy_coverage`.
    max_reference : int, default=8192
        Size of the sample.
    generator : RandomState
        Draws the sample. Not used if the result is exact.

    Returns
    -------
    picks : ndarray of shape (n_picks,)
        Distinct rows; random ones if nothing is left to cover.

    References
    ----------
    .. [1] Horvitz, Thompson. "A generalization of sampling without replacement from a finite universe", 1952: weights
       by inverse probability. One point is drawn from each of equal shares of the missing coverage.

    Examples
    --------
    >>> X = torch.cat([torch.linspace(0, 1, 600), torch.linspace(5, 6, 400)])[:, None]
    >>> picks = sampled_coverage(
    ...     X, 2, lambda squared: torch.exp(-squared), max_reference=100, generator=np.random.RandomState(0)
    ... )
    >>> X[picks, 0].round(decimals=1)
    tensor([0.5000, 5.5000])
    """
    X = Points.of(X)
    if len(X) <= max_reference:
        return greedy_coverage(X.whole(), n_picks, kernel, weights, covered)
    norms = X.norms()
    weights = torch.ones_like(norms) if weights is None else weights.to(norms)
    covered = torch.zeros_like(norms) if covered is None else covered.to(norms, copy=True)
    picks: list[int] = []
    while len(picks) < n_picks:
        left = (weights * (1 - covered)).clamp_(min=0).double().cpu().numpy()
        begun = len(picks)
        if left.any():
            sample = _Sample(X, norms, kernel, weights, covered, left, max_reference, generator)
            while len(picks) < n_picks and (pick := sample.next(picks)) is not None:
                picks.append(pick)
        if len(picks) == begun:
            others = np.setdiff1d(np.arange(len(X)), picks)
            picks += generator.permutation(others)[: n_picks - begun].tolist()
            break
        covered = torch.maximum(covered, kernel(nearest_squared(X, X[picks[begun:]])))
        covered[picks] = 1
    return np.array(picks)


def _drawn(left: np.ndarray, size: int, generator: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn with probabilities proportional to `left`, one from each of `size` equal shares, and their counts."""
    sums = left.cumsum()
    at = (np.arange(size) + generator.random_sample(size)) * (sums[-1] / size)
    rows = np.minimum(np.searchsorted(sums, at, side="right"), np.flatnonzero(left)[-1])  # the last sum is rounded
    return np.unique(rows, return_counts=True)


class _Sample:
    """Points drawn from `X` to represent all points, and the search for the next pick near the best of them."""

    def __init__(
        self,
        X: Points,
        norms: torch.Tensor,
        kernel: Callable[[torch.Tensor], torch.Tensor],
        weights: torch.Tensor,
        covered: torch.Tensor,
        left: np.ndarray,
        size: int,
        generator: np.random.RandomState,
    ):
        rows, counts = (torch.from_numpy(one).to(norms.device) for one in _drawn(left, size, generator))
        estimated = counts.to(norms) / (1 - covered[rows])
        own = torch.minimum(weights[rows] * (size / left.sum()), estimated)
        self._X, self._norms, self._kernel = X, norms, kernel
        self._rows, self._points, self._point_norms = rows, X[rows], norms[rows]
        self._candidates = _Candidates(self._points, kernel, estimated, covered[rows], estimated - own)

    def next(self, taken: list[int]) -> int | None:
        """The next pick, which is not in `taken`; None if the sample is covered."""
        best, gain = self._candidates.best()
        if not gain > 0:
            return None
        squared = self._norms - 2 * self._X.inner(self._points[best])
        squared[taken] = torch.inf
        around = squared.topk(min(_AROUND, len(squared) - len(taken)), largest=False).indices
        same = around[:, None] == self._rows
        to_sample = squared_distances(self._X[around], self._points, self._norms[around], self._point_norms)
        similarities = self._kernel(to_sample.masked_fill_(same, 0))
        excess = same.to(similarities) @ self._candidates.excess()
        pick = int(self._candidates.gains(similarities, excess).argmax())
        self._candidates.cover(similarities[pick])
        for candidate in same[pick].nonzero().flatten().tolist():
            self._candidates.drop(candidate)
        return int(around[pick])


class _Candidates:
    """Points that cover each other. The gain of a point is computed only if it may be the best.

    If the bounds are loose, nearly all gains would be computed at each pick. Therefore, once more gains have been
    computed than there are points whose coverage has changed, all gains are updated from these points alone. They
    become fewer, since each new pick is the nearest one of fewer points.
    """

    def __init__(
        self,
        X: torch.Tensor,
        kernel: Callable[[torch.Tensor], torch.Tensor],
        weights: torch.Tensor,
        covered: torch.Tensor,
        beyond_own: torch.Tensor,
    ):
        self._weights, self._covered, self._beyond_own = weights, covered, beyond_own
        self._bounds = _gain_bounds(X, kernel, weights, covered)
        self._similarities = _Similarities(X, kernel)
        self._dropped: list[int] = []
        self._computed = 0  # gains computed since all were last updated
        self._gains = torch.zeros_like(self._bounds)
        self._level = torch.ones_like(covered)  # coverage for which `_gains` were computed
        self._rounding = 0.0

    def best(self) -> tuple[int, float]:
        """The candidate with the largest gain, the first of equal ones, and its gain."""
        changed = (self._covered != self._level).nonzero().flatten()
        if 0 < len(changed) < self._computed:
            self._update(changed)
        n = len(self._bounds)
        exact = torch.zeros(n, dtype=torch.bool, device=self._bounds.device)
        excess = self.excess()
        while not bool(exact[best := int(self._bounds.argmax())]):
            again = torch.where(exact, -torch.inf, self._bounds).topk(min(_AT_ONCE, n)).indices
            again[-1] = best  # topk does not specify which of equal bounds it returns
            self._bounds[again] = self.gains(self.similarities(again.tolist()), excess[again]).double()
            self._bounds[self._dropped] = -torch.inf
            self._computed += len(again)
            exact[again] = True
        return best, float(self._bounds[best])

    def _update(self, changed: torch.Tensor) -> None:
        """Update the gains of all candidates from the points whose coverage has changed, and use them as bounds."""
        for part in changed.split(_AT_ONCE):
            rows = self.similarities(part.tolist())
            before = (rows - self._level[part, None]).clamp_(min=0)
            self._gains += self._weights[part] @ rows.sub_(self._covered[part, None]).clamp_(min=0).sub_(before)
        self._level, self._computed = self._covered, 0
        self._rounding = max(self._rounding, 1e-5 * float(self._gains.max()))
        self._bounds = torch.minimum(self._bounds, self._gains - self.excess() + self._rounding)

    def excess(self) -> torch.Tensor:
        """The amount by which each candidate's gain from covering itself is overestimated."""
        return self._beyond_own * (1 - self._covered)

    def gains(self, similarities: torch.Tensor, excess: torch.Tensor) -> torch.Tensor:
        """Gains of candidates with the given similarities (k, n)."""
        return (similarities - self._covered).clamp_(min=0) @ self._weights - excess

    def similarities(self, candidates: list[int]) -> torch.Tensor:
        """Similarities (k, n) of candidates to all points."""
        return self._similarities.of(candidates)

    def cover(self, similarity: torch.Tensor) -> None:
        """Update the coverage for a chosen point with these similarities (n,)."""
        self._covered = torch.maximum(self._covered, similarity)

    def drop(self, candidate: int) -> None:
        """Exclude a candidate from further choices."""
        self._dropped.append(candidate)
        self._bounds[candidate] = -torch.inf


class _Similarities:
    """Similarities of candidates to all points, cached for the next picks as far as memory allows."""

    def __init__(self, X: torch.Tensor, kernel: Callable[[torch.Tensor], torch.Tensor]):
        self._X, self._norms, self._kernel = X, squared_norms(X), kernel
        self._cached: dict[int, torch.Tensor] = {}
        self._most = _CACHED // (len(X) * X.itemsize)

    def of(self, candidates: list[int]) -> torch.Tensor:
        """A new tensor (n_candidates, n)."""
        lacking = [row for row in candidates if row not in self._cached]
        found: dict[int, torch.Tensor] = {}
        if lacking:
            squared = squared_distances(self._X[lacking], self._X, self._norms[lacking], self._norms)
            squared[range(len(lacking)), lacking] = 0  # exact, since rounding errors would be large for a narrow kernel
            found = dict(zip(lacking, self._kernel(squared), strict=True))
        rows = torch.stack([found[row] if row in found else self._cached[row] for row in candidates])
        if len(self._cached) + len(lacking) <= self._most:
            self._cached |= found
        return rows


def _gain_bounds(
    X: torch.Tensor,
    kernel: Callable[[torch.Tensor], torch.Tensor],
    weights: torch.Tensor,
    covered: torch.Tensor,
) -> torch.Tensor:
    """Upper bounds of the gains of all points, from each pair once, in the fastest precision of this machine."""
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
    return total.mul_(1 + 1e-4)  # margin for single-precision sums


def _rough(X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded rows r, and s such that s_i + s_j - 2 r_i r_j never exceeds the squared distance of rows i and j."""
    squared = squared_norms(X)
    rough, off = X, torch.zeros_like(squared)
    if X.dtype == torch.float32 and X.device.type == "cpu" and _half_precision_is_fast():
        rough = X.to(torch.bfloat16)
        off = torch.cat([(a - b).norm(dim=1) for a, b in zip(X.split(_ROWS), rough.split(_ROWS), strict=True)])
    largest = squared.max().sqrt()
    # |x y - r s| <= |x - r| |y| + |r| |y - s|. The product is rounded like r, its sum and exact distances like X.
    product = 0.6 * torch.finfo(rough.dtype).eps + X.shape[1] * torch.finfo(X.dtype).eps
    return rough, squared - 2.02 * off * largest - product * largest**2


@cache
def _half_precision_is_fast() -> bool:
    """Whether this processor multiplies bfloat16 matrices clearly faster than single-precision ones."""

    def seconds(matrix: torch.Tensor) -> float:
        times = []
        for _ in range(10):
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        return min(times)

    single = torch.eye(512, dtype=torch.float32)
    return 1.5 * seconds(single.bfloat16()) < seconds(single)
