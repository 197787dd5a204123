"""Selective joint fine-tuning: train on the target's images and, beside them, on source images that look alike."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import Dataset

from skal.adapted import run_batched
from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike
from skal.classifier import FrozenPrefixClassifier
from skal.features.cache import find_cache
from skal.images.forms import as_data, is_images
from skal.images.inputs import Inputs, JoinedInputs
from skal.images.transform import ImageTransform
from skal.selective.descriptors import FilterBankDescriptor
from skal.selective.neighbors import SymmetricKLNeighbors
from skal.source import SourceProfile
from skal.training.head import HeadPenalty, solve_head
from skal.training.net import SuffixNet
from skal.training.problem import FineTuning
from skal.training.suffix import Suffix

if TYPE_CHECKING:
    from typing_extensions import Self


class SelectiveJointClassifier(FrozenPrefixClassifier):
    """Classifier that is fine-tuned together with a source task, on the source images whose low-level look is nearest.

    For each labelled image its nearest neighbours among the source images are found by histograms of filter responses.
    Target and source task share all layers but their heads; each training step takes labelled images and, for each of
    them, one of its neighbours. Images that stay hard are given more neighbours, iteration by iteration. Without source
    data it is a :class:`FrozenPrefixClassifier`.

    Parameters
    ----------
    backbone
        As in :class:`FrozenPrefixClassifier`, like all parameters that are not described here. By default the whole
        network is trained, as in the text [1]_ (``n_frozen=0``). `max_epochs` and `min_steps` are those of one
        iteration.
    descriptor : FilterBankDescriptor or None, default=None
        What makes images alike; it is fitted on the labelled images. None takes the first two convolutions of the
        backbone.
    n_neighbors : int, default=100
        Neighbours of each labelled image in the first iteration (K_0).
    n_iterations : int, default=5
        An image that is misclassified after an iteration is given 4 K_0 neighbours more, one that is right but
        uncertain 2 K_0 (Eq. 3).
    delta : float, default=0.1
        Entropy, in nats, from which on a prediction is uncertain.
    min_per_class : int, default=2
        Source classes of which fewer images are borrowed are left out.
    fusion : bool, default=True
        Whether predictions average the probabilities of the models after all iterations; else the last one counts. It
        may be changed after `fit`.

    Attributes
    ----------
    n_neighbors_ : ndarray of shape (n_iterations, n)
        Neighbours of each labelled image in each iteration; only after a fit with source data, as the next two.
    borrowed_ : list of ndarray
        Rows of the source that each iteration trained on.
    neighbors_ : ndarray of shape (n, k)
        Rows of the source nearest to each labelled image, the nearest first.

    References
    ----------
    .. [1] Ge, Yu. "Borrowing treasures from the wealthy: deep transfer learning through selective joint fine-tuning",
       CVPR 2017.

    Examples
    --------
    >>> from torch import nn
    >>> rng = np.random.default_rng(0)
    >>> X, X_source = (rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for n in (12, 40))
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    ...                     nn.Flatten(), nn.Linear(4, 2))
    >>> classifier = SelectiveJointClassifier(net, image_size=16, n_neighbors=3, n_iterations=2, random_state=0)
    >>> classifier.fit(X, np.arange(12) % 2, X_source=X_source, y_source=np.arange(40) % 4).borrowed_[0].shape[0] <= 36
    True
    """

    def __init__(
        self,
        backbone: BackboneLike,
        *,
        weights: str | os.PathLike[str] | None = None,
        n_frozen: int | None = 0,
        descriptor: FilterBankDescriptor | None = None,
        n_neighbors: int = 100,
        n_iterations: int = 5,
        delta: float = 0.1,
        min_per_class: int = 2,
        fusion: bool = True,
        source: SourceProfile | None = None,
        image_size: int | None = None,
        preprocess: ImageTransform | None = None,
        lr: float = 3e-3,
        relative_lr: bool = True,
        max_epochs: int = 6,
        min_steps: int = 30,
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
        self.descriptor = descriptor
        self.n_neighbors = n_neighbors
        self.n_iterations = n_iterations
        self.delta = delta
        self.min_per_class = min_per_class
        self.fusion = fusion

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FrozenPrefixClassifier._parameter_constraints,
        "descriptor": [FilterBankDescriptor, None],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_iterations": [Interval(Integral, 1, None, closed="left")],
        "delta": [Interval(Real, 0, None, closed="left")],
        "min_per_class": [Interval(Integral, 1, None, closed="left")],
        "fusion": ["boolean"],
    }

    def fit(self, X: Any, y: ArrayLike, *, X_source: Any = None, y_source: Any = None) -> Self:
        """Fine-tune on labelled images and on what is borrowed from a source.

        Parameters
        ----------
        X, y
            As in :meth:`FrozenPrefixClassifier.fit`.
        X_source : images of length n_source, or a tuple of several such sets; default=None
            None makes it an ordinary fit, with as many epochs as all iterations have.
        y_source : array-like of shape (n_source,), or a tuple of as many; default=None
            Labels of the source task. Classes of different sets are different classes.

        Returns
        -------
        self : SelectiveJointClassifier

        Raises
        ------
        ValueError
            As :meth:`FrozenPrefixClassifier.fit`; if only one of `X_source` and `y_source` is given, or they differ in
            length or number of sets; if X is no images.
        """
        if (X_source is None) != (y_source is None):
            raise ValueError("X_source and y_source belong together, but only one of them is given")
        self._validate_params()
        if X_source is None:
            return self._fit(
                X,
                y,
                continues=self.warm_start,
                replays=False,
                fine_tune=partial(self._fine_tune, n_times=self.n_iterations),
            )
        if y is not None and not is_images(as_data(X)):
            raise ValueError("borrowing compares images by their low-level look, but X is 2-D features")
        sets = list(zip(*_as_sets(X_source, y_source), strict=True))
        return self._fit(
            X, y, continues=self.warm_start, replays=False, fine_tune=partial(self._joint, X=as_data(X), sets=sets)
        )

    def _train(self, X: Any, y: Any, **further: Any) -> Self:
        for name in ("n_neighbors_", "borrowed_", "neighbors_"):
            self.__dict__.pop(name, None)
        return super()._train(X, y, **further)

    def _joint(
        self, start: FineTuning, X: Any, sets: Sequence[tuple[Any, Any]]
    ) -> tuple[NeuralNetClassifier, list[Suffix]]:
        """Train the suffix in iterations, each on what the one before found hard."""
        inputs = [start.backbone.inputs.check(as_data(images)) for images, _ in sets]
        source = JoinedInputs(*((part, range(len(part))) for part in inputs))
        y_source = np.concatenate([of_set + offset for of_set, offset in _encoded([labels for _, labels in sets])])
        n_target, n_source = len(start.targets), len(y_source)
        most = min(n_source, self.n_neighbors * (1 + 4 * (self.n_iterations - 1)))
        nearest = self._nearest(start.backbone, X, [images for images, _ in sets], most)

        n_near = np.full(n_target, min(self.n_neighbors, n_source))
        counts, borrowed_in, models = [], [], []
        head, classes = None, np.empty(0, dtype=int)
        histories = []
        for _ in range(self.n_iterations):
            lists = [nearest[i, : n_near[i]] for i in range(n_target)]
            borrowed = np.unique(np.concatenate(lists))
            kept, sizes = np.unique(y_source[borrowed], return_counts=True)
            kept = kept[sizes >= self.min_per_class]
            borrowed = borrowed[np.isin(y_source[borrowed], kept)]
            lists = [rows[np.isin(y_source[rows], kept)] for rows in lists]
            counts.append(n_near)
            borrowed_in.append(borrowed)
            head = self._source_head(start, source, borrowed, np.searchsorted(kept, y_source), head, classes, kept)
            classes = kept
            net = self._train_jointly(start, source, np.searchsorted(kept, y_source), lists, head)
            histories += net.history.to_list()
            models.append(copy.deepcopy(start.suffix).cpu())
            start.settle(models[-1])
            n_near = np.minimum(self._more(n_near, models[-1], start), n_source)
        self.n_neighbors_, self.borrowed_, self.neighbors_ = np.stack(counts), borrowed_in, nearest
        net = self._net(models[-1], n_target).initialize()
        net.history_.extend(histories)
        return net, models[:-1]

    def _averaged(self) -> list[Suffix]:
        return super()._averaged() if self.fusion else [self.net_.module_]

    def _nearest(self, backbone: Backbone, X: Any, sources: Sequence[Any], k: int) -> np.ndarray:
        """Source rows nearest to each target image, by descriptors whose bins fit the target."""
        descriptor = self.descriptor
        if descriptor is None:
            descriptor = FilterBankDescriptor(
                "conv",
                backbone=backbone.layers.module,
                preprocess=backbone.inputs.transform,
                device=self.device,
                verbose=self.verbose,
            )
        descriptor = clone(descriptor).fit(X)
        search = SymmetricKLNeighbors(k, weights=descriptor.weights_, device=self.device, verbose=self.verbose)
        queries = descriptor.transform(X)
        folder = getattr(find_cache(self.cache), "folder", None)
        if folder is None:
            return search.fit([descriptor.transform(as_data(part)) for part in sources]).kneighbors(queries)[1]
        # In a folder, so that a pass that was killed continues.
        parts = [descriptor.write(as_data(part), folder) for part in sources]
        return search.fit(parts).kneighbors(queries, checkpoint=folder)[1]

    def _source_head(
        self,
        start: FineTuning,
        source: Inputs,
        borrowed: np.ndarray,
        targets: np.ndarray,
        head: nn.Linear | None,
        classes: np.ndarray,
        kept: np.ndarray,
    ) -> nn.Linear:
        """A head for the source classes of an iteration: solved, or with the rows it had before."""
        new = nn.Linear(start.suffix.head.in_features, max(len(kept), 1))
        if self.head_init == "random":
            if head is not None:
                stayed = np.intersect1d(classes, kept)
                with torch.no_grad():
                    new.weight[np.searchsorted(kept, stayed)] = head.weight.cpu()[np.searchsorted(classes, stayed)]
                    new.bias[np.searchsorted(kept, stayed)] = head.bias.cpu()[np.searchsorted(classes, stayed)]
        elif len(kept) > 1:
            read = start.suffix.to(self.device).eval().head_input
            of_blocks = self._at_cut(start.backbone, source, borrowed)
            features = torch.cat([run_batched(read, block, self.device) for block in of_blocks]).numpy()
            solve_head(new, features, targets[borrowed], HeadPenalty.of(features))
        return new

    def _train_jointly(
        self, start: FineTuning, source: Inputs, y_source: np.ndarray, lists: list[np.ndarray], head: nn.Linear
    ) -> NeuralNetClassifier:
        """One iteration: both tasks' losses are added, each over its own images."""
        both = TwoHeads(start.suffix, head)
        net = self._net(
            both,  # type: ignore[arg-type]
            len(start.targets),
            head_penalty=start.penalty.per_image,
            class_weight=start.class_weight,
            net_class=JointNet,
        )
        drawn = self._drawn(start.backbone, source)
        net.fit(PairedRows(self._labelled(start), lists, y_source, drawn), None)
        return net

    def _more(self, n_near: np.ndarray, model: Suffix, start: FineTuning) -> np.ndarray:
        """Neighbours in the next iteration: more where the model is wrong or unsure (Eq. 2 and 3)."""
        proba = run_batched(model.to(self.device).eval(), start.activations, self.device).double().softmax(1)
        entropy = -torch.special.xlogy(proba, proba).sum(1).numpy()
        return more_neighbors(
            n_near, proba.argmax(1).numpy() == start.targets.numpy(), entropy, self.n_neighbors, self.delta
        )


