"""The skorch net that trains a suffix."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from skal.training.batches import BatchLoader, without_augmentation
from skal.training.rates import RelativeSteps

#: Arguments of skorch's nets that are parameters of the classifier.
_OF_THE_CLASSIFIER = {"lr", "max_epochs", "batch_size", "optimizer", "device"}
#: Number of warm-up steps; at most a fifth of all steps.
N_WARMUP = 20


@dataclass(frozen=True)
class Options:
    """Training parameters that apply to every recipe; each as in :class:`FrozenPrefixClassifier`."""

    lr: float
    relative_lr: bool
    max_epochs: int
    min_steps: int
    max_seconds: float | None
    batch_size: int
    optimizer: type[torch.optim.Optimizer]
    weight_decay: float
    class_weight: dict[Any, float] | str | None
    augment: Callable[[torch.Tensor], torch.Tensor] | str | None
    normalize: bool
    wise_alpha: float | None
    head_init: str
    train_batch_norm: bool
    net_params: dict[str, Any] | None

    constraints: ClassVar[dict[str, list[Any]]] = {
        "lr": [Interval(Real, 0, None, closed="neither")],
        "relative_lr": ["boolean"],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "min_steps": [Interval(Integral, 0, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [callable],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "augment": [callable, StrOptions({"auto"}), None],
        "normalize": ["boolean"],
        "wise_alpha": [Interval(Real, 0, 1, closed="both"), None],
        "head_init": [StrOptions({"linear_probe", "random"})],
        "train_batch_norm": ["boolean"],
        "net_params": [dict, None],
    }

    @classmethod
    def of(cls, estimator: Any) -> Options:
        """The options of an estimator that has parameters of these names."""
        taken = sorted(_OF_THE_CLASSIFIER & set(estimator.net_params or {}))
        if taken:
            raise ValueError(f"net_params contains {taken[0]!r}, which is a parameter of the classifier; set it there")
        return cls(**{option.name: getattr(estimator, option.name) for option in fields(cls)})


class _OutOfTimeError(Exception):
    """The time limit of a fit is reached."""


class SuffixNet(NeuralNetClassifier):
    """skorch classifier whose training loss includes the penalty on the head, and sample weights.

    Recipes get it from :meth:`skal.training.Problem.net`. A subclass can change the loss or the steps
    (``net_class=MyNet``).

    Parameters
    ----------
    *args, **kwargs
        As for :class:`skorch.NeuralNetClassifier`.
    head_penalty : float, default=0.0
        Added to the loss of a training step, times the sum of the squared weights of ``module.head``.
    hidden : Tensor of bool of shape (n_classes, n_classes) or None, default=None
        For each class (a row), the outputs left out of the softmax of its images.
    n_warmup : int or None, default=None
        If given, the learning rate is relative to the size of the weights, and so many first steps are shorter.
    deadline : float or None, default=None
        Time at which training ends, as given by ``time.monotonic``.

    Examples
    --------
    >>> suffix = nn.Sequential()
    >>> suffix.head = nn.Linear(2, 3)
    >>> net = SuffixNet(suffix, head_penalty=0.5, criterion=nn.CrossEntropyLoss).initialize()
    >>> with torch.no_grad():
    ...     _ = suffix.head.weight.fill_(1.0), suffix.head.bias.fill_(0.0)
    >>> logits, targets = suffix(torch.zeros(1, 2)), torch.tensor([0])
    >>> loss = [net.get_loss(logits, targets, training=training) for training in (False, True)]
    >>> round((loss[1] - loss[0]).item(), 4)  # 0.5 times six weights of 1
    3.0
    """

    def __init__(
        self,
        *args: Any,
        head_penalty: float = 0.0,
        hidden: torch.Tensor | None = None,
        n_warmup: int | None = None,
        deadline: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.head_penalty = head_penalty
        self.hidden = hidden
        self.n_warmup = n_warmup
        self.deadline = deadline

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> SuffixNet:
        """As in skorch; if `n_warmup` is set, steps are relative to the size of the weights."""
        super().initialize_optimizer(*args, **kwargs)
        if self.n_warmup is not None:
            RelativeSteps(self.optimizer_, self.module_, self.n_warmup)
        return self

    def get_loss(self, y_pred: torch.Tensor, y_true: Any, X: Any = None, training: bool = False) -> Any:
        """Loss of a batch. Labels are targets, or a dict of ``target`` and ``weight`` (1 on average over all rows)."""
        if self.hidden is not None:
            target = y_true["target"] if isinstance(y_true, dict) else y_true
            y_pred = y_pred.masked_fill(self.hidden.to(y_pred.device)[target.to(y_pred.device)], -torch.inf)
        if isinstance(y_true, dict):
            loss = self._weighted_loss(y_pred, y_true["target"], y_true["weight"])
        else:
            loss = super().get_loss(y_pred, y_true, X=X, training=training)
        if training and self.head_penalty:
            loss = loss + self.head_penalty * self.module_.head.weight.square().sum()
        return loss

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """As in skorch, but images that are only scored are neither mirrored nor augmented."""
        return super().get_iterator(dataset if training else without_augmentation(dataset), training)

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> SuffixNet:
        """As in skorch, but an interrupt by the user reaches the caller; skorch treats it as the end of training."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        try:
            self.fit_loop(X, y, **fit_params)
        except _OutOfTimeError:
            del self.history_[-1]  # the epoch that was not finished
        except KeyboardInterrupt:
            if not self._is_stopped_early():
                raise
        self.notify("on_train_end", X=X, y=y)
        return self

    def notify(self, method_name: str, **arguments: Any) -> None:
        """As in skorch, but callbacks are given the targets of weighted rows without weights, for their scores."""
        batch = arguments.get("batch")
        if batch is not None and isinstance(batch[1], dict) and batch[1].keys() == {"target", "weight"}:
            arguments["batch"] = batch[0], batch[1]["target"]
        super().notify(method_name, **arguments)

    def _is_stopped_early(self) -> bool:
        """Whether an ``EarlyStopping`` callback ended the training, which it does by raising a KeyboardInterrupt."""
        stops = [callback for _, callback in self.callbacks_ if isinstance(callback, EarlyStopping)]
        return any(stop.misses_ == stop.patience for stop in stops)

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        """As in skorch, but ends training when the time limit is reached."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise _OutOfTimeError
        return super().train_step(batch, **fit_params)

    def _weighted_loss(self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Mean of each row's loss times its weight, so that weights count alike whatever the batch size."""
        criterion = copy.copy(self.criterion_)
        criterion.reduction = "none"
        return (criterion(logits, target.to(logits.device)) * weight.to(logits.device)).mean()


