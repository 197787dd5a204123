"""A pre-trained network: its graph of layers, its input, and the fingerprint of its weights."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
import xxhash
from torch import nn
from torch.nn.modules.conv import _ConvNd

from skal._fingerprint import fingerprint
from skal.backbones.graph import LayerGraph
from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform


class Backbone:
    """A pre-trained network M0: its graph of layers, its input, and a fingerprint of its weights.

    Parameters
    ----------
    module : nn.Module
        The network with its weights. It is copied.
    transform : ImageTransform or None
        Pre-processing of images; None for a network on 2-D features.
    """

    def __init__(self, module: nn.Module, transform: ImageTransform | None):
        self.inputs = InputSpec(transform)
        if transform is None:
            first = first_layer(module)
            example = torch.zeros(2, first.in_features, dtype=torch.float32) if isinstance(first, nn.Linear) else None
        else:
            example = torch.zeros(2, transform.channels, transform.crop, transform.crop, dtype=torch.float32)
        self.layers = LayerGraph(module, example)

    def __reduce__(self) -> tuple[Any, ...]:
        return Backbone, (self.layers.module, self.inputs.transform)

    @cached_property
    def n_features(self) -> int | None:
        """Number of 2-D features that the network expects; None for a network on images."""
        first = first_layer(self.layers.module)
        return first.in_features if self.inputs.transform is None and isinstance(first, nn.Linear) else None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights: equal weights have equal fingerprints on any machine."""
        state = self.layers.module.state_dict()
        return hash_tensors((n, t) for n, t in state.items() if not n.endswith("num_batches_tracked"))

    @cached_property
    def space(self) -> bytes:
        """Hash of the function from inputs to activations in this process: weights, buffers, settings and graph."""
        # A short digest, because it is part of the key of every cached row.
        return xxhash.xxh3_128(f"{content_name(self.layers.module)} {self.layers.graph}".encode()).digest()


def content_name(module: nn.Module | Callable[[], nn.Module]) -> str:
    """Hash of everything that a module, or a function that makes one, computes with: tensors, settings, hooks and code.

    If a part has a state that cannot be read, such as an open file, the name is unique, so that nothing is shared.
    """
    try:
        return fingerprint(module, "backbone")
    except ValueError:
        return uuid.uuid4().hex


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    hasher = xxhash.xxh3_128()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def first_layer(module: nn.Module) -> nn.Module | None:
    """The layer that determines a network's input: its first convolution, else its first linear layer."""
    parts = [part for part in module.modules() if isinstance(part, (_ConvNd, nn.Linear))]
    return next((part for part in parts if isinstance(part, _ConvNd)), parts[0] if parts else None)
