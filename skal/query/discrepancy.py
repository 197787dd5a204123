"""Queries by maximum mean discrepancy: the images that distinguish the target from the source."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from skal.numerics.discrepancy import check_kernels, fourier_features, gaussian, median_bandwidths, row_sums
from skal.numerics.greedy import nearest_squared, squared_distances, squared_norms
from skal.query._context import Context
from skal.query._features import Features
from skal.query._pipeline import last_step
from skal.query._registry import strategy
from skal.source import SourceProfile

_PAIRS = 10**10  # pairs of images above which random features replace the kernel
_FREQUENCIES = 1024
_SOURCE = {"X_source": "no_validation", "profile": [SourceProfile, None], "bandwidths": ["array-like", None]}


@strategy(_SOURCE, cost="pool squared", needs_source=True)
def mmd_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    X_source: Any = None,
    profile: SourceProfile | None = None,
    bandwidths: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose removal makes the target most similar to the source.

    Repeatedly picks the pool image whose removal from the target (pool and labelled images) leaves the smallest biased
    MMD² to the source. In closed form this costs one pass of kernel sums, and one row of the kernel per pick.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Features as in :func:`skal.query.coreset_sampling`.
    X_pool : array-like of length n
    n_instances : int, default=1
    X_source : array-like, default=None
        Images of the source. None uses those the estimator was adapted from, as with the recipe :class:`skal.DAN`, or
        a profile.
    profile : SourceProfile, default=None
        Profile of the source classes. Its centres serve as the source, and the features are activations of the
        pre-trained network at layer B. None uses the estimator's own profile if there is no `X_source`.
    bandwidths : array-like, default=None
        Bandwidths of the Gaussian kernels. None uses five around the median distance.
    random_state : int, RandomState or None, default=None
        Draws random Fourier features, which replace the kernel above 100,000 images.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, there is no source, a bandwidth is not positive, or none can
        be chosen because most images coincide.

    References
    ----------
    .. [1] Jiawei. "Active learning with transfer learning in deep neural networks", slides, "Thoughts".
    .. [2] Gretton, Borgwardt, Rasch, Schölkopf, Smola. "A kernel two-sample test", JMLR 2012, Eq. 5.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> pool = np.array([[0.0], [0.2], [5.0], [0.1]])
    >>> mmd_sampling(LogisticRegression(), pool, X_source=np.array([[0.0], [0.1], [0.3]]))
    array([2])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    features, source = _with_source(context, X_source, profile)
    removal = Removal(features, source, bandwidths, context.generator)
    picks: list[int] = []
    for _ in range(n_instances):
        picks.append(int(removal.gains().argmax()))
        removal.remove(picks[-1])
    return context.result(picks)


@strategy(_SOURCE | {"balance": [Interval(Real, 0, 1, closed="both")]}, cost="pool squared", needs_source=True)
def discrepancy_coreset_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    X_source: Any = None,
    profile: SourceProfile | None = None,
    balance: float = 0.5,
    bandwidths: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query images that distinguish the target from the source and are far from all labelled ones.

    Each pick is the image with the largest ``balance * a + (1 - balance) * b``. Here a is how much its removal lowers
    the MMD² (:func:`skal.query.mmd_sampling`), and b is its distance to the nearest labelled or chosen image
    (:func:`skal.query.coreset_sampling`). Both are rescaled to [0, 1] over the remaining pool.

    Parameters
    ----------
    learner, X_pool, n_instances, X_source, profile, bandwidths, random_state
        As in :func:`skal.query.mmd_sampling`.
    balance : float, default=0.5
        1 is :func:`skal.query.mmd_sampling`, 0 is core-set.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        As in :func:`skal.query.mmd_sampling`, or if `balance` is not between 0 and 1.

    References
    ----------
    .. [1] Jiawei. "Active learning with transfer learning in deep neural networks", slides, "Thoughts".

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> pool = np.array([[0.0], [0.2], [5.0], [0.1], [-4.0]])
    >>> discrepancy_coreset_sampling(LogisticRegression(), pool, 2, X_source=np.array([[0.0], [0.1], [0.3]]))
    array([2, 4])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    features, source = _with_source(context, X_source, profile)
    removal = Removal(features, source, bandwidths, context.generator)
    X, labelled = removal.rows
    norms, nearest = squared_norms(X), nearest_squared(X, labelled)
    picks: list[int] = []
    for _ in range(n_instances):
        a, b = removal.gains(), nearest.sqrt().double()
        b[torch.isinf(b)] = 0  # nothing is labelled yet
        left = torch.isfinite(a)
        scores = balance * _rescaled(a, left) + (1 - balance) * _rescaled(b, left)
        pick = int(torch.where(left, scores, -torch.inf).argmax())
        picks.append(pick)
        removal.remove(pick)
        nearest = torch.minimum(nearest, squared_distances(X, X[[pick]], norms, norms[[pick]])[:, 0])
    return context.result(picks)


class Removal:
    """How the biased MMD² between a target and a source changes as images of the target's pool are removed.

    Let n be the number of target images, A the sum of the kernel over all their pairs, b_j its sum over the pairs of
    image j, and c_j its mean over the source. Removing j leaves (A - 2 b_j + k_jj) / (n - 1)² - 2 (sum c - c_j) /
    (n - 1), plus a term that does not depend on the target.
    """

    def __init__(
        self,
        features: Features,
        source: torch.Tensor,
        bandwidths: ArrayLike | None,
        generator: np.random.RandomState,
    ):
        self._X = torch.cat([features.pool.whole(), features.labelled])  # a copy, so it can be centred in place
        mean = self._X.mean(0)
        source = source.to(self._X) - mean
        self._X -= mean
        self._norms = squared_norms(self._X)
        if bandwidths is None:
            bandwidths = median_bandwidths(source, self._X)
        self._sigmas, self._beta = check_kernels(bandwidths, None)
        self._n_pool = len(features.pool)
        self._n = n = len(self._X)
        if n * (n + len(source)) <= _PAIRS:
            self._b = row_sums(self._X, self._X, self._sigmas, self._beta)
            self._c = row_sums(self._X, source, self._sigmas, self._beta) / len(source)
        else:
            self._b, self._c = self._by_random_features(source, generator)
        self._A, self._sum_c = float(self._b.sum()), float(self._c.sum())
        self._is_left = torch.ones(n, dtype=torch.bool, device=self._X.device)
        self._is_left[self._n_pool :] = False  # labelled images stay

    @property
    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the pool and of the labelled images, centred on their mean."""
        return self._X[: self._n_pool], self._X[self._n_pool :]

    def gains(self) -> torch.Tensor:
        """How much the removal of each pool image lowers the MMD², up to a constant; -inf for removed images."""
        n = max(self._n - 1, 1)
        left = (self._A - 2 * self._b + 1) / n**2 - 2 * (self._sum_c - self._c) / n
        # Rounded, so that equal images have equal gains, and the first of them wins.
        scale = 1e-12 * max(1.0, float(left.abs().max()))
        return torch.where(self._is_left, -(left / scale).round() * scale, -torch.inf)[: self._n_pool]

    def remove(self, pick: int) -> None:
        """Remove an image from the target."""
        row = gaussian(
            squared_distances(self._X, self._X[[pick]], self._norms, self._norms[[pick]]), self._sigmas, self._beta
        )[:, 0]
        self._A -= 2 * float(self._b[pick]) - 1
        self._sum_c -= float(self._c[pick])
        self._b -= row
        self._n -= 1
        self._is_left[pick] = False

    def _by_random_features(
        self, source: torch.Tensor, generator: np.random.RandomState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Kernel sums of every target image over target and source, from means of random Fourier features."""
        drawn = torch.from_numpy(generator.normal(size=(self._X.shape[1], _FREQUENCIES))).to(self._X)

        def of(rows: torch.Tensor) -> torch.Tensor:
            return fourier_features(rows, self._sigmas, self._beta, drawn)

        sums = [sum(of(rows).double().sum(0) for rows in sample.split(1024)) for sample in (self._X, source)]
        both = torch.stack([sums[0], sums[1] / len(source)], dim=1)  # type: ignore[list-item]
        b, c = torch.cat([of(rows).double() @ both for rows in self._X.split(1024)]).T
        return b, c


def _rescaled(values: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Rescale to [0, 1] over the remaining images; 0 if all are equal."""
    low, high = values[left].min(), values[left].max()
    spread = high - low
    alike = bool(spread <= 1e-9 * max(abs(float(low)), abs(float(high))))
    return torch.zeros_like(values) if alike else (values - low) / spread


def _with_source(context: Context, X_source: Any, profile: SourceProfile | None) -> tuple[Features, torch.Tensor]:
    """Features of the target, and of the source."""
    network, _ = last_step(context.estimators[0], context.X_pool)
    own: list[Any] = []
    if X_source is None and profile is None:
        own = _own_sources(network)
        profile = getattr(network, "source", None)
    if X_source is not None or own:
        features = context.features(X_source=X_source, own_sources=own)
        return features, features.source
    if profile is None:
        raise ValueError(
            f"this strategy needs a source: pass X_source or a profile; {type(network).__name__} has neither"
        )
    layer = profile.layers_[0][1]
    features = context.features(layer=layer, pooled=profile.pooled)
    centers = np.tile(profile.centers_[layer], (1, len(context.estimators)))  # features of a committee are concatenated
    return features, torch.from_numpy(centers)


def _own_sources(network: Any) -> list[Any]:
    """The sets of source images that a network was adapted from; several if `X_source` was a tuple of sets."""
    data = getattr(network, "data_", {})
    X, y = data.get("X_source"), data.get("y_source")
    if X is None:
        return []
    are_sets = isinstance(X, tuple) and isinstance(y, tuple) and np.ndim(y[0]) > 0
    return list(X) if are_sets else [X]
