"""UHerding: uncertainty-weighted coverage."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import Interval

from skal._threads import one_blas_thread
from skal.numerics.coverage import MAX_REFERENCE
from skal.query._batch import DUPLICATES, cover, kernel_width
from skal.query._context import Context
from skal.query._registry import strategy
from skal.query.uncertainty import uncertainty

_FOLDS = 3


@strategy(
    {
        "duplicates": [Interval(Real, 0, 1, closed="left")],
        "max_reference": [Interval(Integral, 1, None, closed="left")],
    },
    cost="pool, and three fits",
    needs_labels=True,
    without_labels="max_herding",
)
def uherding_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    duplicates: float = DUPLICATES,
    max_reference: int = MAX_REFERENCE,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images that add most to uncertainty-weighted coverage: coverage first, uncertainty later.

    The coverage of each image is weighted by its uncertainty, 1 - margin of the calibrated probabilities. The kernel
    narrows as the labelled images get closer to each other. Without labels this is
    :func:`skal.query.max_herding_sampling`.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier; features as in :func:`skal.query.max_herding_sampling`. If every class has at
        least 3 labels, clones of a single estimator are fitted to folds of the labelled images to find the temperature
        of the probabilities. For a :class:`skal.FrozenPrefixClassifier` only the linear probe is fitted.
    X_pool : array-like of length n
    n_instances : int, default=1
    duplicates : float, default=0.1
        Share of the labelled images that may have a labelled near-duplicate. The width of the kernel is the smallest
        distance between two labelled images (with features of length 1) after the
        ``ceil(n_labels * duplicates / 2)`` shortest are dropped, or 1 if none remains. 0 is the paper's rule, the
        smallest distance. A single pair of near-duplicates then makes the batch that of margin sampling.
    max_reference : int, default=8192
        Pools up to this size are covered exactly. For larger pools, gains are estimated on a sample of this size, so
        time grows linearly with the pool.
    random_state : int, RandomState or None, default=None
        Draws the folds, and that sample.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    References
    ----------
    .. [1] Bae, Oliveira, Sutherland. "Uncertainty herding: one active learning method for all label budgets", ICLR
       2025, sections 3 and 4.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[-1.0, 1.0], [1.0, 1.0]], [0, 1])
    >>> uherding_sampling(model, np.array([[-2.0, 1.0], [-0.1, 1.0], [0.1, 1.0], [3.0, 1.0]]), 1)
    array([1])
    """
    context = Context(learner, X_pool, n_instances, random_state)
    features = context.features(normalized=True)
    weights = None
    if context.proba is not None:
        weights = uncertainty(tempered(context.proba, temperature(context)), "margin")
    width = kernel_width(features.labelled, duplicates)
    return context.result(cover(features, n_instances, width, context.generator, weights, max_reference))


def temperature(context: Context) -> float:
    """Temperature that maximises the cross-validated likelihood of the labels.

    1 if a class has fewer than 3 labels, the learner is a committee, a fold is too small for the estimator, such as one
    that is calibrated on folds of its own, or a label is not one of its classes, such as the -1 of semi-supervised
    estimators.
    """
    X, y = context.X_labelled, context.y_labelled
    if X is None or y is None or len(context.estimators) > 1:
        return 1.0
    y = np.asarray(y)
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2 or counts.min() < _FOLDS:
        return 1.0
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=context.generator)
    quick = _quick(context.estimators[0])
    proba = np.empty((len(y), len(classes)))  # every fold is fitted to all classes
    with one_blas_thread():
        for fitted_to, rest in folds.split(y, y):
            # Not cross_val_predict, which numbers the classes, while a class_weight names them.
            fold = clone(quick)
            try:  # it was fitted to all labelled images, so a fold is too small, or a label is not one of its classes
                fold.fit(_safe_indexing(X, fitted_to), y[fitted_to])
                proba[rest] = fold.predict_proba(_safe_indexing(X, rest))
            except ValueError:
                return 1.0
    own = np.searchsorted(classes, y)

    def loss(log_temperature: float) -> float:
        return -float(np.log(tempered(proba, np.exp(log_temperature))[np.arange(len(y)), own] + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _quick(estimator: BaseEstimator) -> BaseEstimator:
    """The estimator that is fitted to the folds: for a network only the head, a convex problem on cached features."""
    if hasattr(estimator, "linear_probe"):
        return estimator.linear_probe()
    quick = clone(estimator)
    networks = {name: part for name, part in quick.get_params().items() if hasattr(part, "linear_probe")}
    return quick.set_params(**{name: network.linear_probe() for name, network in networks.items()})


def tempered(proba: np.ndarray, T: float) -> np.ndarray:
    """Probabilities at temperature T: softmax of their logarithms divided by T.

    Examples
    --------
    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    logs = np.log(np.clip(np.asarray(proba, dtype=np.float64), 1e-300, None)) / T
    exponentials = np.exp(logs - logs.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