def more_neighbors(
    n_near: ArrayLike, is_right: ArrayLike, entropy: ArrayLike, n_first: int, delta: float = 0.1
) -> np.ndarray:
    """Neighbours of each target image in the next iteration (Eq. 3).

    Parameters
    ----------
    n_near : array-like of int, shape (n,)
        In this iteration.
    is_right : array-like of bool, shape (n,)
    entropy : array-like of shape (n,)
        Of the predictions, in nats (Eq. 2).
    n_first : int
        In the first iteration, K_0.
    delta : float, default=0.1

    Returns
    -------
    n_near : ndarray of int, shape (n,)

    Examples
    --------
    >>> more_neighbors([10, 10, 10], [False, True, True], [0.0, 0.5, 0.05], 10)
    array([50, 30, 10])
    """
    unsure = np.where(np.asarray(entropy) >= delta, 2 * n_first, 0)
    return np.asarray(n_near) + np.where(is_right, unsure, 4 * n_first)


class TwoHeads(nn.Module):
    """A suffix with its own head and that of the source task: logits of both, side by side."""

    def __init__(self, suffix: Suffix, source_head: nn.Linear):
        super().__init__()
        self.suffix = suffix
        self.source_head = source_head

    @property
    def head(self) -> nn.Linear:
        return self.suffix.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.suffix.head_input(x)
        return torch.cat([self.suffix.head(features), self.source_head(features)], dim=1)


