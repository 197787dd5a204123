"""Computes the fitted attributes from the arguments of `fit`, without modifying the estimator."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, validate_data
from torch.utils.data import Subset, TensorDataset

from skal._device import find_device
from skal._random import draw_seed, seeded
from skal._targets import check_labels, dtype_kind
from skal.backbones.load import load_backbone
from skal.features.cache import find_cache
from skal.features.prefix import Prefix
from skal.images.forms import absolute, as_data, as_paths, is_images, unwrap
from skal.images.inputs import Inputs
from skal.training.fine_tuning import FineTuning
from skal.training.labelled import Labelled
from skal.training.mirror_images import are_like_their_mirror_images
from skal.training.net import Options
from skal.training.problem import LastFit, Problem
from skal.training.recipe import Recipe, Trained

#: Assumed number of labels of a future fit.
_USUAL_LABELS = 100


def train(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    data: dict[str, Any],
    *,
    continues: bool,
    replays: bool,
    classes: Any,
) -> dict[str, Any]:
    """Fitted attributes of an estimator.

    Parameters
    ----------
    estimator : FrozenPrefixClassifier
        Not modified.
    X, y, sample_weight
        As in its `fit`.
    data : dict of str to object or None
        Additional data for recipes.
    continues : bool
        Whether to continue from the last fit, if there is one of the same network at the same depth.
    replays : bool
        Whether to train on images seen before again. The network must then be the same.
    classes : array-like or None
        Classes that may appear later.
    """
    deadline = None if estimator.max_seconds is None else time.monotonic() + estimator.max_seconds
    continues = continues and hasattr(estimator, "net_")
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    if sample_weight is not None and data.get("sample_domain") is not None:
        raise ValueError(
            "sample_weight cannot be combined with sample_domain; pass the source as X_source and y_source"
        )
    shape = copy.copy(estimator)  # a copy records the width of X, so that a failed fit changes nothing
    X = checked_features(shape, X, reset=not (continues and replays))
    prefix, continues = _network(estimator, X, y, sample_weight, continues, replays)
    recipe = _checked_recipe(estimator, continues)
    X, y, data = _arranged(recipe, X, y, data, estimator.data_ if continues else {}, replays)
    if data.get("X_unlabeled") is not None:
        data = _with_pool(shape, data)
    if X is not None:
        new = Labelled.checked(estimator, prefix.check(X), y, sample_weight)
    elif sample_weight is None:
        new = Labelled.none(np.asarray(data["y_source"]))
    else:
        raise ValueError(f"sample_weight applies to labelled target images, but {type(recipe).__name__} has none")
    declared, pool = _declared_classes(estimator, new.y, classes, continues), data.get("X_unlabeled")
    problem, seen = _problem(estimator, prefix, new, pool, declared, deadline, continues=continues, replays=replays)
    trained = _run(recipe, problem, data, estimator)
    learned = {name: value for name, value in vars(shape).items() if name in ("n_features_in_", "feature_names_in_")}
    return {
        **learned,
        **trained.attributes,
        "net_": trained.net,
        "classes_": trained.classes,
        "trained_classes_": _trained_classes(problem, trained),
        "fused_": list(trained.fused),
        "backbone_": problem.prefix.backbone,
        "n_frozen_": problem.prefix.n_frozen,
        "mirrors_": problem.prefix.mirrors,
        "recipe_": recipe,
        "data_": data,
        "seen_": seen,
        "_final": problem.final,
        "_declared": declared,
        "_trained_by": type(recipe).__name__,
        "_attributes": list(trained.attributes),
    }


def _network(estimator: Any, X: Any, y: Any, sample_weight: Any, continues: bool, replays: bool) -> tuple[Prefix, bool]:
    """The frozen layers, and whether the last fit can be continued: not if it was of another network or depth."""
    prefix = prefix_of(estimator, X)
    if estimator.n_frozen is None:
        prefix = replace(prefix, n_frozen=_depth(estimator, prefix, y, sample_weight, continues))
    if estimator.source is not None:
        estimator.source.check_backbone(prefix.backbone)
    if not continues or is_same_network(estimator, prefix):
        return prefix, continues
    if replays:
        raise _other_network(estimator, prefix)
    return prefix, False


def _problem(
    estimator: Any,
    prefix: Prefix,
    new: Labelled,
    pool: Any,
    classes: Any,
    deadline: float | None,
    *,
    continues: bool,
    replays: bool,
) -> tuple[Problem, Labelled]:
    """The training problem, and its labelled images: new ones, with replay also those of the fit to be continued."""
    labelled, is_old = new, np.zeros(len(new.y), dtype=bool)
    if continues and replays:
        labelled, is_old = estimator.seen_.followed_by(new)
    elif continues:
        is_old = np.isin(new.content, estimator.seen_.content)
    validation, split = None, (estimator.net_params or {}).get("train_split")
    if split is not None and len(labelled.y):
        classes = np.union1d(classes, labelled.y)
        held_out = _held_out(split, labelled, is_old)
        rest = np.setdiff1d(np.arange(len(is_old)), held_out)
        validation, labelled, is_old = labelled.rows(held_out), labelled.rows(rest), is_old[rest]
    problem = Problem(
        replace(prefix, mirrors=_mirrors(estimator, prefix, labelled.inputs, pool, continues)),
        Options.of(estimator),
        labelled.inputs,
        labelled.y,
        is_old,
        labelled.sample_weight,
        classes,
        _last_fit(estimator, new) if continues else None,
        deadline,
        validation,
    )
    return problem, labelled


def _run(recipe: Recipe, problem: Problem, data: dict[str, Any], estimator: Any) -> Trained:
    """The result of a recipe. Raises a ValueError if its weights are not finite."""
    if len(problem.y):
        problem.held  # noqa: B018 (computed before `seeded`, which only one thread can enter at a time)
    with seeded(draw_seed(check_random_state(estimator.random_state))):
        trained = recipe.train(problem, **data)
    models = [trained.net.module_, *trained.fused]
    if not all(torch.isfinite(weight).all() for model in models for weight in model.parameters()):
        raise ValueError(
            f"training diverged: the weights are not finite with lr={estimator.lr}; use a lower learning rate"
        )
    return trained


def _other_network(estimator: Any, prefix: Prefix) -> ValueError:
    """The error of ``partial_fit`` if the parameters specify another network or depth than the last fit used."""
    return ValueError(
        f"partial_fit cannot continue a fit with {estimator.n_frozen_} frozen layers of "
        f"{estimator.backbone_.fingerprint!r} and {estimator.backbone_.inputs.transform}, because the parameters "
        f"now specify {prefix.n_frozen} frozen layers of {prefix.backbone.fingerprint!r} and "
        f"{prefix.backbone.inputs.transform}; call fit instead"
    )


def _declared_classes(estimator: Any, y: np.ndarray, classes: Any, continues: bool) -> np.ndarray:
    """Classes that were declared, in this or an earlier ``partial_fit``, and keep an output without images.

    Raises a ValueError if labels are not among `classes`, or of another type than those so far.
    """
    declared: np.ndarray = estimator._declared if continues else y[:0]
    if continues and dtype_kind(estimator.classes_) != dtype_kind(y):
        raise ValueError(
            f"y contains labels of type {y.dtype}, which is a different kind than the classes so far: "
            f"{estimator.classes_}"
        )
    if classes is None:
        return declared
    classes = np.unique(check_labels(estimator, classes, classes, "classes"))
    is_known = np.isin(y, classes) & (dtype_kind(y) == dtype_kind(classes))
    if not is_known.all():
        raise ValueError(f"y contains {y[~is_known][0]!r}, which is not in classes={classes}")
    return np.union1d(declared, classes)


def _depth(estimator: Any, prefix: Prefix, y: Any, sample_weight: Any, continues: bool) -> int:
    """Number of frozen layers if `n_frozen` is None: that of the continued fit, or one that fits the label count."""
    was_probe = continues and estimator.n_frozen_ == len(prefix.backbone.layers.weight_layers)
    if continues and not was_probe and estimator.backbone_.fingerprint == prefix.backbone.fingerprint:
        return int(estimator.n_frozen_)
    if estimator.max_epochs == 0:
        return prefix.n_frozen
    weights = np.asarray(1.0 if sample_weight is None else sample_weight)  # a single number is the weight of all
    n_labels = int(np.count_nonzero(weights) if weights.ndim else np.asarray(y).size)
    return int(recipe_of(estimator).default_depth(prefix.backbone, n_labels))


def _mirrors(estimator: Any, prefix: Prefix, labelled: Inputs, pool: Any, continues: bool) -> bool:
    """Whether images are used together with their mirror images."""
    if prefix.backbone.inputs.transform is None:
        if estimator.mirror not in ("auto", False):
            raise ValueError("mirror=True, but this network takes 2-D features, which have no mirror images")
        return False
    if continues:
        return bool(estimator.mirrors_)
    if estimator.mirror != "auto":
        return bool(estimator.mirror)
    if not isinstance(estimator.backbone, str) or estimator.weights is None:
        return False  # it is unknown what the network was trained on, if at all
    return are_like_their_mirror_images(prefix, [labelled] if pool is None else [labelled, prefix.check(pool)])


def checked_features(estimator: Any, X: Any, *, reset: bool) -> Any:
    """2-D data checked by scikit-learn; images are returned unchanged, since the network checks them."""
    X = as_data(X)
    if not is_images(X):
        return validate_data(estimator, X, dtype=np.float32, reset=reset)
    if reset:
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)
    return X


def prefix_of(estimator: Any, X: Any = None, n_features: int | None = None) -> Prefix:
    """The frozen layers given by an estimator's parameters, for data like `X` or with `n_features` features."""
    if X is not None and not is_images(X):
        n_features = X.shape[1]
    backbone = load_backbone(
        estimator.backbone,
        estimator.weights,
        image_size=estimator.image_size,
        preprocess=estimator.preprocess,
        n_features=n_features,
        # Seed of a network without pre-trained weights; the same before and after a fit.
        seed=int(estimator.random_state) if isinstance(estimator.random_state, (int, np.integer)) else 0,
    )
    n_frozen, n_layers = estimator.n_frozen, len(backbone.layers.weight_layers)
    if n_frozen is None and estimator.max_epochs == 0:
        depth = n_layers  # nothing is trained, so all layers are computed once
    elif n_frozen is None:  # activations cached before a fit are also useful for fits with fewer labels
        depth = recipe_of(estimator).default_depth(backbone, _USUAL_LABELS)
    else:
        depth = backbone.layers.check_n_frozen(n_frozen)
    device, cache = find_device(estimator.device), find_cache(estimator.cache)
    return Prefix(backbone, depth, device, cache, bool(estimator.verbose))


