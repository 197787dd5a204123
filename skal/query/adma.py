"""ADMA: active deep model adaptation by distinctiveness and uncertainty [1]_.

An image is distinctive if the network transforms it, from an early layer A to a late layer B, differently from how it
would transform an image of the source task. The equations below are those of the paper. They map arrays to scores;
:func:`adma_sampling` fetches the arrays and selects the images.

References
----------
.. [1] Huang, Zhao, Liu. "Cost-effective training of deep convolutional neural networks with active model adaptation",
   KDD 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from skal.numerics.distances import euclidean_distances
from skal.numerics.kendall import kendall_tau_b
from skal.query._context import Context
from skal.query._pipeline import Steps, is_network, last_step
from skal.query._pool import rows_of, score_pool
from skal.query._registry import strategy
from skal.query.uncertainty import KINDS, uncertainty
from skal.source import LayerPair, SourceProfile


def transformation_pattern(to_A: ArrayLike, to_B: ArrayLike) -> np.ndarray:
    """How distances from the source centres change from layer A to layer B (Eq. 5).

    Parameters
    ----------
    to_A, to_B : array-like of shape (n, K)
        Euclidean distances of n images from the K centres, at layer A and at layer B (Eq. 4).

    Returns
    -------
    pattern : ndarray of shape (n, K)

    Examples
    --------
    >>> transformation_pattern([[3.0, 1.0]], [[1.0, 2.0]])
    array([[ 2., -1.]])
    """
    return np.asarray(to_A) - np.asarray(to_B)


def distance_weights(to_A: ArrayLike) -> np.ndarray:
    """Weights of the centres by reciprocal distance at layer A (section 4.3, "ADMA-distance").

    Parameters
    ----------
    to_A : array-like of shape (n, K)

    Returns
    -------
    weights : ndarray of shape (n, K)
        Rows sum to 1. An image that coincides with a centre gives all weight to that centre.

    Examples
    --------
    >>> distance_weights([[1.0, 3.0], [0.0, 2.0]])
    array([[0.75, 0.25],
           [1.  , 0.  ]])
    """
    d = np.asarray(to_A, dtype=np.float64)
    nearest = d.min(axis=1, keepdims=True)
    # Relative to the nearest centre the reciprocal neither overflows nor divides by zero.
    weights = np.where(nearest > 0, nearest / np.where(d > 0, d, 1), d == 0)
    return weights / weights.sum(axis=1, keepdims=True)


def expected_pattern(weights: ArrayLike, source_patterns: ArrayLike) -> np.ndarray:
    """The pattern an image would have if it belonged to the source task (Eq. 7).

    Parameters
    ----------
    weights : array-like of shape (n, K)
        Weight alpha_k(x) of each centre.
    source_patterns : array-like of shape (K, K)
        Pattern of each centre (Eq. 6), one row per centre.

    Returns
    -------
    pattern : ndarray of shape (n, K)

    Examples
    --------
    >>> expected_pattern([[0.5, 0.5]], [[0.0, 2.0], [4.0, 0.0]])
    array([[2., 1.]])
    """
    return np.asarray(weights) @ np.asarray(source_patterns)


def distinctiveness(observed: ArrayLike, expected: ArrayLike) -> np.ndarray:
    """How far the observed pattern's ranking is from the expected one's (Eq. 9).

    Parameters
    ----------
    observed, expected : array-like of shape (n, K)

    Returns
    -------
    distinctiveness : ndarray of shape (n,)
        (1 - tau) / 2 with Kendall's tau-b: 0 for the same ranking, 1 for the opposite one, and 1/2 where a pattern is
        constant and so has no ranking.

    Examples
    --------
    >>> distinctiveness([[1, 2, 3], [1, 2, 3]], [[2, 4, 6], [3, 2, 1]])
    array([0., 1.])
    """
    return (1 - np.nan_to_num(kendall_tau_b(observed, expected))) / 2


def pattern_variance(patterns: ArrayLike) -> np.ndarray:
    """Disagreement between several patterns of one image (section 4.2, "ADMA-2").

    The paper says that "the variance between them is used" and gives no formula. This is the variance over the
    patterns, each divided by its length, averaged over the centres.

    Parameters
    ----------
    patterns : array-like of shape (n_patterns, n, K)

    Returns
    -------
    variance : ndarray of shape (n,)

    Examples
    --------
    >>> pattern_variance([[[3.0, 4.0]], [[6.0, 8.0]]])
    array([0.])
    """
    p = np.asarray(patterns, dtype=np.float64)
    lengths = np.linalg.norm(p, axis=2, keepdims=True)
    return (p / np.where(lengths > 0, lengths, 1)).var(axis=0).mean(axis=1)


def trade_off(d: ArrayLike, u: ArrayLike, lam: float, t: int) -> np.ndarray:
    """Distinctiveness first, uncertainty later (Eq. 11).

    Parameters
    ----------
    d, u : array-like of shape (n,)
        Distinctiveness and uncertainty.
    lam : float
    t : int
        Query number, starting at 1.

    Returns
    -------
    score : ndarray of shape (n,)
        (1 - w) d + w u with w = min(lam t, 1). The paper does not clip w.

    Examples
    --------
    >>> trade_off([1.0], [0.0], lam=0.25, t=2)
    array([0.5])
    """
    w = min(lam * t, 1.0)
    return (1 - w) * np.asarray(d) + w * np.asarray(u)


@strategy(
    {
        "lam": [Interval(Real, 0, None, closed="left")],
        "t": [Interval(Real, 1, None, closed="left"), None],
        "alpha": [StrOptions({"distance", "predict"})],
        "uncertainty": [StrOptions(set(KINDS))],
        "layers": ["array-like", None],
        "aggregate": [StrOptions({"mean", "variance"})],
        "source": [SourceProfile, None],
        "n_initial": [Interval(Integral, 0, None, closed="left")],
    },
    cost="pool x source classes",
    needs_labels=True,
    without_labels="distinctiveness",
    needs_source=True,
)
def adma_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    lam: float = 0.01,
    t: int | None = None,
    alpha: str = "distance",
    uncertainty: str = "gini",
    layers: Sequence[LayerPair] | None = None,
    aggregate: str = "mean",
    batch: str = "herding",
    source: SourceProfile | None = None,
    n_initial: int = 0,
    verbose: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images that are most distinctive of the target task, and increasingly the most uncertain ones.

    Needs no labels to start: without a classifier the score is distinctiveness alone.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Its estimator is a :class:`skal.FrozenPrefixClassifier`, alone or as the last step of a Pipeline. In a
        committee, distinctiveness is averaged over the members.
    X_pool : images of length n
        As in :meth:`skal.FrozenPrefixClassifier.fit`, or a Dask array of them, which is scored on its cluster.
    n_instances : int, default=1
    lam : float, default=0.01
        How fast the score shifts to uncertainty, whose weight in query t is ``min(lam * t, 1)``.
    t : int, default=None
        Query number, starting at 1. None derives it from the learner as 1 + (labels - `n_initial`) // `n_instances`, so
        a resumed run gives the same scores. A bare estimator does not know its labels and counts as the first query.
    alpha : {"distance", "predict"}, default="distance"
        Weights of the centres, both computed with the pre-trained network. "distance" is the reciprocal distance at
        layer A. "predict" is the network's probability of the source classes (Eq. 8), which requires that the profile's
        labels are outputs of its head.
    uncertainty : {"gini", "entropy", "margin", "least_confident"}, default="gini"
    layers : list of pairs (A, B), default=None
        The patterns to use, out of those in the profile; None uses all of them.
    aggregate : {"mean", "variance"}, default="mean"
        How several patterns are combined: the mean of their distinctiveness, or their variance rescaled to [0, 1] over
        the pool.
    batch : {"top", "herding"}, default="herding"
        "top" queries the images with the highest scores, as in the paper. "herding" queries those that together cover
        the most score, as in :func:`skal.query.uherding_sampling`. Top-scoring batches are near-duplicate outliers.
    source : SourceProfile, default=None
        None uses the estimator's own.
    n_initial : int, default=0
        Number of labels before the first query.
    verbose : bool, default=False
        Whether to show a progress bar.
    random_state : int, RandomState or None, default=None
        Draws the sample on which ``batch="herding"`` estimates coverage of more than 8,192 images. Nothing else is
        random.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, best first; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, there is no source profile,
        or it belongs to another backbone or lacks the layers.

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep convolutional neural networks with active model
       adaptation", KDD 2018, Eq. 3-11.

    Examples
    --------
    >>> from modAL.models import ActiveLearner
    >>> from torch import nn
    >>> from skal import FrozenPrefixClassifier, SourceProfile
    >>> rng = np.random.default_rng(0)
    >>> net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(),
    ...                     nn.Linear(7, 3))
    >>> profile = SourceProfile(net).fit(rng.normal(size=(12, 5)), np.arange(12) % 3)
    >>> learner = ActiveLearner(FrozenPrefixClassifier(net, source=profile), query_strategy=adma_sampling)
    >>> indices, images = learner.query(rng.normal(size=(20, 5)), n_instances=2)
    >>> images.shape
    (2, 5)
    """
    context = Context(learner, X_pool, n_instances, random_state)
    members = [
        _pattern_scores(estimator, context.X_pool, alpha, layers, aggregate, source, verbose)
        for estimator in context.estimators
    ]
    scores = np.mean(members, axis=0)
    if context.proba is not None:
        if t is None:
            t = 1 + max(0, context.n_labels - n_initial) // n_instances
        scores = trade_off(scores, _uncertainty(context.proba, uncertainty), lam, t)
    # Rounded, so that equal scores stay equal whatever the order of summation, and the first of them wins.
    return context.batch(scores.round(12), batch, random_ties=False)


