"""Learning from an unlabelled pool: which images are used, and how the head is trained on them."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from skal.features.activations import Point
from skal.features.pooling import flat
from skal.features.prefix import mean_of_views
from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, JoinedInputs
from skal.numerics.propagation import nearest_neighbors
from skal.training.final import final_features
from skal.training.head import HeadPenalty, solve_head
from skal.training.problem import Problem, Start
from skal.training.pseudo_labelling import pseudo_labels, reliance
from skal.training.suffix import Suffix

#: Total weight of the pool in the head's loss per labelled image. One pool image weighs at most 1.
_POOL_WEIGHT = 10.0
#: C of this head, for features of norm 1 and weight 1 per labelled image in the loss.
_POOL_C = 10.0
#: Test of whether the pool differs from the labelled images: number of neighbours of a labelled image, the odds ratio
#: of labelled ones among them above which the pool differs, and the fewest labelled images that allow the test.
_NEIGHBORS, _ODDS, _FEWEST = 15, 5.0, 10
#: Second condition of this test: number of neighbours in the pool, the share of pool images than which labelled images
#: must be farther from them, and the number of pool images compared.
_NEAREST, _FARTHER, _COMPARED = 5, 0.7, 1000
#: Under a time limit, number of pool images that the head is first fitted to (at least five per labelled image), and
#: the factor from one attempt to the next. The time grows at most with the square of the number.
_FIRST, _GROWTH = 250, 4


@dataclass(frozen=True)
class PoolStart:
    """A start whose head is also fitted to the pool.

    Parameters
    ----------
    start : Start
    pool : Inputs
        The pool images that were used: all, or as many as the time limit allows.
    seconds : float
        Estimated time of :func:`refit_head` on them.
    """

    start: Start
    pool: Inputs
    seconds: float


def sampled(problem: Problem, X_unlabeled: Any, max_unlabeled: int) -> Inputs:
    """Pool images that are not labelled; at most `max_unlabeled`, drawn at random."""
    try:
        pool = problem.check(X_unlabeled)
    except ValueError as error:
        raise ValueError(f"X_unlabeled: {error}") from error
    labelled = problem.inputs.keys(range(len(problem.inputs)))
    drawn = np.arange(len(pool))
    if len(pool) > max_unlabeled:  # a key costs a read of each image, so only the drawn ones get a key
        drawn = torch.randperm(len(pool))[: max_unlabeled + len(labelled)].numpy()
    names = pool.keys(drawn)
    known = set(labelled)
    rows = [row for row, name in zip(drawn, names, strict=True) if name not in known][:max_unlabeled]
    return KeyedInputs(JoinedInputs((pool, np.sort(rows))))


def is_of_another_kind(labelled: np.ndarray, pool: np.ndarray) -> bool:
    """Whether labelled images are near each other and far from the pool, as if the pool were of a different kind.

    If an image was drawn from the pool, the share of labelled images among its nearest neighbours is about that among
    all images, and it is about as near to the pool as pool images are to each other. Two conditions therefore mark a
    pool as different. The odds of labelled neighbours are more than five times those among all images, and labelled
    images are farther from the pool than 70 % of its own images. The result is False with fewer than ten labelled
    images, or with a pool of less than five times as many, which may lack a class.

    Parameters
    ----------
    labelled : ndarray of shape (n, n_features)
        Features centred by the mean of labelled and pool images.
    pool : ndarray of shape (m, n_features)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> here, there = rng.normal(size=(120, 5)), rng.normal(size=(100, 5)) + 9
    >>> is_of_another_kind(here[:20], here[20:]), is_of_another_kind(here[:20] - 4.5, there - 4.5)
    (False, True)
    """
    n, m = len(labelled), len(pool)
    if n < _FEWEST or m < 5 * n:
        return False
    _, nearest = nearest_neighbors(torch.from_numpy(np.concatenate([labelled, pool])), min(_NEIGHBORS, n - 1), n)
    share = float((nearest < n).float().mean())
    if share * m <= _ODDS * (1 - share) * n:
        return False
    every = -(-m // _COMPARED)
    some = np.arange(m) % every == 0
    own_cosines, _ = nearest_neighbors(
        torch.from_numpy(np.concatenate([pool[some], pool[~some]])), _NEAREST, some.sum()
    )
    cosines = functional.normalize(torch.from_numpy(labelled)) @ functional.normalize(torch.from_numpy(pool)).T
    is_farther = cosines.topk(_NEAREST, dim=1).values.mean(dim=1)[:, None] < own_cosines.mean(dim=1)
    return float(is_farther.float().mean()) > _FARTHER


def start_with_pool(pool: Inputs, problem: Problem, start: Start) -> PoolStart | None:
    """Fit the head of a start also to the pool, in place, in at most half of the time that is left.

    Under a time limit the head is fitted to a part of the pool, and again to a larger one as long as there is time.
    Returns None if no time is left, or, with a warning, if the pool is of a different kind than the labelled images.
    """
    suffix, n = start.suffix, len(problem.y)
    began = time.monotonic()
    labelled = problem.features(suffix)
    per_image = (time.monotonic() - began) / n
    pooled = _pool_features(problem, suffix, pool)
    if problem.seconds_left == 0:
        return None
    size = len(pool) if problem.deadline is None else min(max(_FIRST, 5 * n), len(pool))
    rows, before = _spread(size, len(pool)), suffix.mean
    read = _read(suffix, torch.cat([labelled, pooled[rows]]))
    centered = _centered(read)
    if is_of_another_kind(centered[:n], centered[n:]):
        warnings.warn(
            "X_unlabeled is not used for training: its images appear to be of a different kind, as the labelled images "
            "are close to each other and far from them",
            UserWarning,
            stacklevel=2,
        )
        suffix.mean = before
        return None
    while True:
        began = time.monotonic()
        penalty = _fit_head(suffix, read, problem)
        seconds = time.monotonic() - began
        if size == len(pool) or _GROWTH**2 * seconds > problem.seconds_left / 2:
            break
        size = min(_GROWTH * size, len(pool))
        rows = _spread(size, len(pool))
        read = _read(suffix, torch.cat([labelled, pooled[rows]]))
    # Training continues on labelled images only.
    started = replace(start, penalty=replace(penalty, n=n, C=start.penalty.C), probe=copy.deepcopy(suffix))
    used = pool if size == len(pool) else JoinedInputs((pool, rows))
    return PoolStart(started, used, seconds + per_image * size)


def refit_head(pool: Inputs, problem: Problem, suffix: Suffix) -> None:
    """Solve the head of a trained suffix in place, with pseudo-labels from its own features.

    Training has used only the labelled images. Pseudo-labels from the trained features are more often correct than
    those from the features before training.
    """
    pooled = torch.cat([*final_features(problem.prefix, pool, suffix, problem.final)])
    _fit_head(suffix, _read(suffix, torch.cat([problem.features(suffix), pooled])), problem)


def _fit_head(suffix: Suffix, read: np.ndarray, problem: Problem) -> HeadPenalty:
    """Solve the head on labelled images and on pool images with :func:`pseudo_labels`."""
    n, centered = len(problem.y), _centered(read)
    n_pool = len(read) - n
    weight = np.ones(n) if problem.row_weights is None else problem.row_weights
    y, n_classes = problem.targets.numpy(), len(problem.classes)
    total = min(_POOL_WEIGHT * n, float(n_pool)) * reliance(n_pool, len(np.unique(y)))
    weights = np.concatenate([weight, np.full(n_pool, total / n_pool)])
    # solve_head scales sample weights to a mean of 1, and the penalty is scaled accordingly.
    penalty = HeadPenalty.of(read, C=_POOL_C * (n + total) / len(read))
    proba = pseudo_labels(centered[:n], y, centered[n:], n_classes, sample_weight=weight)
    targets = np.concatenate([np.eye(n_classes)[y], proba])
    solve_head(suffix.head, read, targets, penalty, sample_weight=weights)
    suffix.center, suffix.scale = penalty.center, penalty.scale
    return penalty


def _read(suffix: Suffix, features: torch.Tensor) -> np.ndarray:
    """Features of all images as the head reads them, centred by their mean. Moves the suffix to the CPU."""
    suffix.cpu().center_by(features)
    return suffix.scaled(features).numpy()


def _spread(size: int, n: int) -> np.ndarray:
    """Positions of `size` of `n` rows at equal distances."""
    return np.arange(size) * n // size


def _centered(read: np.ndarray) -> np.ndarray:
    return read - read.mean(axis=0)


def _pool_features(problem: Problem, suffix: Suffix, pool: Inputs) -> torch.Tensor:
    """Final representation (n, n_features) of the pool; that of the pre-trained network is cached."""
    prefix = problem.prefix
    if problem.last is not None:
        return torch.cat([*final_features(prefix, pool, suffix, problem.final)])
    points = [Point(prefix.backbone.layers.features, True)]
    if problem.options.max_epochs > 0:
        points.append(Point(prefix.cut))  # needed after training
    blocks = prefix.viewed_at(pool, points)
    return torch.cat([mean_of_views([flat(features) for features, *_ in views]) for views in blocks])