def fitted_prefix(estimator: Any) -> Prefix:
    """The frozen layers of the last fit."""
    device, cache = find_device(estimator.device), find_cache(estimator.cache)
    return Prefix(estimator.backbone_, estimator.n_frozen_, device, cache, bool(estimator.verbose), estimator.mirrors_)


def is_same_network(estimator: Any, prefix: Prefix) -> bool:
    """Whether the last fit used this network at this depth."""
    last, now = estimator.backbone_, prefix.backbone
    same_input = repr(last.inputs.transform) == repr(now.inputs.transform)
    return bool(estimator.n_frozen_ == prefix.n_frozen and last.fingerprint == now.fingerprint and same_input)


def recipe_of(estimator: Any) -> Recipe:
    """A clone of the recipe, or the default one."""
    return FineTuning() if estimator.recipe is None else clone(estimator.recipe)


def _checked_recipe(estimator: Any, continues: bool) -> Recipe:
    """The validated recipe. Raises a ValueError if a continued fit was made by another kind of recipe."""
    recipe = recipe_of(estimator)
    recipe._validate_params()
    if continues and type(recipe).__name__ != estimator._trained_by:
        raise ValueError(
            f"a fit with recipe={estimator._trained_by}() cannot be continued with recipe={type(recipe).__name__}(); "
            "call fit with warm_start=False"
        )
    return recipe


