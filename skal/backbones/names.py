"""Backbones by name."""

from __future__ import annotations

from torch import nn

from skal.images.transform import ImageTransform


def torchvision_model(name: str, weights: str | None) -> tuple[nn.Module, ImageTransform]:
    from torchvision import models  # takes a second: only where a name is used

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"unknown backbone {name!r}; torchvision's classification models are {known}")
    variants = models.get_model_weights(name)
    allowed = sorted({"DEFAULT", *variants.__members__})
    if weights is not None and weights not in allowed:
        raise ValueError(f"unknown weights {weights!r} for {name!r}; torchvision has {allowed}")
    own = variants[weights or "DEFAULT"].transforms()
    transform = ImageTransform(
        own.resize_size[0], own.crop_size[0], tuple(own.mean), tuple(own.std), own.interpolation.value
    )
    return models.get_model(name, weights=weights), transform
