"""DAN: train late layers so that source and target activations have similar distributions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.utils.data import Dataset

from skal._targets import check_labels
from skal.features.pooling import flat
from skal.images.inputs import Inputs, JoinedInputs
from skal.numerics.discrepancy import ESTIMATORS, kernel_weights, median_bandwidths, mmd2
from skal.training.batches import LabelledRows
from skal.training.fine_tuning import FineTuning
from skal.training.net import SuffixNet
from skal.training.problem import Problem
from skal.training.recipe import Recipe, Trained
from skal.training.suffix import Suffix

_FEWEST = 4  # fewest images of each domain for which a discrepancy can be computed
_SOURCE, _TARGET, _SAMPLE = range(3)  # kinds of rows in a batch: source, labelled target, any target image


class DAN(Recipe):
    """Adapt to a target domain from a labelled source domain with a deep adaptation network (DAN).

    The loss is the cross-entropy of all labels plus the MK-MMD² between source and target activations of chosen layers.
    Features that separate the classes in the source should then separate them in the target. Target labels are
    optional.

    Parameters
    ----------
    lam : float, default=1.0
        Weight of the discrepancy. It rises from 0 as lam (2 / (1 + exp(-10 p)) - 1), where p is the progress of
        training from 0 to 1 [2]_: the share of its steps or of its time limit, whichever is larger.
    mmd_layers : sequence of int or str, default=(-2, -1)
        Layers whose activations, averaged over space, are aligned between the domains: negative counts of weight layers
        from the end (-1 are the logits), or names of trained submodules.
    n_kernels : int, default=5
        Number of Gaussian kernels, with bandwidths around the median distance of each batch.
    kernel_weights : {"uniform", "optimal"}, default="uniform"
        Weights of the kernels: equal, or those of :func:`skal.numerics.discrepancy.kernel_weights` for each batch.
    estimator : {"unbiased", "biased", "linear"}, default="unbiased"
        Estimator of the MMD² of a batch. The paper uses the linear one.
    labels : {"target", "source"}, default="target"
        What X, y are when no `X_source` is given: labelled target images, or labelled source images if the target has
        no labels yet. `partial_fit` remembers the source, so its X, y are target images.

    Notes
    -----
    ``fit`` accepts ``X_source, y_source``, the labelled source, and ``X_unlabeled``, unlabelled target images.
    ``sample_domain`` is scikit-adaptation's format: X holds both domains. Rows with a positive value belong to the
    source, rows with a negative value to the target. The label of an unlabelled target row is -1.

    Sample weights of target images are divided by their mean, so that their scale does not matter. Source images have
    weight 1.

    With neither source images nor unlabelled images, this recipe is equivalent to :class:`FineTuning`. With
    ``max_epochs=0`` no layer is adapted: only the head is fitted, on the labelled images of both domains.

    References
    ----------
    .. [1] Long, Cao, Wang, Jordan. "Learning transferable features with deep adaptation networks", ICML 2015, Eq. 4.
    .. [2] Ganin, Lempitsky. "Unsupervised domain adaptation by backpropagation", ICML 2015, section 4.1.

    Examples
    --------
    >>> from torch import nn
    >>> from skal import DAN, FrozenPrefixClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> X = rng.normal(size=(80, 4)).astype(np.float32) + 3 * y[:, None]
    >>> X_target = X + np.array([2, 0, 0, 0], dtype=np.float32)
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> recipe = DAN(labels="source")
    >>> classifier = FrozenPrefixClassifier(net, n_frozen=0, recipe=recipe, min_steps=300, random_state=0)
    >>> classifier.fit(X, y, X_unlabeled=X_target).score(X_target, y) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "lam": [Interval(Real, 0, None, closed="left")],
        "mmd_layers": ["array-like"],
        "n_kernels": [Interval(Integral, 1, None, closed="left")],
        "kernel_weights": [StrOptions({"uniform", "optimal"})],
        "estimator": [StrOptions(set(ESTIMATORS))],
        "labels": [StrOptions({"target", "source"})],
    }

    def __init__(
        self,
        lam: float = 1.0,
        *,
        mmd_layers: Sequence[int | str] = (-2, -1),
        n_kernels: int = 5,
        kernel_weights: str = "uniform",
        estimator: str = "unbiased",
        labels: str = "target",
    ):
        self.lam = lam
        self.mmd_layers = mmd_layers
        self.n_kernels = n_kernels
        self.kernel_weights = kernel_weights
        self.estimator = estimator
        self.labels = labels

    @property
    def takes(self) -> tuple[str, ...]:
        return (*super().takes, "sample_domain")

    def arrange(self, X: Any, y: Any, data: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Split a mixed array by domain. With ``labels="source"`` and no `X_source`, X, y become the source."""
        data = dict(data)
        domain = data.pop("sample_domain", None)
        if domain is not None:
            if "X_source" in data or "X_unlabeled" in data:
                raise ValueError(
                    "sample_domain marks source and target rows of X, so X_source and X_unlabeled are not allowed"
                )
            return split_domains(X, y, domain)
        if self.labels == "source" and "X_source" not in data:
            return None, None, {**data, "X_source": X, "y_source": check_labels(self, X, y)}
        return X, y, data

    def train(
        self, problem: Problem, *, X_source: Any = None, y_source: Any = None, X_unlabeled: Any = None
    ) -> Trained:
        """Train on batches of source images, labelled target images, and target images without their labels."""
        if X_source is None:
            if X_unlabeled is not None:
                raise ValueError(
                    "DAN requires a source, but only X_unlabeled is given; pass X_source and y_source too, or use "
                    "DAN(labels='source') if X and y are the source"
                )
            return FineTuning().train(problem)
        own = _with_mean_weight_1(problem)
        problem = own.with_rows(X_source, y_source)
        n_source, n_labelled = len(problem.y) - len(own.y), len(own.y)
        target = self._target(problem, own, X_unlabeled)
        if target is None or problem.options.max_epochs == 0:
            return replace(FineTuning().train(problem), labels=problem.y)
        if min(problem.options.batch_size, n_source) < _FEWEST:
            raise ValueError(
                f"batch_size={problem.options.batch_size} or the number of source images, {n_source}, is below the "
                f"minimum of {_FEWEST}"
            )
        start = problem.start()
        net = problem.net(
            self._with_activations(problem, start.suffix),
            n_source,
            penalty=start.penalty,
            net_class=partial(
                AdaptationNet,
                lam=self.lam,
                with_logits=-1 in self.mmd_layers,
                n_kernels=self.n_kernels,
                optimal=self.kernel_weights == "optimal",
                estimator=self.estimator,
                n_rows=n_source,
            ),
        )
        net.fit(TwoDomains(problem.rows(), n_source, n_labelled, len(target), problem.load(target)), None)
        start.settle(start.suffix)
        return Trained(problem.finished_net(start.suffix, net.history.to_list()), problem.classes, labels=problem.y)

    def _target(self, problem: Problem, own: Problem, X_unlabeled: Any) -> Inputs | None:
        """All target images, labelled and unlabelled; None if there are none."""
        parts: list[tuple[Inputs, range]] = []
        if X_unlabeled is not None:
            unlabelled = problem.check(X_unlabeled)
            parts.append((unlabelled, range(len(unlabelled))))
        target = JoinedInputs(*parts, (own.inputs, range(len(own.y))))
        if len(target) == 0:
            return None
        if len(target) < _FEWEST:
            raise ValueError(f"got {len(target)} target images, but DAN needs at least {_FEWEST}")
        return target

    def _with_activations(self, problem: Problem, suffix: Suffix) -> WithActivations:
        layers, cut = problem.prefix.backbone.layers, problem.prefix.cut
        nodes = [layers.resolve(layer) for layer in self.mmd_layers if layer != -1]
        for node in nodes:
            if not layers.is_before(cut, node):
                raise ValueError(
                    f"mmd_layers={self.mmd_layers!r} contains {node.name!r}, which is frozen and never changes"
                )
        segment = layers.segment(cut, [*nodes, layers.features], root=suffix.body).to(problem.prefix.device)
        return WithActivations(suffix, segment)


def _with_mean_weight_1(problem: Problem) -> Problem:
    """The problem with its sample weights, if it has any, relative to the weight 1 of source images."""
    weights = problem.sample_weight
    return problem if weights is None else replace(problem, sample_weight=weights / weights.mean())


class WithActivations(nn.Module):
    """A suffix that returns its logits and intermediate activations, averaged over space."""

    def __init__(self, suffix: Suffix, segment: nn.Module):
        super().__init__()
        self.suffix = suffix
        self._segment = [segment]  # a list, so that the layers it shares with the suffix are not registered twice

    @property
    def head(self) -> nn.Linear:
        return self.suffix.head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        *inner, features = self._segment[0](x)
        return self.suffix.head(self.suffix.scaled(flat(features))), [flat(values) for values in inner]


class AdaptationNet(SuffixNet):
    """Adds the discrepancy of the two domains to the loss of the labels.

    Labels are a dict. ``domain`` marks each row as source, labelled target, or target image used without its label.
    ``target``, and ``weight`` if given, have values only for the rows of the first two kinds.
    """

    def __init__(
        self,
        *args: Any,
        lam: float,
        with_logits: bool,
        n_kernels: int,
        optimal: bool,
        estimator: str,
        n_rows: int,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.lam = lam
        self.with_logits = with_logits
        self.n_kernels = n_kernels
        self.optimal = optimal
        self.estimator = estimator
        self.n_rows = n_rows
        self.begin = time.monotonic()

    def get_loss(self, y_pred: Any, y_true: dict[str, torch.Tensor], X: Any = None, training: bool = False) -> Any:
        logits, activations = y_pred
        domain = y_true["domain"]
        given = {name: values for name, values in y_true.items() if name != "domain"}
        labels = given if "weight" in given else given["target"]
        loss = super().get_loss(logits[domain != _SAMPLE], labels, X, training)
        of_source, of_target = domain == _SOURCE, domain == _SAMPLE
        if min(of_source.sum(), of_target.sum()) < _FEWEST:  # a small last batch
            return loss
        discrepancy = sum(
            self._discrepancy(values[of_source], values[of_target])
            for values in [*activations, *([logits] if self.with_logits else [])]
        )
        return loss + self._warmed_up() * discrepancy

    def _discrepancy(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        try:
            bandwidths = median_bandwidths(source, target, self.n_kernels)
        except ValueError:  # all images have the same activations in this layer
            return source.new_zeros(())
        weights = kernel_weights(source, target, bandwidths=bandwidths) if self.optimal else None
        return mmd2(source, target, bandwidths=bandwidths, weights=weights, estimator=self.estimator).to(source)

    def _warmed_up(self) -> float:
        """lam (2 / (1 + exp(-10 p)) - 1), where p is the progress of training, or of its time."""
        n_batches = math.ceil(self.n_rows / self.batch_size)
        done = (len(self.history) - 1) * n_batches + len(self.history[-1]["batches"]) - 1
        progress = done / (self.max_epochs * n_batches)
        if self.deadline is not None:
            elapsed = (time.monotonic() - self.begin) / max(self.deadline - self.begin, 1e-9)
            progress = max(progress, min(1.0, elapsed))
        return self.lam * math.tanh(5 * progress)


class TwoDomains(Dataset):
    """Batches of n source images, up to n labelled target images, and up to n images of the whole target.

    Parameters
    ----------
    labelled : LabelledRows
        Source rows first, then labelled target rows.
    n_source, n_labelled, n_target : int
        Number of source, labelled target, and all target rows.
    load : callable
        Maps target rows to activations.
    """

    def __init__(
        self,
        labelled: LabelledRows,
        n_source: int,
        n_labelled: int,
        n_target: int,
        load: Callable[[np.ndarray], torch.Tensor],
    ):
        self.labelled = labelled
        self.n_source = n_source
        self.n_labelled = n_labelled
        self.n_target = n_target
        self.load = load

    def __len__(self) -> int:
        return self.n_source

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        n = len(rows)
        of_target = self.load(torch.randperm(self.n_target)[:n].numpy())
        rows, domains = torch.as_tensor(rows), [torch.full((n,), _SOURCE)]
        if self.n_labelled:
            own = self.n_source + torch.randperm(self.n_labelled)[:n]
            rows = torch.cat([rows, own])
            domains.append(torch.full((len(own),), _TARGET))
        x, labels = self.labelled[rows]
        domains.append(torch.full((len(of_target),), _SAMPLE))
        labels = labels if isinstance(labels, dict) else {"target": labels}
        return torch.cat([x, of_target]), {**labels, "domain": torch.cat(domains)}


def split_domains(X: Any, y: Any, domain: ArrayLike) -> tuple[Any, Any, dict[str, Any]]:
    """Split a mixed array into labelled target images, their labels, and source and unlabelled target data.

    Parameters
    ----------
    X : array-like of length n
    y : array-like of shape (n,)
        -1 for unlabelled target rows.
    domain : array-like of shape (n,)
        Positive for source rows, negative for target rows.

    Returns
    -------
    X, y : array-like and ndarray, or None where no target row has a label
    data : dict of ``X_source``, ``y_source`` and, where there are any, ``X_unlabeled``

    Examples
    --------
    >>> X, y, data = split_domains(np.array([[0.0], [1.0], [2.0]]), ["a", "b", -1], np.array([1, -2, -2]))
    >>> X.tolist(), y.tolist(), data["y_source"].tolist(), data["X_unlabeled"].tolist()
    ([[1.0]], ['b'], ['a'], [[2.0]])
    """
    check_consistent_length(X, y, domain)
    is_source = _are_of_source(domain)
    if not is_source.any():
        raise ValueError("sample_domain contains no positive number, so there is no source to learn from")
    # dtype=object: NumPy would convert a list of names and -1 to strings, with "-1" among them.
    labels = np.array([*y], dtype=object)
    has_label = ~is_source & np.array([str(label) not in ("-1", "-1.0") for label in labels])
    source, labelled, rest = (np.flatnonzero(mask) for mask in (is_source, has_label, ~is_source & ~has_label))
    data = {"X_source": _safe_indexing(X, source), "y_source": np.array(labels[source].tolist())}
    if len(rest):
        data["X_unlabeled"] = _safe_indexing(X, rest)
    if len(labelled) == 0:
        return None, None, data
    return _safe_indexing(X, labelled), np.array(labels[labelled].tolist()), data


def _are_of_source(domain: ArrayLike) -> np.ndarray:
    """Whether each row belongs to the source. Raises a ValueError that names the first number with no sign."""
    rule = "sample_domain must contain a positive number for each source row and a negative one for each target row"
    try:
        numbers = np.asarray(domain, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}: {error}") from error
    if numbers.ndim != 1:
        raise ValueError(f"{rule}, but its shape is {numbers.shape}")
    invalid = np.flatnonzero(~((numbers > 0) | (numbers < 0)))  # 0 and NaN
    if len(invalid):
        raise ValueError(f"{rule}, but sample_domain[{invalid[0]}] is {numbers[invalid[0]]}")
    return numbers > 0