def _arranged(
    recipe: Recipe, X: Any, y: Any, given: dict[str, Any], before: dict[str, Any], replays: bool
) -> tuple[Any, Any, dict[str, Any]]:
    """Data in the form the recipe expects; data that are not given are those of the continued fit."""
    data = {name: unwrap(value) for name, value in given.items() if value is not None}
    recipe.check_data(data)
    if replays and "sample_domain" not in data:
        data = {**before, **data}
    X, y, data = recipe.arrange(X, y, data)
    data = {**before, **data}
    lost = [name for name, value in data.items() if value is None]
    if lost:
        raise ValueError(
            f"the fit to continue used {' and '.join(lost)}, which a loaded classifier does not contain; "
            f"pass {'it' if len(lost) == 1 else 'them'} again"
        )
    return X, y, data


def _held_out(split: Any, labelled: Labelled, is_old: np.ndarray) -> np.ndarray:
    """Rows of the images that skorch's `train_split` holds out, of those that no fit was trained on.

    The split is made before the head is solved, so that the images are as new to the head as to the other layers.
    """
    new = np.flatnonzero(~is_old)
    targets = np.unique(labelled.y[new], return_inverse=True)[1]
    rows = TensorDataset(torch.from_numpy(new), torch.from_numpy(targets))
    _, valid = split(rows, targets)
    if not isinstance(valid, Subset) or valid.dataset is not rows:
        raise ValueError(f"train_split={split!r} must divide the labelled images, as skorch.dataset.ValidSplit does")
    return new[np.asarray(valid.indices)]


def _with_pool(estimator: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The data with a pool that fits the labelled images, and with absolute paths; without it if it is empty."""
    pool = data["X_unlabeled"]
    if _num_samples(pool) == 0:
        return {name: value for name, value in data.items() if name != "X_unlabeled"}
    paths = as_paths(pool)
    if paths is not None:
        pool = absolute(paths)
    elif not is_images(pool):
        try:
            validate_data(estimator, pool, reset=False, skip_check_array=True)
        except ValueError as error:
            raise ValueError(f"X_unlabeled: {error}") from error
    return {**data, "X_unlabeled": pool}


def _last_fit(estimator: Any, new: Labelled) -> LastFit:
    """The fit to be continued with new images, and which of its classes have been trained."""
    trained = estimator.trained_classes_
    corrected = estimator.seen_.corrected_by(new)
    return LastFit(estimator.net_.module_, estimator.classes_, np.setdiff1d(trained, corrected), corrected)


def _trained_classes(problem: Problem, trained: Trained) -> np.ndarray:
    """Classes whose rows of the head have been trained so far; none if there is only a single class."""
    before = problem.classes[:0] if problem.last is None else problem.last.trained_classes
    labels = problem.y if trained.labels is None else trained.labels
    labelled = np.intersect1d(trained.classes, np.concatenate([before, np.unique(labels)]))
    return labelled if len(labelled) > 1 else labelled[:0]
