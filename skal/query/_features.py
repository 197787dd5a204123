"""The features in which images are near to or far from each other, of the pool and of what is labelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array

from skal.query._learner import labelled, last_step, members
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
        """All scaled to length 1."""
        return Features(F.normalize(self.pool), F.normalize(self.labelled), F.normalize(self.source), self.n_classes)


def features_of(
    learner: Any,
    X_pool: Any,
    X_source: Any = None,
    *,
    own_source: Any = None,
    layer: str | int | None = None,
    pooled: bool = True,
) -> Features:
    """Features of pool, labelled images and source under a learner's estimator, copied; of a committee, side by side.

    Given a layer, they are the pre-trained network's activations there. `own_source` is a source as the network itself
    was given it, behind the earlier steps of a Pipeline.
    """
    taught = labelled(learner)
    parts: list[list[np.ndarray]] = [[], [], []]
    for estimator in members(learner):
        network, earlier = last_step(estimator, X_pool)

        def transformed(X: Any, network: Any = network, earlier: Any = earlier) -> np.ndarray:
            if layer is not None:
                return network.activations(earlier(X), [layer], pooled=pooled, pretrained=True)[0]
            return _transformed(network, earlier(X))

        of_pool = score_pool(transformed, X_pool) if is_dask(X_pool) else transformed(X_pool)
        for part, X in zip(parts, (None, taught, X_source), strict=True):
            part.append(of_pool[:0] if X is None else transformed(X))
        parts[0][-1] = of_pool
        if own_source is not None:
            parts[2][-1] = _transformed(network, own_source)
    n_classes = max(len(getattr(estimator, "classes_", ())) for estimator in members(learner))
    pool, of_labelled, source = (torch.from_numpy(np.concatenate(part, axis=1)) for part in parts)
    return Features(pool, of_labelled, source, n_classes)


def _transformed(network: Any, X: Any) -> np.ndarray:
    """What a network makes of images before its head; before it is fitted, what it was pre-trained to."""
    if hasattr(network, "transform"):
        try:
            features = network.transform(X)
        except NotFittedError:
            (features,) = network.activations(X, [-2], pooled=True) if hasattr(network, "activations") else (X,)
    else:
        features = X
    return np.ascontiguousarray(check_array(features, dtype=[np.float64, np.float32]))
