"""A fitted classifier as a file, and back."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skal._fitting import prefix_of
from skal._random import seeded
from skal.training.checkpoint import load_models, read_checkpoint, write_checkpoint
from skal.training.labelled import Labelled
from skal.training.net import Options
from skal.training.problem import Problem
from skal.training.suffix import Suffix

if TYPE_CHECKING:
    from typing_extensions import Self


class SavingMixin:
    """Methods of a classifier that write it and read it."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained layers, head and classes (safetensors).

        The frozen prefix is not in the file: the pre-trained network it belongs to is named by its fingerprint.

        Parameters
        ----------
        path : path
        """
        check_is_fitted(self)
        save_classifier(self, path)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Take the state that :meth:`save` wrote; runs no code from the file.

        Parameters
        ----------
        path : path

        Returns
        -------
        self : FrozenPrefixClassifier
            Fitted, with this estimator's own backbone and parameters. It remembers no training images: a later
            `partial_fit` replays none.

        Raises
        ------
        ValueError
            If the file is no classifier of skal's or belongs to another backbone.
        """
        take_state(self, fitted_state(self, path))
        return self


def take_state(classifier: Any, state: dict[str, Any]) -> None:
    """Replace the fitted attributes of a classifier by those of another fit."""
    for name in vars(classifier).get("_attributes", ()):
        delattr(classifier, name)
    vars(classifier).update(state)


def save_classifier(classifier: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted classifier."""
    described = {
        "classes": classifier.classes_.tolist(),
        "n_frozen": classifier.n_frozen_,
        "fingerprint": classifier.backbone_.fingerprint,
        "n_features_in": getattr(classifier, "n_features_in_", None),
        "preprocess": repr(classifier.backbone_.inputs.transform),
        "recipe": type(classifier.recipe_).__name__,
        "data": sorted(classifier.data_),
    }
    write_checkpoint(path, [*classifier.fused_, classifier.net_.module_], described)


def fitted_state(classifier: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fitted attributes from a file, for a classifier whose parameters name the network it belongs to.

    Raises
    ------
    ValueError
        If the file is no classifier of skal's or belongs to another backbone.
    """
    state, described = read_checkpoint(path)
    prefix = prefix_of(classifier, n_features=described["n_features_in"])
    backbone = prefix.backbone
    if backbone.fingerprint != described["fingerprint"]:
        raise ValueError(
            f"{str(path)!r} belongs to the backbone {described['fingerprint']!r}, but this one is "
            f"{backbone.fingerprint!r}"
        )
    if repr(backbone.inputs.transform) != described["preprocess"]:
        raise ValueError(
            f"{str(path)!r} was trained with {described['preprocess']}, but this classifier has "
            f"{backbone.inputs.transform}"
        )
    options = Options.of(classifier)
    classes = np.array(described["classes"])
    labelled = Labelled.none(classes)
    prefix = replace(prefix, n_frozen=described["n_frozen"])
    n_classes, n_features = state["0.head.weight"].shape
    with seeded(0):
        models = [
            Suffix(
                backbone.layers,
                prefix.n_frozen,
                n_classes,
                n_features,
                options.train_batch_norm,
                described["normalize"],
            )
            for _ in range(described["n_models"])
        ]
    load_models(models, state)
    problem = Problem(prefix, options, labelled.inputs, labelled.y, np.zeros(0, dtype=bool), foretold=classes)
    width = described["n_features_in"]
    return {
        **({} if width is None else {"n_features_in_": width}),
        "net_": problem.finished_net(models[-1]),
        "classes_": classes,
        "fused_": models[:-1],
        "backbone_": backbone,
        "n_frozen_": prefix.n_frozen,
        "data_": dict.fromkeys(described["data"]),
        "seen_": labelled,
        "_trained_by": described["recipe"],
        "_attributes": [],
    }
