"""How a suffix is trained: its head to the optimum of a convex problem first, then all of it as a skorch net."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler

from skal.backbones import Backbone
from skal.images import Inputs
from skal.network import Suffix, interpolate

#: Images for each unit of C, the inverse L2 penalty of the head on features scaled to a mean squared norm of 1. Fewer
#: labels want a stronger penalty: see "Against logistic regression" in docs/results.md.
IMAGES_PER_C = 20.0


@dataclass(frozen=True)
class HeadPenalty:
    """L2 penalty of a linear head that does not depend on the scale of its features, nor on where they lie.

    Minimised is sum of losses + ||W scale||^2 / (2 C), as in scikit-learn's LogisticRegression on features that were
    centred and divided by `scale`.

    Parameters
    ----------
    center : ndarray of shape (n_features,)
    scale : float
        Root mean squared norm of the centred features.
    n : int
        Number of images.
    """

    center: np.ndarray
    scale: float
    n: int

    @classmethod
    def of(cls, features: np.ndarray) -> HeadPenalty:
        """The penalty for these training features (n, n_features)."""
        center = features.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(((features - center) ** 2).sum(axis=1).mean())) + 1e-12
        return cls(center, scale, len(features))

    @property
    def C(self) -> float:
        """Inverse strength: the fewer images, the stronger."""
        return self.n / IMAGES_PER_C

    @property
    def per_image(self) -> float:
        """Factor of ||W||^2 beside the mean loss of an image."""
        return self.scale**2 / (2 * self.C * self.n)


def solve_head(
    head: nn.Linear,
    features: np.ndarray,
    y: np.ndarray,
    penalty: HeadPenalty,
    *,
    sample_weight: np.ndarray | None = None,
    new: np.ndarray | None = None,
) -> None:
    """Set a head to the multinomial logistic regression on given features, solved to convergence.

    Parameters
    ----------
    head : nn.Linear
        Changed in place.
    features : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
        Outputs of the head, from 0.
    penalty : HeadPenalty
    sample_weight : ndarray of shape (n,), default=None
    new : ndarray of int, default=None
        Outputs that are solved for while the others keep their weights; None solves for all.

    References
    ----------
    .. [1] Kumar, Raghunathan, Jones, Ma, Liang. "Fine-tuning can distort pretrained features and underperform
       out-of-distribution", ICLR 2022, section 3.2 (LP-FT).
    """
    n, n_classes = len(features), head.out_features
    new = np.arange(n_classes) if new is None else new
    if len(new) == 0 or n_classes == 1:
        return
    z = (features - penalty.center) / penalty.scale
    basis = None
    if n < z.shape[1]:  # the solution lies in the span of the features
        basis, triangle = np.linalg.qr(z.T)
        z = triangle.T
    with torch.no_grad():
        fixed = features @ head.weight.double().numpy().T + head.bias.double().numpy()
    weight = np.ones(n) if sample_weight is None else sample_weight / sample_weight.mean()
    target = np.eye(n_classes)[y]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = flat.reshape(len(new), -1)
        logits = fixed.copy()
        logits[:, new] = z @ rows[:, :-1].T + rows[:, -1]
        logits -= logits.max(axis=1, keepdims=True)
        log_proba = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        residual = ((np.exp(log_proba) - target) * weight[:, None])[:, new]
        gradient = np.column_stack([residual.T @ z + rows[:, :-1] / penalty.C, residual.sum(axis=0)])
        loss = -(weight * log_proba[np.arange(n), y]).sum() + (rows[:, :-1] ** 2).sum() / (2 * penalty.C)
        return loss, gradient.ravel()

    start = np.zeros(len(new) * (z.shape[1] + 1))
    solved = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-4}).x
    rows, bias = np.split(solved.reshape(len(new), -1), [-1], axis=1)
    rows = (rows if basis is None else rows @ basis.T) / penalty.scale
    with torch.no_grad():
        head.weight[new] = torch.from_numpy(rows).float()
        head.bias[new] = torch.from_numpy(bias[:, 0] - rows @ penalty.center).float()


@dataclass(frozen=True)
class FineTuning:
    """Where fine-tuning starts: the head is solved, the layers are those before.

    Parameters
    ----------
    backbone : Backbone
    inputs : Inputs
        Labelled images.
    activations : Tensor of shape (n, ...)
        Of these images at the cut.
    targets : Tensor of shape (n,)
        Outputs of the head, from 0.
    is_old, is_right : ndarray of bool, shape (n,)
        Which images an earlier fit has seen, and which of all it gets right, as far as it matters.
    suffix : Suffix
        To be trained in place.
    penalty : HeadPenalty
    class_weight : ndarray of shape (n_classes,) or None
    probe : Suffix or None
        The suffix as it is before training; None where its head is random.
    wise_alpha : float
        Weight of what was trained in the mean with the probe.
    """

    backbone: Backbone
    inputs: Inputs
    activations: torch.Tensor
    targets: torch.Tensor
    is_old: np.ndarray
    is_right: np.ndarray
    suffix: Suffix
    penalty: HeadPenalty
    class_weight: np.ndarray | None
    probe: Suffix | None
    wise_alpha: float

    def settle(self, trained: Suffix) -> None:
        """Average the weights of a trained suffix with the probe's, in place."""
        if self.probe is not None:
            interpolate(self.probe, trained, self.wise_alpha)


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


class BatchLoader(DataLoader):
    """Fetches a batch by one indexing, not row by row; in random order, or by given probabilities."""

    def __init__(self, dataset: Any, batch_size: int, share_of: np.ndarray | None = None, **kwargs: Any):
        order: Sampler[int] = RandomSampler(dataset)
        if share_of is not None:
            # Drawn with replacement, so every batch can be full: a last one of three images is a step of noise.
            lacking = -len(dataset) % batch_size if len(dataset) > batch_size else 0
            order = WeightedRandomSampler(share_of.tolist(), len(dataset) + lacking)
        # A batch of one has no statistics for batch normalisation to train on.
        sampler = BatchSampler(
            order, batch_size, drop_last=len(dataset) > batch_size and len(dataset) % batch_size == 1
        )
        super().__init__(dataset, sampler=sampler, batch_size=None, **kwargs)


class DrawnRows(Dataset):
    """Labelled images whose activations are made each time they are drawn.

    Parameters
    ----------
    load : callable
        From rows to activations at the cut.
    y : Tensor of shape (n,)
    """

    def __init__(self, load: Callable[[np.ndarray], torch.Tensor], y: torch.Tensor):
        self.load = load
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.load(rows), self.y[rows]


def replay_shares(is_old: np.ndarray, replay: float) -> np.ndarray | None:
    """Probability with which each image is drawn, so that a share `replay` of a step is old images.

    None where all images are old or all are new: then nothing is to be balanced.

    Examples
    --------
    >>> replay_shares(np.array([True, True, False]), 0.9)
    array([0.45, 0.45, 0.1 ])
    """
    n_old = int(is_old.sum())
    if n_old in (0, len(is_old)):
        return None
    return np.where(is_old, replay / n_old, (1 - replay) / (len(is_old) - n_old))
