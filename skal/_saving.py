"""Saving and loading of fitted classifiers."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler

from skal._fitting import fitted_prefix, prefix_of, recipe_of
from skal._labels import decode_labels, encode_labels
from skal._random import seeded
from skal.features.prefix import Prefix
from skal.features.stored import StoredActivations
from skal.images.transform import ImageTransform
from skal.training.checkpoint import load_models, models_state, read_checkpoint, write_checkpoint
from skal.training.export import WholeNetwork
from skal.training.labelled import Labelled
from skal.training.net import Options
from skal.training.problem import Problem
from skal.training.suffix import Suffix

if TYPE_CHECKING:
    from typing import Self


_REQUIRED = (
    "classes", "n_models", "normalize", "n_frozen", "fingerprint", "n_features_in", "preprocess", "recipe", "data",
    "mirrors", "trained_classes", "labelled", "keys", "weighted", "scale",
)  # fmt: skip


class SavingMixin:
    """Methods that save, load and export a classifier."""

    classes_: np.ndarray
    fused_: Sequence[Suffix]
    net_: NeuralNetClassifier

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        if "net_" in state:
            state["net_"] = without_training_state(self.net_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "net_" in state:
            self.net_.module = self.net_.module_

    def save(self, path: str | os.PathLike[str], *, include_labelled: bool = False) -> None:
        """Write the trained layers, head and classes (safetensors).

        The frozen prefix is not saved. The file contains the fingerprint of the pre-trained network.

        Parameters
        ----------
        path : path
        include_labelled : bool, default=False
            Whether to include the labelled images, as float32 activations at the cut, so that `partial_fit` continues
            exactly as it would have without saving (not with `SelectiveJoint`, which needs their pixels). This makes
            the file larger, by 96 kB per image for MobileNetV2 at 129 pixels and default depth. It also reveals
            information about the images: at ``n_frozen=0`` the activations are the pre-processed images themselves.
        """
        check_is_fitted(self)
        save_classifier(self, path, include_labelled)

    def to_module(self) -> WholeNetwork:
        """The whole fitted network as one module, for ``torch.export``, ONNX, or a program without skal.

        Returns
        -------
        module : nn.Module
            In evaluation mode, on the CPU, independent of this classifier. Its input is images (n, channels, H, W)
            scaled to [0, 1], and resized and cropped according to its attributes `resize`, `image_size` and
            `interpolation`. Its output is the probabilities of `classes`. Mean and standard deviation of the
            pre-processing are buffers of the module.
        """
        check_is_fitted(self)
        names = [str(label) for label in self.classes_]
        return WholeNetwork(fitted_prefix(self), [*self.fused_, self.net_.module_], names)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Load a state written by :meth:`save`. No code from the file is executed.

        Parameters
        ----------
        path : path

        Returns
        -------
        self : FrozenPrefixClassifier
            Fitted, with this estimator's own backbone and parameters. `n_frozen=None` takes the frozen depth of the
            file. Unless the file includes labelled images, a later `partial_fit` replays none, and does not change
            classes without new images.

        Raises
        ------
        ValueError
            If the file is not a skal classifier, is damaged, or was saved with another backbone, pre-processing or
            frozen depth. The error names the parameter that differs.
        """
        take_state(self, fitted_state(self, path))
        return self


def without_training_state(net: NeuralNetClassifier) -> NeuralNetClassifier:
    """A net with the same weights, for a pickle: without the optimiser, which is larger than the weights.

    No later fit needs the optimiser. skorch would write it twice, because the schedule of the learning rate holds it
    too, and would also write the module twice.
    """
    reduced = object.__new__(type(net))
    vars(reduced).update({name: value for name, value in vars(net).items() if name != "optimizer_"})
    reduced.module = None
    for name in ("callbacks", "callbacks_"):
        given = getattr(net, name)
        if isinstance(given, list):
            setattr(reduced, name, [_without_schedule(callback) for callback in given])
    return reduced


def _without_schedule(callback: Any) -> Any:
    if isinstance(callback, tuple):
        name, unnamed = callback
        return name, _without_schedule(unnamed)
    if isinstance(callback, LRScheduler):
        callback = copy.copy(callback)
        callback.lr_scheduler_ = None
    return callback


def take_state(classifier: Any, state: dict[str, Any]) -> None:
    """Replace the fitted attributes of a classifier with those of another fit."""
    for name in (*vars(classifier).get("_attributes", ()), "n_features_in_", "feature_names_in_"):
        vars(classifier).pop(name, None)
    vars(classifier).update(state)


def save_classifier(classifier: Any, path: str | os.PathLike[str], include_labelled: bool) -> None:
    """Write a fitted classifier, optionally with its labelled images as activations."""
    seen = classifier.seen_ if include_labelled else Labelled.none(classifier.classes_)
    further = {}
    if len(seen.y):
        views = zip(*fitted_prefix(classifier).viewed(seen.inputs), strict=True)
        names = ("labelled.activations", "labelled.mirrored")
        further = {
            **{name: torch.cat(blocks) for name, blocks in zip(names, views, strict=False)},
            "labelled.targets": torch.from_numpy(np.searchsorted(classifier.classes_, seen.y)),
            "labelled.weights": torch.from_numpy(seen.weights),
        }
    described = {
        "classes": encode_labels(classifier.classes_),
        "n_models": 1 + len(classifier.fused_),
        "normalize": classifier.net_.module_.normalize,
        "n_frozen": classifier.n_frozen_,
        "mirrors": classifier.mirrors_,
        "fingerprint": classifier.backbone_.fingerprint,
        "backbone": classifier.backbone if isinstance(classifier.backbone, str) else None,
        "n_features_in": getattr(classifier, "n_features_in_", None),
        "feature_names_in": list(getattr(classifier, "feature_names_in_", [])),
        "preprocess": repr(classifier.backbone_.inputs.transform),
        "recipe": classifier._trained_by,
        "data": sorted(classifier.data_),
        "trained_classes": np.searchsorted(classifier.classes_, classifier.trained_classes_).tolist(),
        "declared": np.searchsorted(classifier.classes_, classifier._declared).tolist(),
        "labelled": seen.content.tolist(),
        "keys": [key.hex() for key in seen.inputs.keys(range(len(seen.y)))],
        "weighted": seen.sample_weight is not None,
        "scale": classifier.net_.module_.scale,
    }
    further |= {"features.center": torch.from_numpy(classifier.net_.module_.center)}
    state = models_state([*classifier.fused_, classifier.net_.module_])
    write_checkpoint(path, {**state, **further}, described)


