"""Pseudo-labels of unlabelled images, from the linear probe and label propagation over a neighbour graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.utils import check_consistent_length
from torch import nn

from skal.numerics.propagation import align, neighbor_graph, spread
from skal.training.head import HeadPenalty, cautious_C, solve_head

_NEIGHBORS, _ALPHA = 15, 0.9
#: Score added to each class at every point, as a share of the mean score.
_FLOOR = 0.1
#: Prior mean and standard deviation of the powers of the two votes.
_POWER, _WIDTH = 2.0, 0.5
#: Pool images per class at which the reliance on the pool is one half.
_HALF = 10.0
_FOLDS = 5
#: The prior of equal class shares counts as this many times the pool size, divided by the labels per class.
_EQUAL_SHARES = 50.0


def pseudo_labels(
    labelled: np.ndarray, y: np.ndarray, pool: np.ndarray, n_classes: int, *, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Class probabilities of unlabelled images, from labelled images and the neighbour graph of all images.

    The logistic regression on the labelled images gives P. The labels, propagated over the neighbour graph, give Q.
    P and Q err on different images, so their product P^a Q^b is better than either. The powers a and b maximise the
    likelihood of the labelled images, where each fold is predicted by votes learned without it, under a normal prior
    around 2. Where the graph is uninformative about the classes, or the labelled images are unusual, b decreases. The
    prior mean of b is smaller for a pool of few images per class. Far from all labels, Q is uniform. The class shares
    follow the predictions, more closely the more labels there are.

    Parameters
    ----------
    labelled : ndarray of shape (n, n_features)
        Features centred by the mean of labelled and pool images, as for the head.
    y : ndarray of shape (n,)
        Classes, numbered from 0. At least two must be present.
    pool : ndarray of shape (m, n_features)
    n_classes : int
    sample_weight : ndarray of shape (n,), default=None

    Returns
    -------
    proba : ndarray of shape (m, n_classes)
        Rows sum to 1. A class without a labelled image has probability 0.

    Raises
    ------
    ValueError
        If `y` contains anything but class numbers below `n_classes`, or not one per labelled image.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> side = np.repeat([-1.0, 1.0], 50)
    >>> X = np.column_stack([side, rng.normal(size=(100, 5)) / 5]).astype(np.float32)
    >>> proba = pseudo_labels(X[[0, 99]], np.array([0, 1]), X[1:99], 2)
    >>> bool((proba.argmax(axis=1) == (side[1:99] > 0)).all())
    True
    """
    check_consistent_length(labelled, y)
    present, y = np.unique(y, return_inverse=True)
    if present.dtype.kind not in "iu" or present[0] < 0 or present[-1] >= n_classes:
        raise ValueError(
            f"y contains the classes {present.tolist()}, but must contain numbers from 0 to {n_classes - 1}"
        )
    n, n_present = len(y), len(present)
    X = np.concatenate([labelled, pool], dtype=np.float32)
    weight = np.ones(n) if sample_weight is None else sample_weight
    graph = neighbor_graph(torch.from_numpy(X), _NEIGHBORS)
    folds = _folds(y)
    learned_from = [np.arange(n), *(np.flatnonzero(folds != fold) for fold in range(_FOLDS))]
    seeds = np.zeros((len(X), len(learned_from), n_present))
    for i, rows in enumerate(learned_from):
        seeds[rows, i, y[rows]] = weight[rows]
    seeds /= np.maximum(seeds.sum(axis=0), 1e-300)  # every class has the same total, whatever its number of labels
    scores = spread(graph, seeds.reshape(len(X), -1), _ALPHA).reshape(seeds.shape)
    log_Q = np.log(scores + _FLOOR * scores.mean(axis=(0, 2), keepdims=True) + 1e-300)
    penalty = HeadPenalty.of(X)
    log_P = _probe(X, y, weight, penalty, learned_from[0], X)

    tells = [_left_out(y, rows, folds == fold) for fold, rows in enumerate(learned_from[1:])]
    votes = [
        (_probe(X, y, weight, penalty, rows, X[told]), log_Q[told, 1 + fold], y[told])
        for fold, (rows, told) in enumerate(zip(learned_from[1:], tells, strict=True))
        if len(told)
    ]
    a, b = _powers(votes, np.array([_POWER, _POWER * reliance(len(pool), n_present)]))
    proba = softmax(a * log_P[n:] + b * log_Q[n:, 0], axis=1)
    out = np.zeros((len(pool), n_classes))
    out[:, present] = align(proba, n_prior=_EQUAL_SHARES * len(pool) * n_present / n)
    return out


def reliance(n_pool: int, n_classes: int) -> float:
    """How far to rely on a pool, from 0 to 1: the graph of few images per class is often misleading."""
    return n_pool / (n_pool + _HALF * n_classes)


def _probe(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray, penalty: HeadPenalty, rows: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    """Log-probabilities of the logistic regression on some labelled rows.

    Classes without a row share the remaining probability. C is cautious, as a vote counts by its confidence.
    """
    head = nn.utils.skip_init(nn.Linear, X.shape[1], int(y.max()) + 1, dtype=torch.float32)
    with torch.no_grad():
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        solve_head(head, X[rows], y[rows], replace(penalty, C=cautious_C(len(rows))), sample_weight=weight[rows])
        return np.asarray(log_softmax(head(torch.from_numpy(asked)).double().numpy(), axis=1))


def _folds(y: np.ndarray) -> np.ndarray:
    """Fold of each label; the labels of a class are spread over different folds."""
    folds = np.empty(len(y), dtype=int)
    folds[np.argsort(y, kind="stable")] = np.arange(len(y)) % _FOLDS
    return folds


def _left_out(y: np.ndarray, rows: np.ndarray, is_left_out: np.ndarray) -> np.ndarray:
    """Indices of left-out labels whose class is present among the other labels."""
    return np.flatnonzero(is_left_out & np.isin(y, y[rows]))


def _powers(votes: list[tuple[np.ndarray, np.ndarray, np.ndarray]], prior: np.ndarray) -> tuple[float, float]:
    """Powers of the two votes that maximise the posterior of labels that neither vote was learned from."""

    def surprise(powers: np.ndarray) -> float:
        losses = sum(
            -float(log_softmax(powers[0] * log_P + powers[1] * log_Q, axis=1)[np.arange(len(y)), y].sum())
            for log_P, log_Q, y in votes
        )
        return losses + float(((powers - prior) ** 2).sum()) / (2 * _WIDTH**2)

    found = minimize(surprise, prior, method="L-BFGS-B", bounds=[(0, 10), (0, 10)]).x
    return float(found[0]), float(found[1])
