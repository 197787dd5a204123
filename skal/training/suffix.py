"""The trainable part of an adapted network: the layers after the frozen prefix, and a new head."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from skal.backbones.graph import LayerGraph
from skal.features.pooling import flat


class Suffix(nn.Module):
    """From the cut to the logits of the target classes.

    Layers after the source head of the pre-trained network are dropped (a ReLU and the pooling in SqueezeNet, a softmax
    elsewhere). The new head is a linear layer on the final representation, averaged over space.

    Parameters
    ----------
    layers : LayerGraph
        The pre-trained network; its layers are copied.
    n_frozen : int
        Number of frozen weight layers.
    n_classes : int
    n_features : int
        Size of the final representation.
    train_batch_norm : bool, default=False
        Whether trainable batch normalisation uses the statistics of the batch, and updates its running statistics.
    normalize : bool, default=False
        Whether the final representation of every image is scaled to the same norm before the head. The norm is the
        square root of `n_features`, so that features have a mean square of 1.
    """

    def __init__(
        self,
        layers: LayerGraph,
        n_frozen: int,
        n_classes: int,
        n_features: int,
        train_batch_norm: bool = False,
        normalize: bool = False,
    ):
        super().__init__()
        body = layers.segment(layers.cut(n_frozen), [layers.features])
        self.body: fx.GraphModule = copy.deepcopy(body)
        self.head = nn.Linear(n_features, n_classes, dtype=torch.float32)
        self.normalize = normalize
        self.mean: torch.Tensor | None
        self.register_buffer("mean", None)
        #: Mean and scale of the features that the head was last solved on. A fit without old images needs them.
        self.center, self.scale = np.zeros(n_features), 1.0
        frozen = layers.frozen_parameters(n_frozen)
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(name not in frozen)
        evaluating = layers.frozen_modules(n_frozen)
        if not train_batch_norm:
            evaluating |= {name for name, part in self.body.named_modules() if isinstance(part, _NormBase)}
        self._evaluating = sorted(evaluating & {name for name, _ in self.body.named_modules()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) of activations at the cut."""
        return self.logits(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Final representation (n, n_features)."""
        return flat(self.body(x)[0])

    def head_input(self, x: torch.Tensor) -> torch.Tensor:
        """Input of the head: the final representation, scaled to the same norm if `normalize` is set."""
        return self.scaled(self.features(x))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (n, n_classes) of final representations."""
        return self.head(self.scaled(features))

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Final representations, centred and scaled as the head expects."""
        if not self.normalize:
            return features
        scaled = F.normalize(features, dim=1)
        if self.mean is not None:
            scaled = F.normalize(scaled - self.mean, dim=1)
        return scaled * features.shape[1] ** 0.5

    def center_by(self, features: torch.Tensor) -> None:
        """Centre features by the mean of these (n, n_features): what all images share is not informative."""
        self.mean = F.normalize(features, dim=1).mean(0)

    def train(self, mode: bool = True) -> Suffix:
        """Set the mode, but keep frozen layers and pre-trained normalisation layers in evaluation mode."""
        super().train(mode)
        for name in self._evaluating:
            self.body.get_submodule(name).eval()
        return self


def interpolate(start: nn.Module, end: nn.Module, alpha: float) -> None:
    """Move the weights of `end` to (1 - alpha) start + alpha end, in place."""
    with torch.no_grad():
        before = dict([*start.named_parameters(), *start.named_buffers()])
        for name, value in [*end.named_parameters(), *end.named_buffers()]:  # a shared weight is listed once
            if value.is_floating_point():
                value.lerp_(before[name].to(value.device), 1 - alpha)


def head_for(head: nn.Linear, before: np.ndarray, after: np.ndarray) -> nn.Linear:
    """A head for a new set of classes: existing classes keep their weights, new ones get random weights.

    Parameters
    ----------
    head : nn.Linear
    before, after : ndarray
        Sorted classes of the outputs of `head` and of the new head.
    """
    other = nn.Linear(head.in_features, len(after), dtype=torch.float32)
    stayed = np.intersect1d(before, after)
    rows, kept = np.searchsorted(after, stayed), np.searchsorted(before, stayed)
    with torch.no_grad():
        other.weight[rows] = head.weight.cpu()[kept]
        other.bias[rows] = head.bias.cpu()[kept]
    return other
