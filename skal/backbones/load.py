"""Loading of pre-trained networks from a name, a module or a factory, with weights and pre-processing."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from threading import RLock
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from skal._random import seeded
from skal._validation import check_count
from skal.backbones.backbone import Backbone, content_name, first_layer
from skal.backbones.names import build_named
from skal.backbones.weights import Weights, weights_file, with_weights
from skal.images.transform import ImageTransform

BackboneLike = str | nn.Module | Callable[[], nn.Module]
_GREY = ((0.5,), (0.5,))


def load_backbone(
    backbone: BackboneLike,
    weights: Weights = "auto",
    *,
    image_size: int | None = None,
    preprocess: ImageTransform | None = None,
    n_features: int | None = None,
    seed: int = 0,
) -> Backbone:
    """Build a network, load its weights, and trace its forward.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        A torchvision name such as ``"resnet18"``, ``"timm:NAME"``, ``"efficientnet_lite0"``, a module, or a function
        without arguments that returns one. Modules are copied. Lazy modules infer their width from the data.
    weights : {"auto"}, name of torchvision weights, path, or None, default="auto"
        ``"auto"`` loads the default pre-trained weights of a name, and leaves a module or the result of a factory
        unchanged. None gives a name random weights, drawn with `seed`, and leaves a module unchanged. A path is a state
        dict in a ``.safetensors`` file or in a file that ``torch.load(weights_only=True)`` reads.
    image_size : int, default=None
        Side of the square network input. It replaces the sizes of the pre-processing.
    preprocess : ImageTransform, default=None
        None uses the pre-processing of a name's weights. For other networks, the short side is resized to 224 pixels,
        with ImageNet's mean and standard deviation (0.5 and 0.5 for a network with one channel).
    n_features : int, default=None
        Width of 2-D data, for lazy modules.
    seed : int, default=0
        Seed of random weights.

    Returns
    -------
    backbone : Backbone
        The same object for the same arguments, as long as it is in use.

    Raises
    ------
    ValueError
        If the name is unknown, the weights do not fit, or the network and the pre-processing differ in channels.
    ImportError
        If the package of a named network is not installed.
    OSError
        If the weights of a named network cannot be downloaded.

    Examples
    --------
    >>> backbone = load_backbone(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    >>> backbone.layers.weight_layers
    ['0']
    """
    if not isinstance(backbone, (str, nn.Module)) and not callable(backbone):
        raise ValueError(
            f"backbone={backbone!r} must be the name of a network, an nn.Module or a function that returns one"
        )
    if image_size is not None:
        check_count("image_size", image_size)
    recipe: tuple[Any, ...] = (_weights_key(backbone, weights), image_size, preprocess, n_features, seed)
    with _ONE_AT_A_TIME:
        return _remembered(backbone, recipe, lambda: _load(backbone, weights, image_size, preprocess, n_features, seed))


def _remembered(backbone: BackboneLike, recipe: tuple[Any, ...], load: Callable[[], Backbone]) -> Backbone:
    """The backbone loaded earlier with the same arguments, if it is still cached; else the one loaded now."""
    if isinstance(backbone, nn.Module):
        recipe += (content_name(backbone),)  # the module may be modified in place between two calls
        memo = _of_modules.setdefault(backbone, OrderedDict())
    else:
        recipe += (backbone, None if isinstance(backbone, str) else content_name(backbone))  # its closure may change
        memo = _of_recipes
    try:
        found = memo.get(recipe)
    except TypeError:  # an unhashable factory
        return load()
    if found is None:
        found = memo[recipe] = load()
    memo.move_to_end(recipe)
    while len(memo) > 4:
        memo.popitem(last=False)
    return found


_ONE_AT_A_TIME = RLock()
_of_recipes: OrderedDict[tuple[Any, ...], Backbone] = OrderedDict()
_of_modules: weakref.WeakKeyDictionary[nn.Module, OrderedDict[tuple[Any, ...], Backbone]] = weakref.WeakKeyDictionary()


def _load(
    backbone: BackboneLike,
    weights: Weights,
    image_size: int | None,
    preprocess: ImageTransform | None,
    n_features: int | None,
    seed: int,
) -> Backbone:
    with seeded(seed):
        if isinstance(backbone, str):
            module, own_transform = build_named(backbone, weights, image_size)
            preprocess = preprocess or own_transform()
        else:
            module = backbone if isinstance(backbone, nn.Module) else backbone()
            if not isinstance(module, nn.Module):
                raise ValueError(
                    f"the backbone factory {backbone!r} returned {type(module).__name__}, not an nn.Module"
                )
            file = weights_file(weights)
            if file is not None:
                module = with_weights(module, file)
        module = _materialised(module, n_features)
    return Backbone(module, _input_transform(module, preprocess, image_size, isinstance(backbone, str)))


def _weights_key(backbone: BackboneLike, weights: Weights) -> Any:
    """Cache key of the requested weights. Checks files, and the weights of modules, before any work."""
    file = weights_file(weights)
    if file is not None:
        info = file.stat()
        return str(file.resolve()), info.st_mtime_ns, info.st_size
    if isinstance(backbone, str):
        return weights
    if weights not in ("auto", None):
        raise ValueError(
            f"weights={weights!r} is not a file, and names of weights are only valid for backbones given by name; for "
            "a module or factory pass a .pth or .safetensors file, 'auto' or None"
        )
    return None


def _materialised(module: nn.Module, n_features: int | None) -> nn.Module:
    """The module with its lazy layers initialised for `n_features`."""
    lazy = [part for part in module.modules() if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params()]
    if not lazy:
        return module
    if n_features is None:
        raise ValueError("a network with lazy layers requires 2-D data, from which its input width is inferred")
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        module(torch.zeros(2, n_features))
    return module


def _input_transform(
    module: nn.Module, transform: ImageTransform | None, image_size: int | None, is_named: bool
) -> ImageTransform | None:
    first = first_layer(module)
    if isinstance(first, nn.Linear):
        if transform is not None or image_size is not None:
            raise ValueError(
                "image_size and preprocess apply only to networks on images; this network starts with a linear layer"
            )
        return None
    # Named networks take colour images, even if their first convolution reads a transform of them, as in CSATv2.
    channels = 3 if is_named or not isinstance(first, _ConvNd) else first.in_channels
    if transform is None:
        transform = ImageTransform(224, 224, *_GREY) if channels == 1 else ImageTransform(224, 224)
    if transform.channels != channels:
        raise ValueError(f"the pre-processing has {transform.channels} channels, but the network takes {channels}")
    if image_size is not None:
        transform = replace(transform, resize=int(image_size), crop=int(image_size))
    return transform