class JointNet(SuffixNet):
    """Adds the losses of the two tasks; labels below 0 are the source's, -1 being its first class."""

    def get_loss(self, y_pred: torch.Tensor, y_true: torch.Tensor, X: Any = None, training: bool = False) -> Any:
        n_classes = self.module_.head.out_features
        of_target = y_true >= 0
        loss = super().get_loss(y_pred[of_target, :n_classes], y_true[of_target], X, training)
        if not of_target.all():
            of_source = y_pred[~of_target, n_classes:]
            loss = loss + nn.functional.cross_entropy(of_source, -1 - y_true[~of_target])
        return loss


class PairedRows(Dataset):
    """Batches of target images and, for each of them, one of its neighbours, drawn anew each time.

    Parameters
    ----------
    target : Dataset
        Gives activations and labels of several rows at once.
    lists : list of ndarray
        Source rows from which the neighbour of each target image is drawn; with torch's generator.
    y_source : ndarray of shape (n_source,)
        From 0.
    load : callable
        From source rows to activations.
    """

    def __init__(
        self,
        target: Dataset,
        lists: list[np.ndarray],
        y_source: np.ndarray,
        load: Callable[[np.ndarray], torch.Tensor],
    ):
        self.target = target
        self.lists = lists
        self.y_source = y_source
        self.load = load

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.target[rows]
        with_some = [self.lists[i] for i in rows if len(self.lists[i])]
        if not with_some:
            return x, y
        chances = torch.rand(len(with_some)).tolist()
        drawn = np.array([near[int(chance * len(near))] for near, chance in zip(with_some, chances, strict=True)])
        of_source = torch.from_numpy(-1 - self.y_source[drawn])
        return torch.cat([x, self.load(drawn)]), torch.cat([y, of_source])


def _as_sets(X_source: Any, y_source: Any) -> tuple[list[Any], list[np.ndarray]]:
    """Source images and labels as lists of sets of equal length."""
    if isinstance(X_source, tuple) != isinstance(y_source, tuple):
        raise ValueError("several source sets are two tuples, of images and of labels, but only one is a tuple")
    images, labels = (list(X_source), list(y_source)) if isinstance(X_source, tuple) else ([X_source], [y_source])
    if len(images) != len(labels):
        raise ValueError(f"X_source holds {len(images)} sets, but y_source {len(labels)}")
    labels = [column_or_1d(of_set) for of_set in labels]
    for part, of_set in zip(images, labels, strict=True):
        check_consistent_length(part, of_set)
    return images, labels


def _encoded(labels: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """Labels of each set from 0, and where its classes start among those of all sets."""
    encoded, offset = [], 0
    for of_set in labels:
        classes, codes = np.unique(of_set, return_inverse=True)
        encoded.append((codes, offset))
        offset += len(classes)
    return encoded