def fitted_state(classifier: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Fitted attributes from a file, for a classifier whose parameters specify the same network.

    Raises
    ------
    ValueError
        If the file is not a skal classifier, is damaged, or does not fit the parameters.
    """
    state, described = read_checkpoint(path, _REQUIRED)
    prefix = prefix_of(classifier, n_features=described["n_features_in"])
    backbone = prefix.backbone
    difference = _difference(classifier, prefix, described)
    if difference:
        raise ValueError(f"{str(path)!r} does not fit this classifier: {difference}")
    options = Options.of(classifier)
    recipe = recipe_of(classifier)
    classes = decode_labels(described["classes"])
    labelled = _labelled(state, described, classes)
    prefix = replace(prefix, n_frozen=described["n_frozen"], mirrors=described["mirrors"])
    if "0.head.weight" not in state:
        raise ValueError(f"{str(path)!r} is incomplete: the tensor '0.head.weight' is missing")
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
    center = state.pop("features.center", None)
    if center is None:
        raise ValueError(f"{str(path)!r} is incomplete: the tensor 'features.center' is missing")
    models[-1].center, models[-1].scale = center.numpy(), described["scale"]
    for i, model in enumerate(models):
        if f"{i}.mean" in state:  # the model was trained with a pool
            model.mean = torch.zeros(n_features)
    load_models(models, {name: values for name, values in state.items() if not name.startswith("labelled.")}, path)
    nothing = Labelled.none(classes)
    problem = Problem(prefix, options, nothing.inputs, nothing.y, np.zeros(0, dtype=bool), expected_classes=classes)
    width, names = described["n_features_in"], described.get("feature_names_in")  # older files lack names
    return {
        **({} if width is None else {"n_features_in_": width}),
        **({"feature_names_in_": np.array(names, dtype=object)} if names else {}),
        "net_": problem.finished_net(models[-1]),
        "classes_": classes,
        "trained_classes_": classes[described["trained_classes"]],
        "fused_": models[:-1],
        "backbone_": backbone,
        "n_frozen_": prefix.n_frozen,
        "mirrors_": prefix.mirrors,
        "data_": dict.fromkeys(described["data"]),
        "seen_": labelled,
        "_final": problem.final,
        "_declared": classes[described.get("declared", [])],
        "recipe_": recipe if type(recipe).__name__ == described["recipe"] else None,
        "_trained_by": described["recipe"],
        "_attributes": [],
    }


def _difference(classifier: Any, prefix: Prefix, described: dict[str, Any]) -> str:
    """The first parameter that differs between a classifier and a file, and what to pass; empty if none does.

    The weights are compared after the image size, because some networks have other weights for another size.
    """
    given, name = classifier.backbone, described.get("backbone")
    given = given if isinstance(given, str) else type(given).__name__
    own, fingerprint = prefix.backbone.fingerprint, described["fingerprint"]
    if own != fingerprint and name is not None and name != given:
        return f"backbone differs: the file has {name!r}, this classifier {given!r}; pass backbone={name!r}"
    transform = prefix.backbone.inputs.transform
    if repr(transform) != described["preprocess"]:
        return _other_preprocessing(transform, described["preprocess"])
    if own != fingerprint:
        return (
            f"backbone or weights differ: the file has weights with the fingerprint {fingerprint}, this classifier "
            f"{given!r} with {own}; pass the backbone and weights of the saved classifier"
        )
    n_frozen = described["n_frozen"]
    if classifier.n_frozen is not None and prefix.n_frozen != n_frozen:
        return (
            f"n_frozen differs: the file has {n_frozen}, this classifier {prefix.n_frozen}; pass n_frozen={n_frozen} "
            "or None"
        )
    return ""


def _other_preprocessing(own: ImageTransform | None, saved: str) -> str:
    """The difference between a pre-processing and the text of another one."""
    size = re.match(r"ImageTransform\(resize=(\d+), crop=\1,", saved)
    if size and own is not None and repr(replace(own, resize=int(size[1]), crop=int(size[1]))) == saved:
        here = own.crop if own.crop == own.resize else f"{own.crop} after a resize to {own.resize}"
        return f"image_size differs: the file has {size[1]}, this classifier {here}; pass image_size={size[1]}"
    return f"preprocess differs: the file has {saved}, this classifier {own}; pass preprocess={saved}, image_size=None"


def _labelled(state: dict[str, torch.Tensor], described: dict[str, Any], classes: np.ndarray) -> Labelled:
    """The labelled images of a file, as activations; empty if they were not included."""
    names = described["labelled"]
    if not names:
        return Labelled.none(classes)
    stored = StoredActivations(
        state["labelled.activations"], [bytes.fromhex(key) for key in described["keys"]], state.get("labelled.mirrored")
    )
    weights = state["labelled.weights"].numpy() if described["weighted"] else None
    return Labelled(stored, classes[state["labelled.targets"].numpy()], weights, np.array(names, dtype=str))
