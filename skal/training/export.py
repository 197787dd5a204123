"""A fitted classifier as one module, for deployment without skal."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from skal.features.prefix import Prefix, mean_of_views
from skal.training.suffix import Suffix


class WholeNetwork(nn.Module):
    """Frozen layers, trained layers and head in one module, from images to class probabilities.

    Parameters
    ----------
    prefix : Prefix
    models : sequence of Suffix
        Their probabilities are averaged.
    classes : sequence of str
        Name of each output.

    Attributes
    ----------
    mean, std : Tensor of shape (channels, 1, 1)
        Buffers with which inputs are normalised; 0 and 1 for a network on features.
    image_size, resize : int or None
        Before they are passed to the module as float32 in [0, 1], images must be resized with antialiasing so that
        their short side is `resize`, and centre-cropped to `image_size`. None for a network on features.
    interpolation : str or None
    classes : tuple of str
    mirrors : bool
        Whether the features of an image are averaged with those of its mirror image.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, prefix: Prefix, models: Sequence[Suffix], classes: Sequence[str]):
        super().__init__()
        layers, transform = prefix.backbone.layers, prefix.backbone.inputs.transform
        self.prefix = copy.deepcopy(layers.segment(layers.input, [prefix.cut])).cpu().eval()
        self.mirrors = prefix.mirrors
        self.models = nn.ModuleList(copy.deepcopy(model).cpu().eval() for model in models)
        mean, std = ((0.0,), (1.0,)) if transform is None else (transform.mean, transform.std)
        shape = (1,) if transform is None else (-1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(shape))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(shape))
        self.image_size = None if transform is None else transform.crop
        self.resize = None if transform is None else transform.resize
        self.interpolation = None if transform is None else transform.interpolation
        self.classes = tuple(classes)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities (n, n_classes) of images (n, channels, H, W) in [0, 1], or of features (n, n_features)."""
        x = (x - self.mean) / self.std
        views = [self.prefix(view)[0] for view in ([x, x.flip(-1)] if self.mirrors else [x])]
        proba = []
        for model in self.models:
            assert isinstance(model, Suffix)
            features = mean_of_views([model.features(view) for view in views])
            proba.append(model.logits(features).softmax(1))
        return torch.stack(proba).mean(0)
