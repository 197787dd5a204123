"""The training problem passed to a recipe: labelled images as activations at the cut, and what all recipes share."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import check_array
from skorch.helper import predefined_split

from skal._targets import check_labels, dtype_kind
from skal.features.activations import BLOCK
from skal.features.memory import ActivationCache, quarter_of_memory
from skal.features.pooling import flat
from skal.features.prefix import Prefix, mean_of_views, run_batched
from skal.images.forms import as_data, is_images
from skal.images.inputs import Inputs, JoinedInputs, check_shapes
from skal.training.batches import LabelledRows
from skal.training.final import FINAL_BYTES
from skal.training.head import HeadPenalty, solve_head
from skal.training.labelled import Labelled
from skal.training.net import Options, SuffixNet, build_net
from skal.training.step_rows import drawn, drawn_and_cropped, read
from skal.training.suffix import Suffix, head_for, interpolate


@dataclass(frozen=True)
class LastFit:
    """The fit to be continued.

    Parameters
    ----------
    suffix : Suffix
    classes : ndarray of shape (n_classes,)
    trained_classes : ndarray
        Classes whose rows of the head have been trained.
    corrected_classes : ndarray
        Classes that are removed, because all of their images have a different label now.
    """

    suffix: Suffix
    classes: np.ndarray
    trained_classes: np.ndarray
    corrected_classes: np.ndarray


@dataclass(frozen=True)
class Start:
    """Starting point of training: the head is fitted, and the other layers are those of the network or the last fit.

    Parameters
    ----------
    suffix : Suffix
        The suffix, which training modifies in place.
    penalty : HeadPenalty
    probe : Suffix or None
        A copy of the suffix before training. None if its head is random.
    alpha : float
        Weight of the trained parameters in their average with the probe's.
    absent : ndarray of int
        Outputs of classes that an earlier fit was trained on and that have no image now.
    kept : tuple of Tensor
        Weights and biases of those outputs.
    """

    suffix: Suffix
    penalty: HeadPenalty
    probe: Suffix | None
    alpha: float
    absent: np.ndarray
    kept: tuple[torch.Tensor, torch.Tensor]

    def settle(self, trained: Suffix) -> None:
        """Average a trained suffix with the probe, in place. Classes without images keep the last fit's weights."""
        with torch.no_grad():
            for name, values in (("weight", self.kept[0]), ("bias", self.kept[1])):
                trained.head.get_parameter(name)[self.absent] = values.to(trained.head.weight.device)
        if self.probe is not None:
            interpolate(self.probe, trained, self.alpha)


