"""Calibrated probabilities: temperature scaling of a model's predictions, fitted on audit answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_TINY = 1e-12
_LOG_RANGE = (-4.0, 4.0)


def fit_temperature(proba: ArrayLike, targets: ArrayLike) -> float:
    """The temperature under which the predictions fit the labels best.

    It minimises the mean cross-entropy of ``softmax(log(proba) / T)`` [1]_. Each label counts as
    :math:`(n + 1) / (n + 2)` for its class, the target of [2]_ with right and wrong as the two cases, and the rest is
    divided evenly among the other classes. As a result, n right answers out of n do not make a model certain.

    Parameters
    ----------
    proba : array-like of shape (n, K)
        Predictions on images that the model was not trained on.
    targets : array-like of int of shape (n,)
        Column of each label.

    Returns
    -------
    temperature : float
        Above 1 if the model is overconfident.

    Raises
    ------
    ValueError
        If there are no rows, or a target is not a column of `proba`.

    References
    ----------
    .. [1] Guo, Pleiss, Sun and Weinberger. "On calibration of modern neural networks", ICML 2017, section 4.2.
    .. [2] Platt. "Probabilistic outputs for support vector machines", 1999, section 2.2.

    Examples
    --------
    >>> sure = [[0.99, 0.01]] * 40  # and right three times in four
    >>> temperature = fit_temperature(sure, [0] * 30 + [1] * 10)
    >>> calibrate(sure, temperature)[0].round(2).tolist()
    [0.74, 0.26]
    """
    from scipy.optimize import minimize_scalar  # imported here, so the first question need not wait for it
    from scipy.special import log_softmax

    proba, targets = np.asarray(proba, dtype=float), np.asarray(targets)
    if proba.ndim != 2 or len(proba) != len(targets) or not len(targets):
        raise ValueError(
            f"proba of shape {proba.shape} does not match {len(targets)} targets: one row per target, at least one"
        )
    n, n_classes = proba.shape
    if targets.min() < 0 or targets.max() >= n_classes:
        raise ValueError(f"targets must be between 0 and {n_classes - 1}, not {targets.min()} to {targets.max()}")
    wanted = np.full((n, n_classes), 1 / (n + 2) / max(n_classes - 1, 1))
    wanted[np.arange(n), targets] = (n + 1) / (n + 2)
    logits = np.log(np.maximum(proba, _TINY))

    def cross_entropy(log_temperature: float) -> float:
        return -float((wanted * log_softmax(logits / np.exp(log_temperature), axis=1)).sum()) / n

    return float(np.exp(minimize_scalar(cross_entropy, bounds=_LOG_RANGE, method="bounded").x))


def calibrate(proba: ArrayLike, temperature: float) -> np.ndarray:
    """``softmax(log(proba) / temperature)``. The most probable class stays the same.

    Parameters
    ----------
    proba : array-like of shape (n, K)
    temperature : float

    Returns
    -------
    proba : ndarray of shape (n, K)
    """
    from scipy.special import softmax

    return np.asarray(softmax(np.log(np.maximum(np.asarray(proba, dtype=float), _TINY)) / temperature, axis=1))
