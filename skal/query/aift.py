"""AIFT: active, incremental fine-tuning. Images are scored by the uncertainty and disagreement of their patches."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from skal.images.crops import RandomCrops
from skal.images.forms import as_data, is_images
from skal.query._batch import top
from skal.query._context import Context
from skal.query._registry import strategy

_BLOCK = 64  # images whose patches are generated at a time
_EPS = float(np.finfo(float).eps)


def aift_score(
    proba_patches: ArrayLike, *, alpha: float = 0.25, lam1: float = 1.0, lam2: float = 1.0, eps: float = _EPS
) -> np.ndarray:
    """Entropy and disagreement of the patches of each image.

    Of the m patches of an image, only the share `alpha` that agrees most with its dominant class (the class with the
    largest mean probability) counts, since the others may show something else. The score is the sum of the matrix R of
    these patches. Its diagonal holds their entropies, times `lam1`. The other entries hold the symmetric divergences
    ``sum_k (p_k - q_k) log(p_k / q_k)`` of pairs of patches, times `lam2`.

    Parameters
    ----------
    proba_patches : array-like of shape (n, m, C)
        Class probabilities of m patches of each image.
    alpha : float, default=0.25
        Share of the patches that counts. Their number is rounded half up and is at least one.
    lam1, lam2 : float, default=1.0
        Weights of entropy and of divergence.
    eps : float, default=2.220446e-16
        Added inside each logarithm. It determines how much a probability of exactly 0 counts.

    Returns
    -------
    scores : ndarray of shape (n,)

    Raises
    ------
    ValueError
        If `proba_patches` is not three-dimensional, or `alpha` is not above 0 and at most 1.

    References
    ----------
    .. [1] Zhou, Shin, Zhang, Gurudu, Gotway, Liang. "Fine-tuning convolutional neural networks for biomedical image
       analysis: actively and incrementally", CVPR 2017, Eq. 1-4 and Algorithm 1.

    Examples
    --------
    In each image, the two patches that are most certain of its dominant class are equal. Only their entropies count:

    >>> patches = [[[0.5, 0.5], [0.2, 0.8], [0.2, 0.8], [0.9, 0.1]], [[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.9, 0.1]]]
    >>> aift_score(patches, alpha=0.5).round(3)
    array([1.001, 0.65 ])
    """
    p = np.asarray(proba_patches, dtype=np.float64)
    if p.ndim != 3 or 0 in p.shape[1:]:
        raise ValueError(f"proba_patches has shape {p.shape}, but must have shape (n, m, C)")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha!r} must be above 0 and at most 1")
    n, m, _ = p.shape
    kept = max(1, int(np.floor(m * alpha + 0.5)))
    dominant = p.mean(axis=1).argmax(axis=1)
    agreement = p[np.arange(n), :, dominant]
    order = np.argsort(-agreement, axis=1, kind="stable")[:, :kept]
    p = np.take_along_axis(p, order[:, :, None], axis=1)
    logs = np.log(p + eps)
    entropy = -(p * logs).sum(axis=(1, 2))
    # Over all ordered pairs, sum_k (p - q)(log p - log q) is 2 (m sum p log p - sum p sum log p).
    divergence = 2 * (kept * (p * logs).sum(axis=1) - p.sum(axis=1) * logs.sum(axis=1)).sum(axis=1)
    return lam1 * entropy + lam2 * divergence


@strategy(
    {
        "patches": [Interval(Integral, 1, None, closed="left"), callable, None],
        "alpha": [Interval(Real, 0, 1, closed="right")],
        "lam1": [Interval(Real, 0, None, closed="left")],
        "lam2": [Interval(Real, 0, None, closed="left")],
        "eps": [Interval(Real, 0, None, closed="neither")],
        "omega": [Interval(Real, 1, None, closed="left")],
    },
    cost="pool x patches, through the network",
    needs_labels=True,
    without_labels="chance",
    batch="one by one",
)
def aift_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    patches: int | Callable[[Any], Any] | None = 16,
    alpha: float = 0.25,
    lam1: float = 1.0,
    lam2: float = 1.0,
    eps: float = _EPS,
    omega: float = 1.0,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose patches are uncertain and disagree, although they show the same object.

    The paper fine-tunes incrementally: use a classifier with ``warm_start=True``. With ``replay="misclassified"`` it
    trains each round on new labels and on those that are still misclassified, as in ACFT [2]_.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier. Before its first fit, images are drawn at random.
    X_pool : array-like of length n
    n_instances : int, default=1
    patches : int, callable or None, default=16
        Number of random crops and flips per image, a function that maps n images to their patches (n, m, ...), or None
        if the pool already has that shape.
    alpha, lam1, lam2, eps
        As in :func:`~skal.query.aift.aift_score`.
    omega : float, default=1.0
        Above 1, the batch is drawn from the best ``omega * n_instances`` images. Probabilities are proportional to the
        difference between each score and the lowest of these scores [2]_.
    random_state : int, RandomState or None, default=None
        Draws the crops, and the batch.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, best first; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, or the rows to crop are not
        images.

    References
    ----------
    .. [1] Zhou, Shin, Zhang, Gurudu, Gotway, Liang. "Fine-tuning convolutional neural networks for biomedical image
       analysis: actively and incrementally", CVPR 2017, Algorithm 1.
    .. [2] Zhou, Shin, Gurudu, Gotway, Liang. "Active, continual fine tuning of convolutional neural networks for
       reducing annotation efforts", Medical Image Analysis 2021, section 3.4.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> pool = np.array([[[-3.0], [-3.0]], [[0.4], [0.6]], [[3.0], [3.1]]])  # two patches of each of three
    >>> aift_sampling(model, pool, patches=None, alpha=1.0, random_state=0)
    array([1])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    n, generator = context.n, context.generator
    if isinstance(patches, Integral) and not is_images(context.rows(np.arange(1))):
        raise ValueError(
            f"patches={patches!r} crops images, but X_pool contains features; pass a function that makes patches"
        )
    crops = RandomCrops(n, int(patches), generator) if isinstance(patches, Integral) else None
    scores = np.zeros(n)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        images = context.rows(rows)
        if crops is not None:
            if isinstance(images, pd.DataFrame):
                images = as_data(images)  # its column of images, since iterating over a frame gives names of columns
            of_image = crops.of(rows, images)
        else:
            of_image = list(np.asarray(patches(images) if callable(patches) else images))
        proba = _proba(context, of_image)
        if proba is None:
            break
        scores[rows] = aift_score(proba, alpha=alpha, lam1=lam1, lam2=lam2, eps=eps)
    n_best = min(n, max(n_instances, round(omega * n_instances)))
    if n_best == n_instances:
        return context.batch(scores)
    best = top(scores, n_best, generator)
    above = scores[best] - scores[best[-1]]
    likely = above + 1e-9 * max(above.max(), 1e-9)  # so that enough images have a positive probability
    drawn = np.sort(generator.choice(n_best, n_instances, replace=False, p=likely / likely.sum()))
    return context.result(best[drawn], scores[best[drawn]])


def _proba(context: Context, of_image: list[np.ndarray]) -> np.ndarray | None:
    """Probabilities (n, m, C) of the patches of each image; None before the classifier is fitted."""
    found: dict[int, np.ndarray] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, patches in enumerate(of_image):
        by_shape.setdefault(patches.shape, []).append(i)
    for shape, members in by_shape.items():
        proba = context.predict_proba(np.concatenate([of_image[i] for i in members]))
        if proba is None:
            return None
        found.update(zip(members, proba.reshape(len(members), shape[0], -1), strict=True))
    return np.stack([found[i] for i in range(len(of_image))])