_uncertainty = uncertainty  # the keyword of adma_sampling hides the function's name


def _pattern_scores(
    estimator: Any,
    X_pool: Any,
    alpha: str,
    layers: Sequence[LayerPair] | None,
    aggregate: str,
    source: SourceProfile | None,
    verbose: bool,
) -> np.ndarray:
    """Distinctiveness of the pool under one estimator, or the rescaled variance of its patterns."""
    network, earlier = last_step(estimator, X_pool)
    profile = source if source is not None else getattr(network, "source", None)
    if profile is None or not is_network(network):
        raise ValueError(
            "adma_sampling needs a FrozenPrefixClassifier with a fitted SourceProfile, "
            f"but got {type(network).__name__} with source={profile!r}"
        )
    pairs = profile.check_layers(layers)
    if aggregate == "variance" and len(pairs) < 2:
        raise ValueError(f"aggregate='variance' needs at least two patterns, but got layers={pairs}")
    network.check_source(profile, earlier(rows_of(X_pool, np.arange(1))))
    if aggregate == "variance":
        return _rescaled(score_pool(partial(_variances, network, earlier, profile, pairs), X_pool, verbose=verbose))
    return score_pool(partial(_distinctiveness, network, earlier, profile, pairs, alpha), X_pool, verbose=verbose)


