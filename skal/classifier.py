"""FrozenPrefixClassifier: a pre-trained network whose first layers are frozen, as a scikit-learn estimator."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from torch.utils.data import Dataset, TensorDataset

from skal._labels import decode_labels, encode_labels
from skal._random import draw_seed, seeded
from skal._validation import check_labels
from skal.adapted import AdaptedNetwork, run_batched, width
from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike
from skal.features.activations import Point
from skal.features.pooling import flat
from skal.images.inputs import Inputs, JoinedInputs
from skal.images.transform import ImageTransform
from skal.source import SourceProfile
from skal.training.batches import DrawnRows, replay_shares
from skal.training.checkpoint import load_state, read_checkpoint, write_checkpoint
from skal.training.head import HeadPenalty, solve_head
from skal.training.net import SuffixNet, build_net
from skal.training.problem import FineTuning
from skal.training.suffix import Suffix, grow_head

if TYPE_CHECKING:
    from typing_extensions import Self

#: From where a suffix starts to the trained net, and further models whose probabilities are averaged with its own.
FineTune: TypeAlias = Callable[[FineTuning], tuple[NeuralNetClassifier, list[Suffix]]]


class FrozenPrefixClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, AdaptedNetwork):
    """Classifier that fine-tunes the last layers of a pre-trained network; its first layers are frozen.

    The activations of the frozen layers are computed once an image and shared by training, prediction, queries and
    clones. The new head is first solved as a logistic regression on the pre-trained features; then head and trainable
    layers are fine-tuned together, under the same penalty of the head [3]_.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        A torchvision classification model's name, a module (copied, never mutated), or a function making one.
    weights : str, path or None, default=None
        ``"DEFAULT"`` or another name of torchvision's, a state-dict file (``.safetensors``, or what
        ``torch.load(weights_only=True)`` reads), or None for the module's own.
    n_frozen : int or None, default=None
        Number of frozen weight layers, counted in forward order; a residual shortcut belongs to its block. None freezes
        up to layer A of the transformation pattern, the fourth weight layer from the end. The ADMA text uses 2 for
        AlexNet, 7 for VGG-16 and 8 for ResNet-18 [1]_.
    source : SourceProfile or None, default=None
        Profile of the source task, used by queries.
    image_size : int or None, default=None
        Side of the square images given to the network; None takes the pre-processing's own.
    preprocess : ImageTransform or None, default=None
        Pre-processing of pixels; None takes the backbone's own.
    lr : float, default=3e-3
        Initial learning rate; it falls linearly to zero.
    relative_lr : bool, default=True
        Whether each tensor of weights has `lr` times its root mean square as its rate: a step then changes the layers
        of every network, and a head of any size, by the same share [2]_. False takes `lr` as it is.
    max_epochs : int, default=30
        Passes over the labelled images in one fit; 0 leaves the linear probe.
    min_steps : int, default=150
        Fewest training steps in one fit: few images are passed more often than `max_epochs`.
    batch_size : int, default=32
        Images in a training step.
    optimizer : type, default=torch.optim.AdamW
        Class of the optimiser.
    weight_decay : float, default=0.01
    class_weight : dict, "balanced" or None, default="balanced"
        Weight of each class in the loss, as in scikit-learn. What is queried is not distributed as the task is, and
        under the strong penalty of a head with few labels the larger classes would take everything; None weighs every
        image alike.
    augment : callable or None, default=None
        Changes a batch of network inputs (n, channels, H, W) at random each time it is drawn, with torch's generator
        (torchvision's transforms do). Every step then runs the frozen layers too, without the cache.
    normalize : bool, default=True
        Whether the head reads the features of every image scaled to one length.
    wise_alpha : float or None, default=None
        The fitted weights are (1 - alpha) times those before fine-tuning, with the linear probe as head, plus alpha
        times the fine-tuned ones [4]_. None takes k / (k + 5) with k the mean number of labels a class: the fewer
        labels, the closer to the probe. ``head_init="random"`` takes 1.
    head_init : {"linear_probe", "random"}, default="linear_probe"
        Where a new head starts: from the logistic regression on the pre-trained features, or from random weights.
    train_batch_norm : bool, default=False
        Whether batch normalisation of trainable layers uses the statistics of its batch. By default it keeps the
        pre-trained ones: a batch of two labels has none worth having.
    warm_start : bool, default=False
        Whether `fit` continues from the last fit (M_{t-1} to M_t) of the same network at the same depth. New classes
        then add rows to the head; the old ones keep their weights, and `normalize` and `train_batch_norm` stay as they
        were. By default each fit starts from the pre-trained network.
    replay : float or "misclassified", default=0.9
        Where a fit continues from the last one (`warm_start`, `partial_fit`), the share of images seen before in each
        training step; new ones share the rest [5]_. "misclassified" trains on new images and on those seen before that
        the last fit gets wrong, all alike [6]_.
    cache : bool, path or cache, default=True
        Whether activations of the frozen prefix are kept for other fits, folds and queries: in memory
        (``skal.features.CACHE``, a quarter of the machine's memory), in a folder that processes and later runs
        share, or in a cache such as ``FolderCache(folder, dtype="float16")``.
    device : str, default="cpu"
    random_state : int, RandomState or None, default=None
        Draws the head, the order of batches, dropout, and a network without weights of its own (an int only; else
        such a network is drawn with seed 0).
    verbose : bool, default=False
        Whether a bar shows the progress where more than 512 images pass the network.
    net_params : dict or None, default=None
        Further parameters of :class:`skorch.NeuralNetClassifier`, such as ``callbacks``, ``criterion`` or ``verbose``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    net_ : skorch.NeuralNetClassifier
        The trained suffix; its ``history`` holds the loss of each epoch.
    backbone_ : Backbone
        The pre-trained network M0.
    n_frozen_ : int
        Number of frozen weight layers.
    seen_, seen_y_ : Inputs and ndarray
        The images trained on and their labels, which `partial_fit` replays.
    n_features_in_ : int
        Number of features; only where X is 2-D features.

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep CNNs with active model adaptation", KDD 2018, section 4.1.
    .. [2] Shazeer, Stern. "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, section 8.
    .. [3] Kumar, Raghunathan, Jones, Ma, Liang. "Fine-tuning can distort pretrained features and underperform
       out-of-distribution", ICLR 2022, section 3.2 (LP-FT).
    .. [4] Wortsman et al. "Robust fine-tuning of zero-shot models", CVPR 2022, section 4 (WiSE-FT).
    .. [5] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, section 4 (0.9 old, 0.1 new).
    .. [6] Zhou, Shin, Gurudu, Gotway, Liang. "Active, continual fine tuning of convolutional neural networks for
       reducing annotation efforts", Medical Image Analysis 2021, section 3.3.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    >>> FrozenPrefixClassifier(net, n_frozen=1, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    classes_: np.ndarray
    seen_: Inputs
    seen_y_: np.ndarray
    _content: np.ndarray
    _fused: list[Suffix]

    def __init__(
        self,
        backbone: BackboneLike,
        *,
        weights: str | os.PathLike[str] | None = None,
        n_frozen: int | None = None,
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
        self.backbone = backbone
        self.weights = weights
        self.n_frozen = n_frozen
        self.source = source
        self.image_size = image_size
        self.preprocess = preprocess
        self.lr = lr
        self.relative_lr = relative_lr
        self.max_epochs = max_epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.augment = augment
        self.normalize = normalize
        self.wise_alpha = wise_alpha
        self.head_init = head_init
        self.train_batch_norm = train_batch_norm
        self.warm_start = warm_start
        self.replay = replay
        self.cache = cache
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params

    # ---------------------------------------------------------------- fitting

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "preprocess": [ImageTransform, None],
        "optimizer": [callable],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "relative_lr": ["boolean"],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "min_steps": [Interval(Integral, 0, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "augment": [callable, None],
        "replay": [Interval(Real, 0, 1, closed="neither"), StrOptions({"misclassified"})],
        "verbose": ["verbose"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "normalize": ["boolean"],
        "wise_alpha": [Interval(Real, 0, 1, closed="both"), None],
        "head_init": [StrOptions({"linear_probe", "random"})],
        "train_batch_norm": ["boolean"],
        "warm_start": ["boolean"],
        "cache": ["boolean", str, os.PathLike, HasMethods(["holds", "get", "put"])],
        "random_state": ["random_state"],
        "net_params": [dict, None],
        "source": [SourceProfile, None],
    }

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Fine-tune the trainable layers and a new head on labelled images.

        Parameters
        ----------
        X : ndarray, tensor or list of paths
            uint8 images (n, H, W, 3) or grey (n, H, W); float images (n, channels, H, W), taken as already
            pre-processed; image file paths; or features (n, n_features) where the backbone takes them.
        y : array-like of shape (n,)
            Labels of any kind.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            If X is not what the network takes (the message names the allowed forms), y has another length, a file is
            damaged, a parameter is out of range or the source profile belongs to another backbone; all before any
            training. If training diverges; an earlier fit then stays as it was.
        """
        return self._fit(X, y, continues=self.warm_start, replays=False)

    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Continue training with more labelled images; those seen before are replayed, so that nothing is forgotten.

        Parameters
        ----------
        X : as in `fit`
            New images. An image seen before takes its new label. They are kept, not copied, to be replayed: do not
            write other images into the same array.
        y : array-like of shape (n,)
            Labels; new classes add rows to the head.
        classes : array-like of shape (n_classes,), default=None
            Classes that may come later and shall have a column of `predict_proba` already.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            As `fit`; if `y` holds a label that is not in `classes`, or labels of another kind than before; if the
            network or its frozen depth is another than that of the last fit.
        """
        return self._fit(X, y, continues=True, replays=True, classes=classes)

    def _fit(
        self,
        X: Any,
        y: Any,
        *,
        continues: bool,
        replays: bool,
        classes: ArrayLike | None = None,
        fine_tune: FineTune | None = None,
    ) -> Self:
        self._validate_params()
        before = dict(self.__dict__)
        try:
            return self._train(X, y, continues=continues, replays=replays, classes=classes, fine_tune=fine_tune)
        except BaseException:
            self.__dict__.clear()  # an earlier fit stays as it was
            self.__dict__.update(before)
            raise

    def _train(
        self,
        X: Any,
        y: Any,
        *,
        continues: bool,
        replays: bool,
        classes: ArrayLike | None,
        fine_tune: FineTune | None,
    ) -> Self:
        continues = continues and self.__sklearn_is_fitted__()
        if y is not None:  # scikit-learn wants a missing y to be named before what is wrong with X
            X = self._check_features(X, reset=not (continues and replays))
        y = check_labels(self, X, y)
        foretold = y if classes is None else np.unique(np.asarray(classes))
        if not np.isin(y, foretold).all():
            raise ValueError(f"y holds {np.setdiff1d(y, foretold)[0]!r}, which is not among classes={foretold}")
        backbone = self._load_backbone(width(X))
        layers = backbone.layers
        n_frozen = self._depth(backbone)
        if self.source is not None:
            self.source.check_backbone(backbone)
        if continues and replays and not self._is_same_network(backbone, n_frozen):
            raise ValueError(
                f"partial_fit continues a fit with {self.n_frozen_} frozen layers of {self.backbone_.fingerprint!r}, "
                f"but there are {n_frozen} of {backbone.fingerprint!r} now; call fit"
            )
        continues = continues and self._is_same_network(backbone, n_frozen)
        if continues and (self.classes_.dtype.kind in "OSU") != (y.dtype.kind in "OSU"):
            raise ValueError(f"y holds {y[0]!r}, but the classes so far are {self.classes_}, of another kind")
        inputs: Inputs = backbone.inputs.check(X)
        content = _content(inputs)
        is_old = np.zeros(len(y), dtype=bool)
        if continues:
            is_old = np.isin(content, self._content)
            if replays:
                kept = np.flatnonzero(~np.isin(self._content, content))
                inputs = JoinedInputs((self.seen_, kept), (inputs, range(len(y))))
                is_old = np.arange(len(inputs)) < len(kept)
                y = np.concatenate([self.seen_y_[kept], y])
                content = np.concatenate([self._content[kept], content])
        cut = layers.cut(n_frozen)
        activations = torch.cat([block for (block,) in self._frozen(backbone, inputs, [Point(cut)])])

        with seeded(draw_seed(check_random_state(self.random_state))):
            if continues:
                suffix, classes = self._grown_suffix(np.union1d(y, foretold))
                fresh = np.flatnonzero(~np.isin(classes, self._solved_classes()))
            else:
                classes = np.union1d(y, foretold)
                fresh = np.arange(len(classes))
                suffix = self._new_suffix(backbone, n_frozen, len(classes), activations)
            features = run_batched(suffix.to(self.device).eval().head_input, activations, self.device).numpy()
            suffix.cpu()
            targets = np.searchsorted(classes, y)
            weights = self._class_weights(classes, y)
            penalty = HeadPenalty.of(features)
            if self.head_init == "linear_probe" and len(np.unique(targets)) > 1:
                sample_weight = None if weights is None else weights[targets]
                # Training starts from the optimum of all rows; without it (max_epochs=0) the trained ones stay.
                new = fresh if self.max_epochs == 0 else None
                solve_head(suffix.head, features, targets, penalty, sample_weight=sample_weight, new=new)
            k = len(y) / len(classes)
            start = FineTuning(
                backbone=backbone,
                inputs=inputs,
                activations=activations,
                targets=torch.from_numpy(targets),
                is_old=is_old,
                is_right=self._is_right(activations, y, is_old),
                suffix=suffix,
                penalty=penalty,
                class_weight=weights,
                probe=None if self.head_init == "random" else copy.deepcopy(suffix),
                wise_alpha=k / (k + 5) if self.wise_alpha is None else self.wise_alpha,
            )
            net, fused = (fine_tune or self._fine_tune)(start)
        if not all(torch.isfinite(weight).all() for weight in net.module_.parameters()):
            raise ValueError(f"training diverged: weights are not finite with lr={self.lr}; a lower rate helps")
        self.net_, self.classes_, self.backbone_, self.n_frozen_ = net, classes, backbone, n_frozen
        self.seen_, self.seen_y_, self._content, self._fused = inputs, y.copy(), content, fused
        return self

    def _fine_tune(self, start: FineTuning, n_times: int = 1) -> tuple[NeuralNetClassifier, list[Suffix]]:
        """Train a suffix with its head; the net, and no further models to average with it."""
        share_of, of_steps = None, np.arange(len(start.targets))
        if self.replay == "misclassified":
            of_steps = np.flatnonzero(~(start.is_old & start.is_right))
        else:
            share_of = replay_shares(start.is_old, float(self.replay))
        net = self._net(
            start.suffix,
            len(of_steps),
            head_penalty=start.penalty.per_image,
            class_weight=start.class_weight,
            share_of=share_of,
            n_times=n_times,
        )
        target = start.targets[of_steps]
        if len(of_steps) == 0:
            net.initialize()
        elif self.augment is None:
            net.fit(start.activations[of_steps], target)
        else:
            net.fit(DrawnRows(self._drawn(start.backbone, JoinedInputs((start.inputs, of_steps))), target), None)
        start.settle(net.module_)
        return net, []

    def _labelled(self, start: FineTuning) -> Dataset:
        """The labelled images as activations at the cut, with their outputs; changed each time they are drawn."""
        if self.augment is None:
            return TensorDataset(start.activations, start.targets)
        return DrawnRows(self._drawn(start.backbone, start.inputs), start.targets)

    def _at_cut(self, backbone: Backbone, inputs: Inputs, rows: np.ndarray) -> Iterator[torch.Tensor]:
        """Activations of chosen images at the cut, block by block, from the cache where they are there."""
        points = [Point(backbone.layers.cut(self._depth(backbone)))]
        for (block,) in self._frozen(backbone, JoinedInputs((inputs, rows)), points):
            yield block

    def _drawn(self, backbone: Backbone, inputs: Inputs) -> Callable[[np.ndarray], torch.Tensor]:
        """From rows of images to activations as training takes them: changed each time, or from the cache."""
        augment = self.augment
        if augment is None:
            return lambda rows: torch.cat([*self._at_cut(backbone, inputs, rows)])
        layers = backbone.layers
        prefix = layers.segment(layers.input, [layers.cut(self._depth(backbone))]).to(self.device).eval()

        def changed(rows: np.ndarray) -> torch.Tensor:
            images = augment(inputs.load(np.asarray(rows)))
            with torch.no_grad():
                return prefix(images.to(self.device))[0].cpu()

        return changed

    def _new_suffix(self, backbone: Backbone, n_frozen: int, n_classes: int, activations: torch.Tensor) -> Suffix:
        """The pre-trained layers after the cut, and a new head."""
        layers = backbone.layers
        rest = layers.segment(layers.cut(n_frozen), [layers.features]).to(self.device).eval()
        n_features = run_batched(lambda x: flat(rest(x)[0]), activations[:1], self.device).shape[1]
        return Suffix(layers, n_frozen, n_classes, n_features, self.train_batch_norm, self.normalize)

    def _is_same_network(self, backbone: Backbone, n_frozen: int) -> bool:
        """Whether the last fit was of this network at this depth."""
        return self.n_frozen_ == n_frozen and self.backbone_.fingerprint == backbone.fingerprint

    def _is_right(self, activations: torch.Tensor, y: np.ndarray, is_old: np.ndarray) -> np.ndarray:
        """Which images the last fit gets right; where there is none, or nobody asks, none."""
        if self.replay != "misclassified" or not is_old.any():
            return np.zeros(len(y), dtype=bool)
        logits = run_batched(self.net_.module_.eval(), activations, self.device)
        return self.classes_[logits.argmax(dim=1).numpy()] == y

    def _solved_classes(self) -> np.ndarray:
        """Classes whose rows of the head have been trained; of a loaded classifier all, of a single class none."""
        taught = np.unique(self.seen_y_) if len(self.seen_y_) else self.classes_
        return taught if len(taught) > 1 else taught[:0]

    def _class_weights(self, classes: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Weight of each class in the loss; one of which there is no image yet weighs 1."""
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, dict):
            return np.array([self.class_weight.get(label, 1.0) for label in classes.tolist()], dtype=float)
        weights, labelled = np.ones(len(classes)), np.unique(y)
        weights[np.searchsorted(classes, labelled)] = compute_class_weight("balanced", classes=labelled, y=y)
        return weights

    def _grown_suffix(self, seen: np.ndarray) -> tuple[Suffix, np.ndarray]:
        """A copy of the fitted suffix with rows for the classes that are new; an interrupted fit loses nothing."""
        suffix = copy.deepcopy(self.net_.module_)
        classes = np.union1d(self.classes_, seen)
        if len(classes) > len(self.classes_):
            kept = np.searchsorted(classes, self.classes_).tolist()
            suffix.head = grow_head(suffix.head, kept, len(classes))
        return suffix, classes

    def _net(
        self,
        suffix: Suffix,
        n_images: int,
        *,
        head_penalty: float = 0.0,
        class_weight: np.ndarray | None = None,
        share_of: np.ndarray | None = None,
        net_class: type[SuffixNet] = SuffixNet,
        n_times: int = 1,
    ) -> NeuralNetClassifier:
        further = self.net_params or {}
        of_batches = {"iterator_train", "train_split"} & set(further)
        if of_batches and net_class is not SuffixNet:
            raise ValueError(f"net_params holds {sorted(of_batches)}, but batches of two tasks are made here")
        return build_net(
            suffix,
            n_images,
            net_class=net_class,
            lr=self.lr,
            relative_lr=self.relative_lr,
            max_epochs=n_times * self.max_epochs,
            min_steps=n_times * self.min_steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            head_penalty=head_penalty,
            class_weight=class_weight,
            share_of=share_of,
            device=self.device,
            further=further,
        )

    # ------------------------------------------------------------- prediction

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Columns in the order of `classes_`; float32, each row sums to 1.
        """
        return self._predict_log_proba(X).exp().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        y : ndarray of shape (n,)
        """
        log_proba = self._predict_log_proba(X)
        return self.classes_[log_proba.argmax(dim=1).numpy()]

    def _predict_log_proba(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        models = self._averaged()
        return self._run_suffix(
            X, lambda x: torch.stack([model(x).log_softmax(1) for model in models]).logsumexp(0)
        ).log_softmax(1)  # the mean of their probabilities

    def _averaged(self) -> list[Suffix]:
        """The models that predict together."""
        return [*self._fused, self.net_.module_]

    def transform(self, X: Any) -> np.ndarray:
        """Final representation under the current network.

        Before the first fit, ``activations(X, [-2], pooled=True)`` gives the pre-trained network's.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        features : ndarray of shape (n, n_features_out)
        """
        check_is_fitted(self)
        return self._run_suffix(X, self.net_.module_.features).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.net_.module_.head.in_features

    def _run_suffix(self, X: Any, run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Run part of the fitted suffix on activations at the cut, block by block."""
        backbone, inputs = self._inputs(X)
        for model in (*self._fused, self.net_.module_):
            model.to(self.device).eval()
        points = [Point(backbone.layers.cut(self.n_frozen_))]
        return torch.cat([run_batched(run, block, self.device) for (block,) in self._frozen(backbone, inputs, points)])

    # ------------------------------------------------------------------ state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted suffix, head and classes (safetensors).

        The frozen prefix is not in the file: the pre-trained network it belongs to is named by its fingerprint.

        Parameters
        ----------
        path : path
        """
        check_is_fitted(self)
        described = {
            "classes": encode_labels(self.classes_),
            "n_frozen": self.n_frozen_,
            "fingerprint": self.backbone_.fingerprint,
            "n_features_in": getattr(self, "n_features_in_", None),
            "preprocess": repr(self.backbone_.inputs.transform),
            "normalize": self.net_.module_.normalize,
            "n_fused": len(self._fused),
        }
        state = self.net_.module_.state_dict()
        for i, model in enumerate(self._fused):
            state |= {f"fused.{i}.{name}": value for name, value in model.state_dict().items()}
        write_checkpoint(path, state, described)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Take the state that :meth:`save` wrote; runs no code from the file.

        Parameters
        ----------
        path : path

        Returns
        -------
        self : FrozenPrefixClassifier
            Fitted, with this estimator's own backbone and parameters. It remembers no training images: a later
            `partial_fit` replays none.

        Raises
        ------
        ValueError
            If the file is no classifier of skal's, is damaged or incomplete, or belongs to another backbone.
        """
        state, described = read_checkpoint(
            path, ("classes", "n_frozen", "fingerprint", "n_features_in", "preprocess", "normalize", "n_fused")
        )
        if "head.weight" not in state:
            raise ValueError(f"{str(path)!r} is incomplete: it lacks the tensor 'head.weight'")
        n_classes, n_features = state["head.weight"].shape
        backbone = self._load_backbone(described["n_features_in"])
        if backbone.fingerprint != described["fingerprint"]:
            raise ValueError(
                f"{str(path)!r} belongs to the backbone {described['fingerprint']!r}, but this one is "
                f"{backbone.fingerprint!r}"
            )
        if repr(backbone.inputs.transform) != described["preprocess"]:
            raise ValueError(
                f"{str(path)!r} was trained with {described['preprocess']}, but this classifier has "
                f"{backbone.inputs.transform}"
            )
        with seeded(self._seed):
            suffixes = [
                Suffix(
                    backbone.layers,
                    described["n_frozen"],
                    n_classes,
                    n_features,
                    self.train_batch_norm,
                    described["normalize"],
                )
                for _ in range(1 + described["n_fused"])
            ]
        *self._fused, suffix = suffixes
        for i, model in enumerate(self._fused):
            of_model = f"fused.{i}."
            own = {name[len(of_model) :]: state.pop(name) for name in list(state) if name.startswith(of_model)}
            load_state(model, own, path)
        load_state(suffix, state, path)
        self.net_ = self._net(suffix, 1).initialize()
        self.backbone_, self.n_frozen_ = backbone, described["n_frozen"]
        self.classes_ = decode_labels(described["classes"])
        self.seen_, self.seen_y_, self._content = JoinedInputs(), self.classes_[:0], _content(JoinedInputs())
        if described["n_features_in"] is not None:
            self.n_features_in_ = described["n_features_in"]
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _content(inputs: Inputs) -> np.ndarray:
    """Name of each image's content."""
    return np.array([key.hex() for key in inputs.keys(range(len(inputs)))], dtype=str)
