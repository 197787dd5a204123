"""The skorch net that trains a suffix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from skal.training.batches import BatchLoader
from skal.training.suffix import Suffix


class SuffixNet(NeuralNetClassifier):
    """skorch's classifier whose training loss includes the penalty of the head."""

    def __init__(self, *args: Any, head_penalty: float = 0.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.head_penalty = head_penalty

    def get_loss(self, y_pred: torch.Tensor, y_true: torch.Tensor, X: Any = None, training: bool = False) -> Any:
        loss = super().get_loss(y_pred, y_true, X=X, training=training)
        if training and self.head_penalty:
            loss = loss + self.head_penalty * self.module_.head.weight.square().sum()
        return loss


def build_net(
    suffix: Suffix,
    n_images: int,
    *,
    lr: float,
    relative_lr: bool,
    max_epochs: int,
    min_steps: int,
    batch_size: int,
    optimizer: type[torch.optim.Optimizer],
    weight_decay: float,
    head_penalty: float,
    class_weight: np.ndarray | None,
    share_of: np.ndarray | None,
    net_class: type[SuffixNet],
    device: str,
    further: dict[str, Any],
) -> SuffixNet:
    """The skorch net that trains a suffix, with a learning rate that falls linearly to zero.

    Parameters
    ----------
    suffix : Suffix
        Trained in place.
    n_images : int
        Training images, which with `min_steps` give the number of epochs.
    lr, relative_lr, max_epochs, min_steps, batch_size, optimizer, weight_decay, device
        As in :class:`FrozenPrefixClassifier`.
    head_penalty : float
        Factor of the squared norm of the head's weights in the loss.
    class_weight : ndarray of shape (n_classes,) or None
    share_of : ndarray of shape (n_images,) or None
        Probability with which a training step draws each image; None takes every image once an epoch.
    net_class : type
    further : dict
        Other arguments of :class:`skorch.NeuralNetClassifier`; callbacks are added, others replace what is set here.
    """
    n_classes = suffix.head.out_features
    epochs = 0
    if max_epochs and n_images and n_classes > 1:  # a single class teaches nothing
        epochs = max(max_epochs, math.ceil(min_steps / math.ceil(n_images / batch_size)))
    schedule = LRScheduler(policy=LinearLR, start_factor=1.0, end_factor=0.0, total_iters=max(epochs, 1))
    parameters: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": optimizer,
        "optimizer__weight_decay": weight_decay,
        "head_penalty": head_penalty,
        "lr": lr,
        "max_epochs": epochs,
        "batch_size": batch_size,
        "train_split": None,
        "classes": list(range(n_classes)),
        "device": device,
        "verbose": 0,
    }
    if "iterator_train" not in further:
        parameters |= {"iterator_train": BatchLoader, "iterator_train__share_of": share_of}
    if relative_lr:
        parameters["optimizer__param_groups"] = [
            (name, {"lr": lr * _typical_size(weight)}) for name, weight in suffix.named_parameters()
        ]
    if class_weight is not None:
        parameters["criterion__weight"] = torch.from_numpy(class_weight).float()
    given = further.get("callbacks") or []
    callbacks = given if given == "disable" else [schedule, *given]
    return net_class(suffix, **(parameters | further | {"callbacks": callbacks}))


def _typical_size(weight: torch.Tensor) -> float:
    """Root mean square of a tensor of weights, and at least 0.001, so that those that start at zero move."""
    return max(float(weight.detach().square().mean().sqrt()), 1e-3)