def build_net(
    module: Any,
    n_rows: int,
    options: Options,
    *,
    head_penalty: float,
    hidden: torch.Tensor | None,
    share_of: np.ndarray | None,
    device: str,
    deadline: float | None,
    net_class: Callable[..., SuffixNet] = SuffixNet,
    n_parts: int = 1,
) -> SuffixNet:
    """The skorch net that trains a suffix, with a learning rate that decays linearly to zero.

    Parameters
    ----------
    module : nn.Module
        A suffix, or a module that contains one. Trained in place.
    n_rows : int
        Rows per epoch. Together with `min_steps`, they determine the number of epochs.
    options : Options
        Its `net_params` are additional arguments of :class:`skorch.NeuralNetClassifier`. Callbacks are added, and
        other arguments replace those set here.
    head_penalty : float
        Factor of the squared norm of the head's weights in the loss.
    hidden : Tensor of bool, shape (n_classes, n_classes), or None
        For each class, the outputs excluded from the softmax of its images.
    share_of : ndarray of shape (n_rows,) or None
        Probability with which a training step draws each row. None uses every row once per epoch.
    device : str
    deadline : float or None
        Latest end of training, as a value of ``time.monotonic``. The learning rate then also decays with the elapsed
        time.
    net_class : callable, default=SuffixNet
    n_parts : int, default=1
        Number of nets that share the epochs and steps of one fit.
    """
    n_classes: int = module.head.out_features
    max_epochs, min_steps = (math.ceil(budget / n_parts) for budget in (options.max_epochs, options.min_steps))
    epochs = 0
    if max_epochs and n_rows and n_classes > 1:  # there is nothing to learn from a single class
        epochs = max(max_epochs, math.ceil(min_steps / math.ceil(n_rows / options.batch_size)))
    left = partial(_share_left, n_epochs=max(epochs, 1), start=time.monotonic(), deadline=deadline)
    schedule = LRScheduler(policy=LambdaLR, lr_lambda=left)
    parameters: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": options.optimizer,
        "optimizer__weight_decay": options.weight_decay,
        "head_penalty": head_penalty,
        "hidden": hidden,
        "deadline": deadline,
        "lr": options.lr,
        "max_epochs": epochs,
        "batch_size": options.batch_size,
        "train_split": None,
        "classes": list(range(n_classes)),
        "device": device,
        "verbose": 0,
    }
    further = options.net_params or {}
    if "iterator_train" not in further:
        parameters |= {"iterator_train": BatchLoader, "iterator_train__share_of": share_of}
    if options.relative_lr:
        n_steps = epochs * math.ceil(n_rows / options.batch_size)
        parameters["n_warmup"] = min(N_WARMUP, n_steps // 5)
    given = further.get("callbacks") or []
    callbacks = given if given == "disable" else [schedule, *given]
    return net_class(module, **(parameters | further | {"callbacks": callbacks}))


def _share_left(epoch: int, *, n_epochs: int, start: float, deadline: float | None) -> float:
    """Remaining share of the training, or of its time: the factor of the learning rate."""
    left = 1 - epoch / n_epochs
    if deadline is None:
        return left
    return max(0.0, min(left, (deadline - time.monotonic()) / max(deadline - start, 1e-9)))