@dataclass(frozen=True)
class Problem:
    """Labelled images of a task, and everything recipes share.

    Parameters
    ----------
    prefix : Prefix
        The frozen layers and the cache of their activations.
    options : Options
        Training parameters shared by all recipes.
    inputs : Inputs
        Labelled images.
    y : ndarray of shape (n,)
        Their labels.
    is_old : ndarray of bool, shape (n,)
        Which images the last fit was trained on.
    sample_weight : ndarray of shape (n,) or None, default=None
    expected_classes : ndarray or None, default=None
        Classes that get an output even if they have no images yet.
    last : LastFit or None, default=None
        The fit to be continued.
    deadline : float or None, default=None
        Time at which training must end, as given by ``time.monotonic``.
    validation : Labelled or None, default=None
        Further labelled images that nothing is trained on. They are scored after each epoch.
    final : ActivationCache
        Final representations computed during this fit, reused by later calls such as queries.
    """

    prefix: Prefix
    options: Options
    inputs: Inputs
    y: np.ndarray
    is_old: np.ndarray
    sample_weight: np.ndarray | None = None
    expected_classes: np.ndarray | None = None
    last: LastFit | None = None
    deadline: float | None = None
    validation: Labelled | None = None
    final: ActivationCache = field(default_factory=lambda: ActivationCache(FINAL_BYTES, warn=False))

    # ------------------------------------------------------------ labelled rows

    @cached_property
    def classes(self) -> np.ndarray:
        """Classes of the outputs of the head, sorted."""
        known = [self.y, *([] if self.expected_classes is None else [self.expected_classes])]
        if self.last is not None:
            known.append(np.setdiff1d(self.last.classes, self.last.corrected_classes))
        return np.unique(np.concatenate(known))

    @cached_property
    def targets(self) -> torch.Tensor:
        """Index (n,) of the output of the head for each label."""
        return torch.from_numpy(np.searchsorted(self.classes, self.y))

    @cached_property
    def held(self) -> torch.Tensor | None:
        """Activations at the cut (n_views, n, ...) of the images and, if used, of their mirror images.

        None if they take more than a quarter of the memory. Each training step then reads its own.
        """
        held, done, rows = None, 0, range(len(self.inputs))
        # The first block shows the size. It is computed alone, so that no images are being loaded if the rest is not
        # needed: an iterator that is given up would wait for them, and an interrupt while it waits would be lost.
        parts = (JoinedInputs((self.inputs, part)) for part in (rows[:BLOCK], rows[BLOCK:]))
        for views in chain.from_iterable(map(self.prefix.viewed, parts)):
            if held is None:
                shape = (len(views), len(self.inputs), *views[0].shape[1:])
                if math.prod(shape) * views[0].element_size() > quarter_of_memory():
                    return None
                held = views[0].new_empty(shape)
            check_shapes([held.shape[2:], views[0].shape[1:]])
            for of_view, part in zip(held, views, strict=True):
                of_view[done : done + len(part)] = part
            done += len(views[0])
        return held

    @property
    def first(self) -> torch.Tensor:
        """Activations at the cut (1, ...) of the first image."""
        if self.held is not None:
            return self.held[0, :1]
        return next(iter(self.prefix.activations(JoinedInputs((self.inputs, [0])))))

    @cached_property
    def class_weights(self) -> np.ndarray | None:
        """Weight of each class in the loss. A class without images has weight 1."""
        given = self.options.class_weight
        if given is None or len(self.y) == 0:
            return None
        if isinstance(given, dict):
            unknown = [label for label in given if label not in self.classes.tolist()]
            unweighted = [label for label in self.classes.tolist() if label not in given]
            if unknown and unweighted:  # future classes may have a weight
                raise ValueError(
                    f"class_weight contains {unknown[0]!r}, which is not a class, but no weight for {unweighted[0]!r}; "
                    f"the classes are {self.classes.tolist()}"
                )
            weights = np.array([given.get(label, 1.0) for label in self.classes.tolist()], dtype=float)
            if not weights[self.targets.numpy()].any():
                raise ValueError(
                    f"class_weight is 0 for every class that has images, {np.unique(self.y).tolist()}; at least one "
                    "weight must be greater than 0"
                )
            return weights
        weights = np.ones(len(self.classes))
        # Like scikit-learn's compute_class_weight, which has sample_weight only since 1.7.
        counts = np.bincount(self.targets.numpy(), weights=self.sample_weight, minlength=len(self.classes))
        labelled = counts > 0
        weights[labelled] = counts.sum() / (labelled.sum() * counts[labelled])
        return weights

    @property
    def seconds_left(self) -> float:
        """Seconds until training must end: infinite without a time limit, 0 after it."""
        return math.inf if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def is_single_class(self) -> bool:
        """Whether all images have the same label, so that there is nothing to distinguish."""
        return len(np.unique(self.y)) < 2

    @cached_property
    def absent(self) -> np.ndarray:
        """Outputs of classes that the last fit was trained on and that have no image now."""
        if self.last is None:
            return np.empty(0, dtype=int)
        return np.flatnonzero(np.isin(self.classes, self.last.trained_classes) & ~np.isin(self.classes, self.y))

    @cached_property
    def hidden(self) -> np.ndarray | None:
        """For each class (a row), the outputs left out of the softmax of its images. None if there are none.

        Images of known classes carry no information about classes without images, and training on them would only
        unlearn these. A new class has to be distinguished from all others.
        """
        if self.last is None or len(self.absent) == 0:
            return None
        hidden = np.zeros((len(self.classes), len(self.classes)), dtype=bool)
        known = np.flatnonzero(np.isin(self.classes, self.last.trained_classes))
        hidden[np.ix_(known, self.absent)] = True
        return hidden

    def with_rows(self, X: Any, y: ArrayLike) -> Problem:
        """The problem with additional labelled images, placed before its own.

        Parameters
        ----------
        X : images, or Inputs
        y : array-like of labels
        """
        inputs = self.check(X)
        if np.ndim(y) == 1 and len(y) != len(inputs):  # type: ignore[arg-type]
            raise ValueError(f"X_source and y_source have inconsistent numbers of samples: {len(inputs)} and {len(y)}")  # type: ignore[arg-type]
        labels = check_labels(self, inputs, y, "y_source")
        if len(self.y) and dtype_kind(labels) != dtype_kind(self.y):
            raise ValueError(
                f"labels of the source, such as {labels[0]!r}, and of the target, such as {self.y[0]!r}, must have the "
                "same type"
            )
        n = len(labels)
        weights = None if self.sample_weight is None else np.concatenate([np.ones(n), self.sample_weight])
        return replace(
            self,
            inputs=JoinedInputs((inputs, range(n)), (self.inputs, range(len(self.y)))),
            y=np.concatenate([labels, self.y]) if len(self.y) else labels,
            is_old=np.concatenate([np.zeros(n, dtype=bool), self.is_old]),
            sample_weight=weights,
        )

    def check(self, X: Any) -> Inputs:
        """Images or features as network inputs. Raises a ValueError if the network does not accept them."""
        X = as_data(X)
        is_checked = hasattr(X, "with_transform")
        return self.prefix.check(X if is_checked or is_images(X) else check_array(X, dtype=np.float32))

    def load(self, inputs: Inputs) -> Callable[[Any], torch.Tensor]:
        """A function from rows of images to activations for a training step: newly augmented, or from the cache."""
        if not callable(self.options.augment):
            return partial(read, self.prefix, self.prefix.views(inputs))
        augment, run = self.options.augment, self.prefix.uncached()
        return lambda rows: run(augment(inputs.load(np.atleast_1d(rows))))

    def rows(self, chosen: np.ndarray | None = None, *, crops: bool = False) -> LabelledRows:
        """Labelled images, or a selection of them, as a data set of activations and targets.

        Parameters
        ----------
        chosen : ndarray of int or None, default=None
        crops : bool, default=False
            Whether to crop images at random. Has an effect only if no layer is frozen and ``augment="auto"``.
        """
        own = np.arange(len(self.y)) if chosen is None else chosen
        inputs, held = JoinedInputs((self.inputs, own)), self.held
        if held is not None and not np.array_equal(own, range(len(self.y))):
            held = held[:, own]
        load = self.load(inputs) if callable(self.options.augment) or held is None else partial(drawn, held)
        if crops and self.options.augment == "auto" and self.prefix.n_frozen == 0:
            load = partial(drawn_and_cropped, load)
        plain = partial(read, self.prefix, (inputs,)) if held is None else partial(drawn, held[:1])
        weights = self.row_weights
        if weights is None or np.ptp(weights) == 0:
            return LabelledRows(load, self.targets[own], None, plain)
        return LabelledRows(load, self.targets[own], torch.from_numpy(weights[own]).float(), plain)

    # ----------------------------------------------------------------- training

    def start(self) -> Start:
        """The suffix to be trained, with its head fitted to the current features."""
        suffix = self._suffix()
        features = self.features(suffix)
        if not torch.isfinite(features).all():
            raise ValueError("the network's features of the labelled images are not finite; check its weights")
        features = suffix.cpu().scaled(features)
        penalty = HeadPenalty.of(features.numpy(), sample_weight=self.row_weights)
        if self.hidden is not None:  # new images alone do not show where those of other classes lie
            penalty = replace(penalty, center=suffix.center, scale=suffix.scale)
        suffix.center, suffix.scale = penalty.center, penalty.scale
        if self.options.head_init == "linear_probe" and not (self.is_single_class and self.hidden is None):
            solve_head(
                suffix.head,
                features.numpy(),
                self.targets.numpy(),
                penalty,
                sample_weight=self.row_weights,
                new=self._solved_outputs(),
                hidden=self.hidden,
            )
        per_class = len(self.y) / len(self.classes)
        alpha = self.options.wise_alpha
        return Start(
            suffix,
            penalty,
            probe=None if self.options.head_init == "random" else copy.deepcopy(suffix),
            alpha=per_class / (per_class + 1) if alpha is None else alpha,
            absent=self.absent,
            kept=(suffix.head.weight[self.absent].detach(), suffix.head.bias[self.absent].detach()),
        )

    def features(self, suffix: Suffix) -> torch.Tensor:
        """Final representations (n, n_features) of the labelled images, computed by a suffix."""
        run = suffix.to(self.prefix.device).eval().features
        blocks = self.prefix.viewed(self.inputs) if self.held is None else [self.held]
        return torch.cat(
            [mean_of_views([run_batched(run, view, self.prefix.device) for view in block]) for block in blocks]
        )

    def logits(self, suffix: Suffix) -> torch.Tensor:
        """Logits (n, n_classes) of the labelled images, computed by a suffix."""
        return run_batched(suffix.logits, self.features(suffix), self.prefix.device)

    def net(
        self,
        module: Any,
        n_rows: int,
        *,
        penalty: HeadPenalty | None = None,
        share_of: np.ndarray | None = None,
        net_class: Callable[..., SuffixNet] = SuffixNet,
        n_parts: int = 1,
        reserved: float = 0.0,
    ) -> SuffixNet:
        """The skorch net that trains a suffix, or a module around it.

        Parameters
        ----------
        module : nn.Module
            With a ``head``.
        n_rows : int
            Rows per epoch.
        penalty : HeadPenalty or None, default=None
        share_of : ndarray of shape (n_rows,) or None, default=None
            Probability of each row to be drawn for a step. None uses every row once per epoch.
        net_class : callable, default=SuffixNet
        n_parts : int, default=1
            Number of nets among which the epochs and steps of one fit are divided.
        reserved : float, default=0.0
            Seconds of the time limit that are left for what follows the training.
        """
        made_here = {"iterator_train", "train_split"} & set(self.options.net_params or {})
        if made_here and net_class is not SuffixNet:
            raise ValueError(f"net_params contains {sorted(made_here)}, but this recipe creates its own batches")
        options = self.options
        if self.validation is not None:
            split = predefined_split(self._validation_rows(self.validation))
            options = replace(options, net_params={**(options.net_params or {}), "train_split": split})
        return build_net(
            module,
            n_rows,
            options,
            head_penalty=0.0 if penalty is None else penalty.per_image,
            hidden=None if self.hidden is None else torch.from_numpy(self.hidden),
            share_of=share_of,
            device=self.prefix.device,
            deadline=None if self.deadline is None else self.deadline - reserved,
            net_class=net_class,
            n_parts=n_parts,
        )

    def _validation_rows(self, given: Labelled) -> LabelledRows:
        """Images that are held out, as a data set: neither mirrored nor augmented."""
        targets = torch.from_numpy(np.searchsorted(self.classes, given.y))
        weights = None if given.sample_weight is None else torch.from_numpy(given.sample_weight).float()
        return LabelledRows(partial(read, self.prefix, (given.inputs,)), targets, weights)

    def finished_net(self, suffix: Suffix, history: list[dict[str, Any]] | None = None) -> SuffixNet:
        """Wrap a trained suffix and its training history in a net."""
        net = self.net(suffix, 1).initialize()
        net.history_.extend(history or [])
        return net

    def _suffix(self) -> Suffix:
        """The pre-trained layers after the cut with a new head, or the last fit's suffix with rows for new classes."""
        if self.last is not None:
            suffix = copy.deepcopy(self.last.suffix).cpu()
            if not np.array_equal(self.classes, self.last.classes):
                suffix.head = head_for(suffix.head, self.last.classes, self.classes)
            if self.options.head_init == "linear_probe":
                untrained = self._untrained()
                with torch.no_grad():
                    suffix.head.weight[untrained] = 0
                    # At the centre of all features, the logit of a new class is the mean of the others'.
                    center = torch.from_numpy(suffix.center).float()
                    at_center = suffix.head(center)[np.setdiff1d(range(len(self.classes)), untrained)]
                    suffix.head.bias[untrained] = at_center.mean() if len(at_center) else 0.0
            return suffix
        layers, n_frozen = self.prefix.backbone.layers, self.prefix.n_frozen
        rest = layers.segment(self.prefix.cut, [layers.features]).to(self.prefix.device).eval()
        n_features = run_batched(lambda x: flat(rest(x)[0]), self.first, self.prefix.device).shape[1]
        options = self.options
        return Suffix(layers, n_frozen, len(self.classes), n_features, options.train_batch_norm, options.normalize)

    @property
    def solves_all(self) -> bool:
        """Whether the head is fitted for all classes, from images of at least two."""
        return self._solved_outputs() is None and not self.is_single_class and self.options.head_init == "linear_probe"

    def _solved_outputs(self) -> np.ndarray | None:
        """Outputs of the head to be fitted. None means all, from scratch."""
        untrained = self._untrained()
        only_adds_classes = bool(np.isin(self.targets.numpy()[~self.is_old], untrained).all())
        if self.last is not None and self.options.max_epochs == 0 and len(untrained) and only_adds_classes:
            return untrained  # without training steps, the outputs of the other classes stay the same
        return np.setdiff1d(np.arange(len(self.classes)), self.absent) if len(self.absent) else None

    def _untrained(self) -> np.ndarray:
        """Outputs of the head that have not been trained yet."""
        trained = self.classes[:0] if self.last is None else self.last.trained_classes
        return np.flatnonzero(~np.isin(self.classes, trained))

    @cached_property
    def row_weights(self) -> np.ndarray | None:
        """Weight of each labelled row, 1 on average: its class weight times its sample weight."""
        parts = [] if self.class_weights is None else [self.class_weights[self.targets.numpy()]]
        parts += [] if self.sample_weight is None else [self.sample_weight]
        if not parts or not len(self.y):
            return None
        weights = np.prod(parts, axis=0)
        return weights / weights.mean()
