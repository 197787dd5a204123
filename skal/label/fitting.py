"""What is done with an estimator behind a labelling session: features, fits, predictions and queries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from skal import FrozenPrefixClassifier
from skal.query import uherding_sampling

#: Images that are predicted or embedded at a time; between two blocks a session can be closed.
BLOCK = 64


DEFAULT_BACKBONE = "efficientnet_lite0"


class StoppedError(Exception):
    """The session is being closed."""


def default_estimator(cache: Any = True, random_state: int | None = 0) -> FrozenPrefixClassifier:
    """EfficientNet-Lite0, whose weights come from the package index, with a linear probe on its features.

    Nothing is fine-tuned: a model is trained every few answers, and a probe takes a third of the time.
    """
    return FrozenPrefixClassifier(
        "efficientnet_lite0", image_size=128, max_epochs=0, min_steps=0, cache=cache, random_state=random_state
    )


def build_estimator(network: dict[str, Any], cache: Any = True) -> FrozenPrefixClassifier:
    """The classifier that a project's settings or a model's description name."""
    backbone = network.get("backbone") or DEFAULT_BACKBONE
    if backbone == DEFAULT_BACKBONE and not network.get("weights"):
        return default_estimator(cache)
    return FrozenPrefixClassifier(
        backbone,
        weights=network.get("weights") or "auto",
        image_size=network.get("image_size"),
        max_epochs=0,
        min_steps=0,
        cache=cache,
        random_state=0,
    )


@dataclass
class Learner:
    """What a query strategy asks: an estimator and what it has been trained on."""

    estimator: Any
    X_training: Any = None
    y_training: Any = None

    def predict_proba(self, X: Any) -> np.ndarray:
        return self.estimator.predict_proba(X)


def fit(estimator: Any, paths: Sequence[str], labels: Sequence[str], unlabeled: Sequence[str]) -> Any:
    """A fitted clone; it learns from the unlabelled images too where it can."""
    further = {"X_unlabeled": np.array(unlabeled)} if len(unlabeled) and takes_unlabeled(estimator) else {}
    return clone(estimator).fit(np.array(paths), np.array(labels), **further)


def takes_unlabeled(estimator: Any) -> bool:
    """Whether `fit` takes unlabelled images, and the recipe it trains by uses them without a source."""
    takes = getattr(estimator, "takes", ())
    return "X_unlabeled" in takes and "X_source" not in takes


def predict(estimator: Any, paths: Sequence[str], go_on: Callable[[], bool] = lambda: True) -> np.ndarray:
    """Probabilities (n_images, n_classes), block by block.

    Raises
    ------
    StoppedError
        If `go_on` says no between two blocks.
    """
    parts = [np.zeros((0, len(estimator.classes_)), dtype=np.float32)]
    for start in range(0, len(paths), BLOCK):
        if not go_on():
            raise StoppedError
        parts.append(np.asarray(estimator.predict_proba(np.array(paths[start : start + BLOCK])), dtype=np.float32))
    return np.concatenate(parts)


def embed(estimator: Any, paths: Sequence[str]) -> None:
    """Compute what later fits and predictions take from the estimator's cache."""
    if hasattr(estimator, "activations"):
        estimator.activations(np.array(paths), [-2], pooled=True, pretrained=True)


def choose(query: Any, learner: Learner, pool: Sequence[str], n: int, seed: int) -> list[int]:
    """Positions in the pool that a strategy asks for, the first ones first."""
    n = min(n, len(pool))
    if n == 0:
        return []
    options = {"random_state": seed} if "random_state" in inspect.signature(query).parameters else {}
    picked = query(learner, np.array(pool), n_instances=n, **options)
    return [int(i) for i in (picked[0] if isinstance(picked, tuple) else picked)]


def default_query() -> Callable[..., Any]:
    """The strategy that is taken where none is named."""
    return uherding_sampling
