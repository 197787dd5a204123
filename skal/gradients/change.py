"""Expected model output change: how much a gradient step on one image would change the outputs of others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from torch import nn

from skal._learners import estimators_of
from skal.gradients.samples import Gradients, SampleGradients

OUTPUTS = ("logit", "probability")
LABELS = ("map", "posterior", "each")
NORMS = ("l1", "l2")

_CANDIDATES = 256  # maximum number of candidates at a time
_CHECKED = 3  # references on which the detected structure is verified


def output_change(
    learner_or_module: Any,
    X_reference: Any,
    X: Any,
    *,
    output: str = "logit",
    labels: str | ArrayLike = "map",
    norm: str = "l1",
    max_memory: int = 2 << 30,
) -> np.ndarray:
    """Expected model output change: how much a gradient step on each image would change the outputs of others.

    The score of an image x' with label y is the mean over the reference images x of ``||J(x) g(x', y)||``. J is the
    Jacobian of the outputs and g the gradient of the cross-entropy, both with respect to all trainable parameters.

    Parameters
    ----------
    learner_or_module : ActiveLearner, estimator, Pipeline or nn.Module
        A fitted estimator with a method ``output_change`` (:class:`skal.FrozenPrefixClassifier`), or a module whose
        output is the logits (n, C). It is used in evaluation mode, and its mode is restored afterwards.
    X_reference : images, or array or Tensor of shape (R, ...)
        Reference images, in a form that the learner or the module accepts.
    X : images, or array or Tensor of shape (n, ...)
    output : {"logit", "probability"}, default="logit"
        The outputs whose change is measured.
    labels : {"map", "posterior", "each"} or array-like of shape (n,), default="map"
        The label assumed for each image. "map" is the most probable one, as in the EMOC paper. "posterior" is the mean
        over all labels, weighted by their probabilities. "each" gives one column per label. An array contains the
        labels; for a module, they are indices of outputs.
    norm : {"l1", "l2"}, default="l1"
        Norm of the change of all outputs of one image.
    max_memory : int, default=2 GiB
        Bytes for gradients and their factors. If those of all references do not fit, the candidates are passed through
        the network more than once.

    Returns
    -------
    scores : ndarray of shape (n,), or (n, C) for "each"

    Raises
    ------
    ValueError
        If an option or label is unknown, a set is empty or contains NaN or infinity, nothing is trainable, or the
        outputs of one sample depend on others.

    Notes
    -----
    Linear layers, two-dimensional convolutions, and batch (with fixed statistics), group and layer normalisation have
    structured products. Each is verified against automatic differentiation on the first reference images before it is
    used. For parameters used in any other way, gradients are computed by automatic differentiation, sample by sample.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, Eq. 2-5.

    Examples
    --------
    For a linear model, the score is 2 (1 - p_max) times the mean of ``|x · x' + 1|``:

    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.zero_(), model.bias.zero_()
    >>> output_change(model, [[1.0, 0.0], [3.0, 0.0]], [[1.0, 5.0], [-2.0, 0.0]])
    array([3., 3.], dtype=float32)
    """
    if not isinstance(learner_or_module, nn.Module):
        estimator, *others = estimators_of(learner_or_module)
        if others:
            raise ValueError("a Committee has several networks; pass the estimator of one of its members")
        while isinstance(estimator, Pipeline):
            for _, step in estimator.steps[:-1]:
                if not (step is None or isinstance(step, str)):  # "passthrough"
                    X_reference, X = step.transform(X_reference), step.transform(X)
            estimator = estimator.steps[-1][1]
        if not hasattr(estimator, "output_change"):
            raise ValueError(
                f"{type(estimator).__name__} provides no gradients; output_change requires an nn.Module or a "
                "FrozenPrefixClassifier"
            )
        return estimator.output_change(X_reference, X, output=output, labels=labels, norm=norm, max_memory=max_memory)
    module = learner_or_module
    reference, candidates = (_as_input(name, data, module) for name, data in (("X_reference", X_reference), ("X", X)))
    if len(candidates) == 0:
        raise ValueError("X is empty: there is nothing to score")
    kind, y = (labels, None) if isinstance(labels, str) else ("map", np.asarray(labels))
    return OutputChange(module, reference, output, kind, norm, max_memory).scores(candidates, y)


class OutputChange:
    """Scores candidates against fixed references, whose gradients are kept between calls if they fit.

    Parameters
    ----------
    module : nn.Module
        Maps inputs to logits (n, C).
    reference : Tensor of shape (R, ...)
    output, norm, max_memory
        As in :func:`output_change`.
    labels : {"map", "posterior", "each"}
        As in :func:`output_change`.
    """

    def __init__(
        self, module: nn.Module, reference: torch.Tensor, output: str, labels: str, norm: str, max_memory: int
    ):
        check_options(output, labels, norm, max_memory)
        if len(reference) == 0:
            raise ValueError("X_reference is empty; at least one sample is required")
        self.output, self.labels, self.norm = output, labels, norm
        n_labels = None if labels in ("posterior", "each") else 1
        max_memory = int(max_memory)
        example = reference[:_CHECKED] if len(reference) > 1 else torch.cat([reference, torch.zeros_like(reference)])
        self.gradients = Gradients(module, example, n_labels, max_memory // 6)
        C, K = self.gradients.n_outputs, self.gradients.n_labels
        self._reference = reference
        fitting = max(1, max_memory * 5 // 8 // self.gradients.bytes_per_sample(C))
        self._block = ceil(len(reference) / ceil(len(reference) / fitting))
        per_sample = self.gradients.bytes_per_sample(K) + 3 * self._block * C * K * self.gradients.itemsize
        self._step = min(_CANDIDATES, max(1, max_memory // 8 // per_sample))
        self._kept: SampleGradients | None = None

    def scores(self, X: torch.Tensor, y: np.ndarray | None = None) -> np.ndarray:
        """Scores of candidates (n, ...), as in :func:`output_change`. Labels `y` replace those of "map"."""
        C, K = self.gradients.n_outputs, self.gradients.n_labels
        given = None if y is None else torch.from_numpy(_checked_labels(y, len(X), C)).to(X.device)
        if X.shape[1:] != self._reference.shape[1:]:
            raise ValueError(
                f"X has samples of shape {tuple(X.shape[1:])}, but those of X_reference are of shape "
                f"{tuple(self._reference.shape[1:])}"
            )
        directions = partial(_loss_gradients, each=K > 1)
        dtype = torch.float64 if self.gradients.itemsize == 8 else torch.float32
        total, proba = (torch.zeros(len(X), columns, dtype=dtype, device=X.device) for columns in (K, C))
        for references in self._references():
            for start in range(0, len(X), self._step):
                rows = slice(start, start + self._step)
                candidates = self.gradients.of(X[rows], directions, None if given is None else given[rows])
                proba[rows] = candidates.logits.softmax(1)
                total[rows] += self._change(references, candidates)
            del references  # freed before the next block is computed
        total /= len(self._reference)
        if self.labels == "posterior":
            total = (total * proba).sum(1, keepdim=True)
        return (total if self.labels == "each" else total[:, 0]).cpu().numpy()

    def _references(self) -> Iterator[SampleGradients]:
        """Gradients of all outputs for the references, in as few blocks as memory allows."""
        if self._block == len(self._reference):
            if self._kept is None:
                self._kept = self._of_references(self._reference)
            yield self._kept
            return
        for few in self._reference.split(self._block):
            yield self._of_references(few)  # no reference is kept here, so the caller can free it

    def _of_references(self, x: torch.Tensor) -> SampleGradients:
        return self.gradients.of(x, _identity, as_columns=True)

    def _change(self, references: SampleGradients, candidates: SampleGradients) -> torch.Tensor:
        """Sum over the references of the norm of the change of their outputs, (n, K)."""
        change = self.gradients.products(references, candidates)
        if self.output == "probability":
            p = references.logits.softmax(1)[:, :, None, None]
            change -= (p * change).sum(1, keepdim=True)
            change *= p
        return torch.linalg.vector_norm(change, ord=1 if self.norm == "l1" else 2, dim=1).sum(0)


def check_options(output: str, labels: Any, norm: str, max_memory: float) -> None:
    """Raise a ValueError that names the first invalid option of :func:`output_change`."""
    for name, value, allowed in (("output", output, OUTPUTS), ("norm", norm, NORMS)):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {allowed}")
    if isinstance(labels, str) and labels not in LABELS:
        raise ValueError(f"labels={labels!r} is neither one of {LABELS} nor an array of labels")
    if not isinstance(max_memory, Real) or not max_memory >= 1:
        raise ValueError(f"max_memory={max_memory!r} is not a positive number of bytes")


def _as_input(name: str, data: Any, module: nn.Module) -> torch.Tensor:
    """Data with the module's dtype, on its device; integer tensors (tokens) keep their dtype.

    Raises a ValueError if the data contains NaN or infinity.
    """
    weight = next(module.parameters(), torch.empty(0))
    is_index = isinstance(data, torch.Tensor) and not data.is_floating_point()
    if isinstance(data, np.ndarray):
        # A copy, since torch takes neither read-only memory nor negative strides nor another byte order.
        data = np.array(data, data.dtype.newbyteorder("="))
    x = torch.as_tensor(data).to(weight.device, None if is_index else weight.dtype)
    is_finite = torch.isfinite(x)
    if not is_finite.all():
        raise ValueError(f"{name} contains NaN or infinity, first in row {int((~is_finite).nonzero()[0, 0])}")
    return x


def _checked_labels(y: np.ndarray, n: int, n_outputs: int) -> np.ndarray:
    if y.shape != (n,):
        raise ValueError(f"labels has shape {y.shape}, but there are {n} samples")
    if y.dtype.kind not in "iu" or not 0 <= y.min() <= y.max() < n_outputs:
        raise ValueError(f"labels={y} must be integers from 0 to {n_outputs - 1}, the outputs of the module")
    return y.astype(np.int64)


def _identity(logits: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """Directions for the gradient of each output."""
    n, n_outputs = logits.shape
    return torch.eye(n_outputs, dtype=logits.dtype, device=logits.device).expand(n, -1, -1)


def _loss_gradients(logits: torch.Tensor, y: torch.Tensor | None, each: bool) -> torch.Tensor:
    """Gradients of the cross-entropy with respect to the logits (n, K, C): for one label per sample, or for each."""
    p = logits.softmax(1)[:, None]
    if each:
        return p - _identity(logits)
    y = logits.argmax(1) if y is None else y
    return p - nn.functional.one_hot(y, logits.shape[1]).to(p.dtype)[:, None]