def _variances(network: Any, earlier: Steps, profile: SourceProfile, pairs: list[LayerPair], X: Any) -> np.ndarray:
    return pattern_variance(_observed(network, earlier(X), profile, pairs))


def _distinctiveness(
    network: Any, earlier: Steps, profile: SourceProfile, pairs: list[LayerPair], alpha: str, X: Any
) -> np.ndarray:
    """Mean over the patterns."""
    X = earlier(X)
    patterns, weights = _observed(network, X, profile, pairs), _weights(network, X, alpha, profile, pairs)
    scores = [
        distinctiveness(observed, expected_pattern(weight, profile.patterns(pair)))
        for observed, weight, pair in zip(patterns, weights, pairs, strict=True)
    ]
    return np.mean(scores, axis=0)


def _observed(network: Any, X: Any, profile: SourceProfile, pairs: list[LayerPair]) -> list[np.ndarray]:
    """Patterns of images under the current network, with centres from the pre-trained one."""
    names = list(dict.fromkeys(layer for pair in pairs for layer in pair))
    current = network.activations(X, names, pooled=profile.pooled)
    to = {
        name: euclidean_distances(values, profile.centers_[name]) for name, values in zip(names, current, strict=True)
    }
    return [transformation_pattern(to[a], to[b]) for a, b in pairs]


def _weights(network: Any, X: Any, alpha: str, profile: SourceProfile, pairs: list[LayerPair]) -> list[np.ndarray]:
    """Weights of the centres for each pattern, under the pre-trained network."""
    if alpha == "predict":
        return [profile.select_columns(network.source_proba(X))] * len(pairs)
    starts = [a for a, _ in pairs]
    before = network.activations(X, starts, pooled=profile.pooled, pretrained=True)
    return [
        distance_weights(euclidean_distances(values, profile.centers_[a]))
        for a, values in zip(starts, before, strict=True)
    ]


def _rescaled(scores: np.ndarray) -> np.ndarray:
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread > 0 else np.zeros_like(scores)
