"""DAN: a classifier whose late layers are trained so that source and target look alike to them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import Dataset

from skal.adapted import width
from skal.backbones.load import BackboneLike
from skal.classifier import FrozenPrefixClassifier
from skal.features.pooling import flat
from skal.images.forms import as_data
from skal.images.transform import ImageTransform
from skal.numerics.discrepancy import ESTIMATORS, kernel_weights, median_bandwidths, mmd2
from skal.source import SourceProfile
from skal.training.net import SuffixNet
from skal.training.problem import FineTuning
from skal.training.suffix import Suffix

if TYPE_CHECKING:
    from typing_extensions import Self

_FEWEST = 4  # images of each domain of which a discrepancy can be taken


class DANClassifier(FrozenPrefixClassifier):
    """Classifier of a target domain that learns from a labelled source domain, by deep adaptation (DAN).

    Beside the cross-entropy of all labels the loss holds, for chosen layers, the MK-MMD² between source and target
    activations, so that what tells the classes apart in the source does so in the target. The target needs no labels;
    those it has are welcome.

    Parameters
    ----------
    backbone
        As in :class:`FrozenPrefixClassifier`, like all parameters that are not described here.
    lam : float, default=1.0
        Weight of the discrepancy; it is warmed up from 0 by lam (2 / (1 + exp(-10 p)) - 1), p being the progress of
        training from 0 to 1.
    mmd_layers : sequence of int or str, default=(-2, -1)
        Layers whose activations are brought together, averaged over space: negative counts of weight layers from the
        end (-1 are the logits), or names of trained submodules.
    n_kernels : int, default=5
        Gaussian kernels, around the median distance of each batch.
    kernel_weights : {"uniform", "optimal"}, default="uniform"
        Weights of the kernels: all alike, or those of :func:`skal.numerics.discrepancy.kernel_weights` for each batch.
    estimator : {"unbiased", "biased", "linear"}, default="unbiased"
        Of the MMD² of a batch; the text takes the linear one.

    Attributes
    ----------
    X_source_, X_target_ : images or None
        What was given: queries compare with the source, and :func:`skal.metrics.target_density` scores the target.

    References
    ----------
    .. [1] Long, Cao, Wang, Jordan. "Learning transferable features with deep adaptation networks", ICML 2015, Eq. 4.
    .. [2] Ganin, Lempitsky. "Unsupervised domain adaptation by backpropagation", ICML 2015, section 4.1 (the warm-up).

    Examples
    --------
    >>> from torch import nn
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> X = rng.normal(size=(80, 4)).astype(np.float32) + 3 * y[:, None]
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> dan = DANClassifier(net, n_frozen=0, random_state=0).fit(X, y, X_target=X + [2, 0, 0, 0])
    >>> dan.score(X + [2, 0, 0, 0], y) > 0.9
    True
    """

    def __init__(
        self,
        backbone: BackboneLike,
        *,
        weights: str | os.PathLike[str] | None = "auto",
        n_frozen: int | None = None,
        lam: float = 1.0,
        mmd_layers: Sequence[int | str] = (-2, -1),
        n_kernels: int = 5,
        kernel_weights: str = "uniform",
        estimator: str = "unbiased",
        source: SourceProfile | None = None,
        image_size: int | None = None,
        preprocess: ImageTransform | None = None,
        lr: float = 3e-3,
        relative_lr: bool = True,
        max_epochs: int = 30,
        min_steps: int = 150,
        batch_size: int = 32,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        weight_decay: float = 0.01,
        class_weight: dict[Any, float] | str | None = "balanced",
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        normalize: bool = True,
        wise_alpha: float | None = None,
        head_init: str = "linear_probe",
        train_batch_norm: bool = False,
        warm_start: bool = False,
        replay: float | str = 0.9,
        cache: bool | str | os.PathLike[str] = True,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        net_params: dict[str, Any] | None = None,
    ):
        super().__init__(
            backbone,
            weights=weights,
            n_frozen=n_frozen,
            source=source,
            image_size=image_size,
            preprocess=preprocess,
            lr=lr,
            relative_lr=relative_lr,
            max_epochs=max_epochs,
            min_steps=min_steps,
            batch_size=batch_size,
            optimizer=optimizer,
            weight_decay=weight_decay,
            class_weight=class_weight,
            augment=augment,
            normalize=normalize,
            wise_alpha=wise_alpha,
            head_init=head_init,
            train_batch_norm=train_batch_norm,
            warm_start=warm_start,
            replay=replay,
            cache=cache,
            device=device,
            random_state=random_state,
            verbose=verbose,
            net_params=net_params,
        )
        self.lam = lam
        self.mmd_layers = mmd_layers
        self.n_kernels = n_kernels
        self.kernel_weights = kernel_weights
        self.estimator = estimator

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FrozenPrefixClassifier._parameter_constraints,
        "lam": [Interval(Real, 0, None, closed="left")],
        "mmd_layers": ["array-like"],
        "n_kernels": [Interval(Integral, 1, None, closed="left")],
        "kernel_weights": [StrOptions({"uniform", "optimal"})],
        "estimator": [StrOptions(set(ESTIMATORS))],
    }

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        X_source: Any = None,
        y_source: Any = None,
        X_target: Any = None,
        sample_domain: ArrayLike | None = None,
    ) -> Self:
        """Train on the labels of both domains, and bring their activations together.

        Parameters
        ----------
        X, y
            Labelled images of the target where there is an `X_source`; else of the source. With `sample_domain` both
            domains, and what is not labelled.
        X_source, y_source : images and labels of the source, default=None
        X_target : images of the target without labels, default=None
        sample_domain : array-like of shape (n,), default=None
            Positive where a row of X is the source's, negative where it is the target's, whose label is -1 where it is
            not known: scikit-adaptation's form. Excludes the three others.

        Returns
        -------
        self : DANClassifier
            Without target images an ordinary fit.

        Raises
        ------
        ValueError
            As :meth:`FrozenPrefixClassifier.fit`; if the forms are mixed, only one of `X_source` and `y_source` is
            given, `sample_domain` holds a 0 or has another length, or the domains' images cannot be one array.
        """
        self._validate_params()
        if (X_source is None) != (y_source is None):
            raise ValueError("X_source and y_source belong together, but only one of them is given")
        if sample_domain is not None:
            if X_source is not None or X_target is not None:
                raise ValueError("sample_domain says what is source and target in X: give no X_source and no X_target")
            source, target, unlabelled = _by_domain(as_data(X), y, np.asarray(sample_domain))
        elif X_source is not None:
            source, target, unlabelled = (X_source, y_source), (X, y), X_target
        else:
            source, target, unlabelled = (X, y), None, X_target
        fit = partial(self._fit, continues=self.warm_start, replays=False)
        of_target = [part for part in (unlabelled, target[0] if target is not None else None) if part is not None]
        X_target = _joined(*of_target) if of_target else None
        if X_target is None:
            fit(X, y)
        else:
            self._check_domains(source, X_target)
            labelled = source if target is None else _labelled(source, target)
            fit(*labelled, fine_tune=partial(self._adapt, n_source=len(source[1]), X_target=X_target))
        self.X_source_, self.X_target_ = source[0], X_target
        return self

    def _check_domains(self, source: tuple[Any, Any], X_target: Any) -> None:
        """Raise a ValueError unless a discrepancy of the two can be taken."""
        check_consistent_length(*source)
        if len(X_target) < _FEWEST:
            raise ValueError(f"there are {len(X_target)} target images, but a discrepancy takes {_FEWEST}")
        if min(self.batch_size, len(source[1])) < _FEWEST:
            raise ValueError(
                f"batch_size={self.batch_size} of {len(source[1])} source images: a discrepancy takes {_FEWEST}"
            )
        columns = [width(as_data(part)) for part in (source[0], X_target)]
        if columns[0] != columns[1]:
            raise ValueError(f"the source has {columns[0]} features, but the target {columns[1]}")

    def _train(self, X: Any, y: Any, **further: Any) -> Self:
        for name in ("X_source_", "X_target_"):
            self.__dict__.pop(name, None)
        return super()._train(X, y, **further)

    def load(self, path: str | os.PathLike[str]) -> Self:
        super().load(path)
        self.X_source_ = self.X_target_ = None
        return self

    load.__doc__ = FrozenPrefixClassifier.load.__doc__

    def _adapt(self, start: FineTuning, n_source: int, X_target: Any) -> tuple[NeuralNetClassifier, list[Suffix]]:
        """Train on batches of the source, of the labelled target, and of the target as it is."""
        layers, suffix = start.backbone.layers, start.suffix
        target = start.backbone.inputs.check(as_data(X_target))
        cut = layers.cut(self._depth(start.backbone))
        nodes = [layers.resolve(layer) for layer in self.mmd_layers if layer != -1]
        for node in nodes:
            if not layers.is_before(cut, node):
                raise ValueError(f"mmd_layers={self.mmd_layers!r} holds the frozen {node.name!r}, which never changes")
        segment = layers.segment(cut, [*nodes, layers.features], root=suffix.body).to(self.device)
        module = WithActivations(suffix, segment)
        net = self._net(
            module,  # type: ignore[arg-type]
            n_source,
            head_penalty=start.penalty.per_image,
            class_weight=start.class_weight,
            net_class=partial(  # type: ignore[arg-type]
                AdaptationNet,
                lam=self.lam,
                with_logits=-1 in self.mmd_layers,
                n_kernels=self.n_kernels,
                optimal=self.kernel_weights == "optimal",
                estimator=self.estimator,
                n_rows=n_source,
            ),
        )
        load = self._drawn(start.backbone, target)
        n_labelled, n_classes = len(start.targets) - n_source, suffix.head.out_features
        net.fit(TwoDomains(self._labelled(start), n_source, n_labelled, len(target), n_classes, load), None)
        start.settle(suffix)
        final = self._net(suffix, n_source).initialize()
        final.history_.extend(net.history.to_list())
        return final, []


class WithActivations(nn.Module):
    """A suffix that gives, beside its logits, activations on the way, averaged over space."""

    def __init__(self, suffix: Suffix, segment: nn.Module):
        super().__init__()
        self.suffix = suffix
        self._segment = [segment]  # of the suffix's own layers, which are not to be counted twice

    @property
    def head(self) -> nn.Linear:
        return self.suffix.head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        *inner, features = self._segment[0](x)
        return self.suffix.head(self.suffix.scaled(flat(features))), [flat(values) for values in inner]


class AdaptationNet(SuffixNet):
    """Adds the discrepancy of the two domains to the loss of the labels.

    A label below the number of classes is a source image's, one from there on a target image's, and one below 0 stands
    for a target image without label.
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

    def get_loss(self, y_pred: Any, y_true: torch.Tensor, X: Any = None, training: bool = False) -> Any:
        logits, activations = y_pred
        n_classes = logits.shape[1]
        has_label = y_true >= 0
        loss = super().get_loss(logits[has_label], y_true[has_label] % n_classes, X, training)
        of_source, of_target = has_label & (y_true < n_classes), ~has_label
        if min(of_source.sum(), of_target.sum()) < _FEWEST:  # a last batch of few images
            return loss
        discrepancy = sum(
            self._discrepancy(values[of_source], values[of_target])
            for values in [*activations, *([logits] if self.with_logits else [])]
        )
        return loss + self._warmed_up() * discrepancy

    def _discrepancy(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        try:
            bandwidths = median_bandwidths(source, target, self.n_kernels)
        except ValueError:  # all images coincide in this layer
            return source.new_zeros(())
        weights = kernel_weights(source, target, bandwidths=bandwidths) if self.optimal else None
        return mmd2(source, target, bandwidths=bandwidths, weights=weights, estimator=self.estimator).to(source)

    def _warmed_up(self) -> float:
        """lam (2 / (1 + exp(-10 p)) - 1), p being the progress of training."""
        n_batches = math.ceil(self.n_rows / self.batch_size)
        done = (len(self.history) - 1) * n_batches + len(self.history[-1]["batches"]) - 1
        return self.lam * math.tanh(5 * done / (self.max_epochs * n_batches))


class TwoDomains(Dataset):
    """Batches of source images, of as many labelled target images, and of as many target images, if there are.

    Parameters
    ----------
    labelled : Dataset
        Activations and labels, of the source's rows first.
    n_source, n_labelled, n_target : int
        Rows of the source, of the labelled target, and of all of the target.
    n_classes : int
    load : callable
        From rows of the target to activations.
    """

    def __init__(
        self,
        labelled: Dataset,
        n_source: int,
        n_labelled: int,
        n_target: int,
        n_classes: int,
        load: Callable[[np.ndarray], torch.Tensor],
    ):
        self.labelled = labelled
        self.n_source = n_source
        self.n_labelled = n_labelled
        self.n_target = n_target
        self.n_classes = n_classes
        self.load = load

    def __len__(self) -> int:
        return self.n_source

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.labelled[rows]
        of_target = self.load(torch.randperm(self.n_target)[: len(rows)].numpy())
        xs, ys = [x], [y]
        if self.n_labelled:
            own, labels = self.labelled[self.n_source + torch.randperm(self.n_labelled)[: len(rows)]]
            xs.append(own)
            ys.append(labels + self.n_classes)
        return torch.cat([*xs, of_target]), torch.cat([*ys, torch.full((len(of_target),), -1)])


def _by_domain(X: Any, y: Any, domain: np.ndarray) -> tuple[tuple[Any, Any], tuple[Any, Any] | None, Any]:
    """Source with labels, target with labels, and target without, of a mixed array in scikit-adaptation's form."""
    check_consistent_length(X, y, domain)
    if domain.ndim != 1 or (domain == 0).any():
        raise ValueError("sample_domain must hold a positive number for each source row and a negative for each other")
    is_source = domain > 0
    if not is_source.any():
        raise ValueError("sample_domain holds no positive number: there is no source to learn from")
    # A list of names and -1 would become an array of names, "-1" among them.
    labels = np.array([*y], dtype=object)
    has_label = ~is_source & np.array([str(label) != "-1" for label in labels])
    parts = [np.flatnonzero(mask) for mask in (is_source, has_label, ~is_source & ~has_label)]
    source, target = ((_safe_indexing(X, rows), np.array(labels[rows].tolist())) for rows in parts[:2])
    unlabelled = _safe_indexing(X, parts[2]) if len(parts[2]) else None
    return source, target if len(parts[1]) else None, unlabelled


def _labelled(source: tuple[Any, Any], target: tuple[Any, Any]) -> tuple[Any, np.ndarray]:
    """Labelled images of both domains, the source's first."""
    check_consistent_length(*target)
    labels = [column_or_1d(part) for part in (source[1], target[1])]
    if len({part.dtype.kind in "OSU" for part in labels}) > 1:
        raise ValueError(
            f"labels of the source, such as {labels[0][0]!r}, and of the target, such as {labels[1][0]!r}, "
            "are of two kinds"
        )
    return _joined(source[0], target[0]), np.concatenate(labels)


def _joined(*parts: Any) -> Any:
    """Images of several sets as one; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    arrays = [as_data(part) for part in parts]
    arrays = [part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part) for part in arrays]
    if len({(array.shape[1:], array.dtype.kind) for array in arrays}) > 1:
        shapes = [f"{array.shape[1:]} {array.dtype}" for array in arrays]
        raise ValueError(f"images of source and target must have one form, but have {' and '.join(shapes)}")
    return np.concatenate(arrays)
