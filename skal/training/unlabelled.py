"""Images of the pool that nobody has labelled: which of them are learned from, and what they teach the head."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from skal._threads import one_blas_thread
from skal.features.activations import Point
from skal.features.pooling import flat
from skal.features.prefix import mean_of_views
from skal.features.stored import KeyedInputs
from skal.images.inputs import Inputs, JoinedInputs
from skal.numerics.propagation import nearest_neighbors
from skal.training.final import final_features
from skal.training.head import HeadPenalty, default_C, solve_head
from skal.training.problem import Problem, Start
from skal.training.pseudo_labelling import pseudo_labels, reliance
from skal.training.suffix import Suffix

#: Weight of the whole pool in the head's loss for each labelled image; an image of the pool weighs at most 1.
_POOL_WEIGHT = 10.0
#: C of that head, on features of length 1 and losses of weight 1 for a labelled image.
_POOL_C = 10.0
#: Neighbours of a labelled image that tell whether the pool is of its kind, and the odds of labelled ones among them
#: where it is not; labelled images that are too few to tell.
_NEIGHBORS, _ODDS, _FEWEST = 15, 5.0, 10
#: Neighbours in the pool, the share of its own images than which labelled ones are farther from them where it is of
#: another kind, and images of the pool that are compared.
_NEAREST, _FARTHER, _COMPARED = 5, 0.7, 1000


def sampled(problem: Problem, X_unlabeled: Any, max_unlabeled: int) -> Inputs:
    """Images of the pool that are not labelled, and of these at most so many, drawn at random."""
    pool = problem.check(X_unlabeled)
    labelled = problem.inputs.keys(range(len(problem.inputs)))
    drawn = np.arange(len(pool))
    if len(pool) > max_unlabeled:  # names cost a read of each image, so the others are not named
        drawn = torch.randperm(len(pool))[: max_unlabeled + len(labelled)].numpy()
    names = pool.keys(drawn)
    known = set(labelled)
    rows = [row for row, name in zip(drawn, names, strict=True) if name not in known][:max_unlabeled]
    return KeyedInputs(JoinedInputs((pool, np.sort(rows))))


def is_apart(labelled: np.ndarray, pool: np.ndarray) -> bool:
    """Whether labelled images are near each other and far from a pool, as if it were of another kind.

    Of the nearest neighbours of an image that was drawn from the pool, about as many are labelled as of all images, and
    it is about as near to the pool as the pool's images are to each other. So a pool is apart where the odds of
    labelled neighbours are more than five times those of all, and labelled images are farther from it than 70 % of its
    own. Fewer than ten labelled images cannot tell, nor a pool of less than five times as many, which may lack a class.

    Parameters
    ----------
    labelled : ndarray of shape (n, n_features)
        Read from the mean of all.
    pool : ndarray of shape (m, n_features)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> here, there = rng.normal(size=(120, 5)), rng.normal(size=(100, 5)) + 9
    >>> is_apart(here[:20], here[20:]), is_apart(here[:20] - 4.5, there - 4.5)
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


def taught_by(pool: Inputs, problem: Problem, start: Start) -> Start | None:
    """A start whose head has learned from the pool too; its suffix is changed in place.

    A pool of another kind than the labelled images teaches nothing: None is returned, with a warning.
    """
    suffix, n = start.suffix, len(problem.y)
    features = torch.cat([problem.features(suffix), _pool_features(problem, suffix, pool)])
    before = suffix.mean
    read = _read(suffix, features)
    centered = _centered(read)
    if is_apart(centered[:n], centered[n:]):
        warnings.warn(
            "X_unlabeled is not learned from: the labelled images are near each other and far from its images, as if "
            "these were of another kind",
            UserWarning,
            stacklevel=2,
        )
        suffix.mean = before
        return None
    penalty = replace(_teach(suffix, read, problem), n=n, C=default_C(n))  # training goes on with labelled images alone
    return replace(start, penalty=penalty, probe=copy.deepcopy(suffix))


def teach_again(pool: Inputs, problem: Problem, suffix: Suffix) -> None:
    """Solve the head of a trained suffix on the pool as its own representation shows it, in place.

    Training has seen the labelled images alone. In what it has made of the features the pool's images are taken for the
    right classes more often than before.
    """
    pooled = torch.cat([*final_features(problem.prefix, pool, suffix, problem.final)])
    _teach(suffix, _read(suffix, torch.cat([problem.features(suffix), pooled])), problem)


def _teach(suffix: Suffix, read: np.ndarray, problem: Problem) -> HeadPenalty:
    """Solve the head on labelled images and, as what :func:`pseudo_labels` takes them for, on those of the pool."""
    n, centered = len(problem.y), _centered(read)
    n_pool = len(read) - n
    weight = np.ones(n) if problem.row_weights is None else problem.row_weights / problem.row_weights.mean()
    y, n_classes = problem.targets.numpy(), len(problem.classes)
    total = min(_POOL_WEIGHT * n, float(n_pool)) * reliance(n_pool, len(np.unique(y)))
    weights = np.concatenate([weight, np.full(n_pool, total / n_pool)])
    # The head's weights are scaled to a mean of 1, and the penalty with them.
    penalty = HeadPenalty.of(read, C=_POOL_C * (n + total) / len(read))
    with one_blas_thread():
        proba = pseudo_labels(centered[:n], y, centered[n:], n_classes, sample_weight=weight)
        targets = np.concatenate([np.eye(n_classes)[y], proba])
        solve_head(suffix.head, read, targets, penalty, sample_weight=weights)
    suffix.center, suffix.scale = penalty.center, penalty.scale
    return penalty


def _read(suffix: Suffix, features: torch.Tensor) -> np.ndarray:
    """Features of all images as the head reads them, from their mean; the suffix is on the CPU then."""
    suffix.cpu().center_by(features)
    return suffix.scaled(features).numpy()


def _centered(read: np.ndarray) -> np.ndarray:
    return read - read.mean(axis=0)


def _pool_features(problem: Problem, suffix: Suffix, pool: Inputs) -> torch.Tensor:
    """Final representation (n, n_features) of the pool; of the pre-trained network it is cached."""
    prefix = problem.prefix
    if problem.last is not None:
        return torch.cat([*final_features(prefix, pool, suffix, problem.final)])
    points = [Point(prefix.backbone.layers.features, True)]
    if problem.options.max_epochs > 0:
        points.append(Point(prefix.cut))  # asked for after training
    blocks = prefix.viewed_at(pool, points)
    return torch.cat([mean_of_views([flat(features) for features, *_ in views]) for views in blocks])
