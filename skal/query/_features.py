"""Features of the pool, of the labelled images and of a source, in which images are near to or far from each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils import check_array

from skal._learners import estimators_of, labelled_rows
from skal.query._pipeline import Steps, feature_maps, is_network, last_step
from skal.query._pool import is_dask, score_pool


@dataclass(frozen=True)
class Features:
    """Features (n, D) of the pool, of the labelled images, of a source, and the number of known classes."""

    pool: torch.Tensor
    labelled: torch.Tensor
    source: torch.Tensor
    n_classes: int

    @property
    def joined(self) -> torch.Tensor:
        """The pool, then the labelled images."""
        return torch.cat([self.pool, self.labelled])

    def normalized(self) -> Features:
        """These, scaled to length 1, read from the mean of pool and labelled images, and scaled again.

        What all images share, a large part of the features of ImageNet's networks, does not make them near each other.
        It is done in place: a million rows are copied only once.
        """
        own = (self.pool, self.labelled)
        for X in (*own, self.source):
            F.normalize(X, out=X)
        mean = sum((X.sum(0, dtype=torch.float64) for X in own), start=torch.zeros(self.pool.shape[1])) / sum(
            map(len, own)
        )
        for X in (*own, self.source):
            F.normalize(X.sub_(mean.to(X.dtype)), out=X)
        return self


def features_of(
    learner: Any,
    X_pool: Any,
    X_source: Any = None,
    *,
    own_source: Any = None,
    layer: str | int | None = None,
    pooled: bool = True,
) -> Features:
    """Features of pool, labelled images and source under a learner's estimators, copied.

    Those of several networks, in a committee or inside a meta-estimator, stand side by side.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
    X_pool, X_source : array-like
    own_source : array-like, default=None
        A source as the network itself was given it, behind the earlier steps of a Pipeline.
    layer : str or int, default=None
        Where given, features are the pre-trained network's activations there.
    pooled : bool, default=True
        Whether these are averaged over space.

    Raises
    ------
    ValueError
        If X is not two-dimensional where no network makes features of it.
    """
    X_labelled = labelled_rows(learner)
    estimators = estimators_of(learner)
    parts: list[list[np.ndarray]] = [[], [], []]
    for estimator in estimators:
        maps = feature_maps(estimator, X_pool) if layer is None else [_at_layer(estimator, X_pool, layer, pooled)]
        for features in (partial(_checked, type(estimator).__name__, one) for one in maps):
            of_pool = score_pool(features, X_pool) if is_dask(X_pool) else features(X_pool)
            for part, X in zip(parts, (None, X_labelled, X_source), strict=True):
                part.append(of_pool[:0] if X is None else features(X))
            parts[0][-1] = of_pool
        if own_source is not None:
            network, _ = last_step(estimator, X_pool)
            parts[2][-1] = _checked("the source", network.transform, own_source)
    n_classes = max(len(getattr(estimator, "classes_", ())) for estimator in estimators)
    pool, labelled, source = (torch.from_numpy(np.concatenate(part, axis=1)) for part in parts)
    return Features(pool, labelled, source, n_classes)


def _at_layer(estimator: Any, X_pool: Any, layer: str | int, pooled: bool) -> Steps:
    network, earlier = last_step(estimator, X_pool)
    if not is_network(network):
        raise ValueError(f"{type(network).__name__} has no layers to compare with a profile; give X_source instead")
    return earlier.then(partial(_activations, network, layer, pooled))


def _activations(network: Any, layer: str | int, pooled: bool, X: Any) -> np.ndarray:
    return network.activations(X, [layer], pooled=pooled, pretrained=True)[0]


def _checked(name: str, features: Callable[[Any], Any], X: Any) -> np.ndarray:
    """Features as a contiguous array of numbers, two-dimensional or else a ValueError."""
    values = features(X)
    shape = getattr(values, "shape", None) or np.shape(values)
    if len(shape) != 2:
        raise ValueError(
            f"{name} makes no features of X: its shape is {tuple(shape)}, but distances need (n, n_features). Put a "
            "FrozenPrefixClassifier before the classifier in a Pipeline, or pass features of shape (n, n_features)"
        )
    return np.ascontiguousarray(check_array(values, dtype=[np.float64, np.float32]))
