"""How a suffix is trained: its head from a logistic regression, then all of it as a skorch net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from skal.network import Suffix

_PROBE_C = 10.0  # inverse L2 penalty, on features scaled to a mean squared norm of 1


def build_net(
    suffix: Suffix,
    *,
    lr: float,
    max_epochs: int,
    batch_size: int,
    optimizer: type[torch.optim.Optimizer],
    weight_decay: float,
    device: str,
    further: dict[str, Any],
) -> NeuralNetClassifier:
    """The skorch net that trains a suffix, with a learning rate that falls linearly to zero.

    Parameters
    ----------
    suffix : Suffix
        Trained in place.
    lr, max_epochs, batch_size, optimizer, weight_decay, device
        As in :class:`FrozenPrefixClassifier`.
    further : dict
        Other arguments of :class:`skorch.NeuralNetClassifier`; callbacks are added, others replace what is set here.
    """
    n_classes = suffix.head.out_features
    epochs = max_epochs if n_classes > 1 else 0  # a single class teaches nothing
    schedule = LRScheduler(policy=LinearLR, start_factor=1.0, end_factor=0.0, total_iters=max(epochs, 1))
    parameters: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": optimizer,
        "optimizer__weight_decay": weight_decay,
        "lr": lr,
        "max_epochs": epochs,
        "batch_size": batch_size,
        "iterator_train": BatchLoader,
        "iterator_train__shuffle": True,
        "train_split": None,
        "classes": list(range(n_classes)),
        "device": device,
        "verbose": 0,
    }
    callbacks = [schedule, *further.get("callbacks", [])]
    return NeuralNetClassifier(suffix, **(parameters | further | {"callbacks": callbacks}))


class BatchLoader(DataLoader):
    """Fetches a batch by one indexing, not row by row."""

    def __init__(self, dataset: Any, batch_size: int, shuffle: bool = False, **kwargs: Any):
        order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
        sampler = BatchSampler(order, batch_size, drop_last=False)
        super().__init__(dataset, sampler=sampler, batch_size=None, **kwargs)


def probe_head(head: nn.Linear, features: np.ndarray, y: np.ndarray) -> None:
    """Let a head start as the logistic regression on the pre-trained features.

    Parameters
    ----------
    head : nn.Linear
        Changed in place; its outputs are the classes of `y` in sorted order.
    features : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    """
    center = features.mean(axis=0)
    scale = np.sqrt(((features - center) ** 2).sum(axis=1).mean()) + 1e-12
    probe = LogisticRegression(C=_PROBE_C, max_iter=1000).fit((features - center) / scale, y)
    weight, bias = probe.coef_ / scale, probe.intercept_
    if len(weight) == 1:  # two classes: one logit, split over both
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.array([-bias[0] / 2, bias[0] / 2])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias - weight @ center))
