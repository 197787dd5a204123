"""The head: a logistic regression solved to convergence, with a penalty that depends on the number of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from skal._threads import one_blas_thread

#: Images per unit of C, the inverse L2 penalty of the head on features scaled to a mean squared norm of 1. Fewer
#: labels need a stronger penalty: see "How strong the penalty is" in docs/results.md.
_IMAGES_PER_C = 20.0
#: With few images, C times the largest weight of an image, unless C would be less than 1.
_FEW_IMAGES_C = 2.0
#: Number of feature values above which products are computed in single precision.
_LARGE = 2**20


@dataclass(frozen=True)
class HeadPenalty:
    """L2 penalty of a linear head, independent of the scale and mean of its features.

    The objective is sum of losses + ||W scale||^2 / (2 C), as in scikit-learn's LogisticRegression on features that
    were centred and divided by `scale`.

    Parameters
    ----------
    center : ndarray of shape (n_features,)
    scale : float
        Root mean squared norm of the centred features.
    n : int
        Number of images.
    C : float
        Inverse strength.
    """

    center: np.ndarray
    scale: float
    n: int
    C: float

    @classmethod
    def of(
        cls, features: np.ndarray, C: float | None = None, *, sample_weight: np.ndarray | None = None
    ) -> HeadPenalty:
        """The penalty for these training features (n, n_features), by default with C by :func:`default_C`."""
        center = features.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(((features - center) ** 2).sum(axis=1).mean())) + 1e-12
        n = len(features)
        if C is None:
            C = default_C(np.ones(n) if sample_weight is None else sample_weight)
        return cls(center, scale, n, C)

    @property
    def per_image(self) -> float:
        """Factor of ||W||^2 when the loss is the mean over images."""
        return self.scale**2 / (2 * self.C * self.n)


def cautious_C(n: int) -> float:
    """Inverse strength of the penalty for n images, however unequal their weights: n / 20, but at least 1."""
    return max(1.0, n / _IMAGES_PER_C)


def default_C(sample_weight: np.ndarray) -> float:
    """Default inverse strength of the penalty for n images of these weights: n / 20, with few images from 1 to 2.

    It is 2 for few images of equal weight. If some weigh more, because their classes have fewer images, C is smaller:
    their loss is large, and a few images would determine the head.

    Examples
    --------
    >>> default_C(np.ones(10)), default_C(np.array([1, 1, 1, 3])), default_C(np.ones(100))
    (2.0, 1.0, 5.0)
    """
    heaviest = float(sample_weight.max() / sample_weight.mean())
    return max(cautious_C(len(sample_weight)), _FEW_IMAGES_C / heaviest)


@one_blas_thread()  # several threads take two to five times as long, and many times as long on busy processors
def solve_head(
    head: nn.Linear,
    features: np.ndarray,
    y: np.ndarray,
    penalty: HeadPenalty,
    *,
    sample_weight: np.ndarray | None = None,
    new: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
) -> None:
    """Fit a head in place as a multinomial logistic regression on given features, solved to convergence.

    Parameters
    ----------
    head : nn.Linear
        Changed in place.
    features : ndarray of shape (n, n_features)
    y : ndarray of shape (n,) or (n, n_classes)
        Outputs of the head, numbered from 0, or probabilities of the outputs.
    penalty : HeadPenalty
    sample_weight : ndarray of shape (n,), default=None
    new : ndarray of int, default=None
        Outputs to solve for, while the others keep their weights. None solves for all.
    hidden : ndarray of bool, shape (n_classes, n_classes), default=None
        For each class, the outputs excluded from the softmax of its images. The penalty then pulls the solution towards
        the current weights of the head instead of 0, and the biases at the centre are fixed. A few images should not
        undo what was learned before.

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
    is_large = z.size > _LARGE
    z = z.astype(np.float32) if is_large else z
    with torch.no_grad():
        fixed = features @ head.weight.double().numpy().T + head.bias.double().numpy()
    weight = np.ones(n) if sample_weight is None else sample_weight / sample_weight.mean()
    target = np.eye(n_classes)[y] if y.ndim == 1 else y
    around = np.zeros((n, len(new)))
    if hidden is not None:
        fixed[hidden[y]] = -np.inf
        around = fixed[:, new]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = flat.reshape(len(new), -1)
        logits = fixed.copy()
        logits[:, new] = around + z @ rows[:, :-1].T.astype(z.dtype) + rows[:, -1]
        logits -= logits.max(axis=1, keepdims=True)
        log_proba = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        residual = ((np.exp(log_proba) - target) * weight[:, None])[:, new]
        gradient = np.column_stack(
            [residual.T.astype(z.dtype) @ z + rows[:, :-1] / penalty.C, residual.sum(axis=0) * (hidden is None)]
        )
        surprise = np.multiply(
            target, log_proba, where=target > 0, out=np.zeros_like(log_proba)
        )  # hidden: 0 times -inf
        loss = (rows[:, :-1] ** 2).sum() / (2 * penalty.C) - (weight * surprise.sum(axis=1)).sum()
        return loss, gradient.ravel()

    start = np.zeros(len(new) * (z.shape[1] + 1))
    options = {"maxiter": 2000, "gtol": 1e-4} | ({"ftol": 1e-6} if is_large else {})
    solved = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    rows, bias = np.split(solved.reshape(len(new), -1), [-1], axis=1)
    rows = (rows if basis is None else rows @ basis.T) / penalty.scale
    weights, biases = torch.from_numpy(rows).float(), torch.from_numpy(bias[:, 0] - rows @ penalty.center).float()
    with torch.no_grad():
        head.weight[new] = weights if hidden is None else head.weight[new] + weights
        head.bias[new] = biases if hidden is None else head.bias[new] + biases
