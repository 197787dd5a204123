"""Features of the pool, of the labelled images and of a source, used to measure distances between images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array

from skal._learners import estimators_of, labelled_rows
from skal.numerics.points import Points, tensor_of
from skal.query._pipeline import Steps, feature_maps, is_network, last_step
from skal.query._pool import is_dask
from skal.query._workers import WorkerPoints


@dataclass(frozen=True)
class Features:
    """Features (n, D) of the pool, of the labelled images and of a source, and the number of known classes.

    Pool features are read in place and scaled as they are read, so a million rows are not copied. Features of labelled
    images and source are stored unscaled, and scaled like the pool when read.
    """

    pool: Points
    given_labelled: torch.Tensor
    given_source: torch.Tensor
    n_classes: int

    @property
    def labelled(self) -> torch.Tensor:
        """Features of the labelled images."""
        return self.pool.read(self.given_labelled)

    @property
    def source(self) -> torch.Tensor:
        """Features of the source."""
        return self.pool.read(self.given_source)

    @property
    def joined(self) -> Points:
        """The pool, then the labelled images."""
        return self.pool.joined(self.given_labelled)

    def centered(self) -> Features:
        """These features, centred on the mean of the pool."""
        return replace(self, pool=self.pool.scaled(mean=self.pool.mean()))

    def normalized(self) -> Features:
        """These features, scaled to length 1, centred on the mean of pool and labelled images, and scaled again.

        Centring removes what all images share, a large part of ImageNet networks' features, from their similarity.
        """
        unit = self.pool.scaled(unit=True)
        return replace(self, pool=unit.scaled(mean=unit.joined(self.given_labelled).mean(), unit=True))


def features_of(
    learner: Any,
    X_pool: Any,
    X_source: Any = None,
    *,
    own_sources: Sequence[Any] = (),
    layer: str | int | None = None,
    pooled: bool = True,
) -> Features:
    """Features of pool, labelled images and source under a learner's estimators.

    Features of several networks, in a committee or inside a meta-estimator, are concatenated. Features of a Dask array
    stay on its workers.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
    X_pool, X_source : array-like
    own_sources : sequence of array-like, default=()
        Sets of source images as the network itself received them, after the earlier steps of a Pipeline.
    layer : str or int, default=None
        If given, features are the pre-trained network's activations at this layer.
    pooled : bool, default=True
        Whether these activations are averaged over space.

    Raises
    ------
    ValueError
        If X is not two-dimensional and no network computes features from it.
    """
    X_labelled = labelled_rows(learner)
    estimators = estimators_of(learner)
    maps, of_source = [], []
    for estimator in estimators:
        own = feature_maps(estimator, X_pool) if layer is None else [_at_layer(estimator, X_pool, layer, pooled)]
        maps += [partial(_checked, type(estimator).__name__, one) for one in own]
        if own_sources:
            network, _ = last_step(estimator, X_pool)
            of_source.append(partial(_checked, "the source", network.transform))
    features = partial(_side_by_side, maps)
    pool = WorkerPoints.computed(features, X_pool) if is_dask(X_pool) else Points([features(X_pool)])
    none = pool[[]]
    labelled = none if X_labelled is None else tensor_of(features(X_labelled)).to(none)
    source = none if X_source is None else tensor_of(features(X_source)).to(none)
    if own_sources:
        source = torch.cat([tensor_of(_side_by_side(of_source, one)) for one in own_sources]).to(none)
    n_classes = max(len(getattr(estimator, "classes_", ())) for estimator in estimators)
    return Features(pool, labelled, source, n_classes)


def _at_layer(estimator: Any, X_pool: Any, layer: str | int, pooled: bool) -> Steps:
    network, earlier = last_step(estimator, X_pool)
    if not is_network(network):
        raise ValueError(f"{type(network).__name__} has no layers to compare with a profile; pass X_source instead")
    return earlier.then(partial(_activations, network, layer, pooled))


def _activations(network: Any, layer: str | int, pooled: bool, X: Any) -> np.ndarray:
    return network.activations(X, [layer], pooled=pooled, pretrained=True)[0]


def _side_by_side(maps: Sequence[Callable[[Any], np.ndarray]], X: Any) -> np.ndarray:
    parts = [features(X) for features in maps]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _checked(name: str, features: Callable[[Any], Any], X: Any) -> np.ndarray:
    """Features as a contiguous, two-dimensional array of numbers; raises a ValueError for other shapes."""
    values = features(X)
    shape = getattr(values, "shape", None) or np.shape(values)
    if len(shape) != 2:
        raise ValueError(
            f"features of {name} have shape {tuple(shape)}, but distances require (n, n_features). Put a "
            "FrozenPrefixClassifier before the classifier in a Pipeline, or pass features of shape (n, n_features)"
        )
    return np.ascontiguousarray(check_array(values, dtype=[np.float64, np.float32]))
