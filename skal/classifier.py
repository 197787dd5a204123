"""FrozenPrefixClassifier: a pre-trained network whose first layers are frozen, as a scikit-learn estimator."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, assert_all_finite, check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from skorch import NeuralNetClassifier
from torch import fx

from skal.backbones import Backbone, BackboneLike, load_backbone
from skal.checkpoint import read_checkpoint, write_checkpoint
from skal.features import Point, find_cache, frozen_activations, pool
from skal.images import ImageTransform, Inputs, JoinedInputs, as_data, is_images
from skal.network import Suffix, flat, grow_head, interpolate
from skal.randomness import draw_seed, seeded
from skal.source import SourceProfile
from skal.training import AugmentedRows, HeadPenalty, build_net, replay_shares, solve_head

_INFERENCE_BATCH = 256
_SILENT = 512  # images that pass without a progress bar: a query asks for the pool in blocks of this size


class FrozenPrefixClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):
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
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as in scikit-learn.
    augment : callable or None, default=None
        Changes a batch of network inputs (n, channels, H, W) at random each time it is drawn, with torch's generator
        (torchvision's transforms do). Every step then runs the frozen layers too, without the cache.
    normalize : bool, default=True
        Whether the head reads the features of every image scaled to one length.
    wise_alpha : float or None, default=None
        The fitted weights are (1 - alpha) times those of the linear probe on the pre-trained network plus alpha times
        the fine-tuned ones [4]_. None takes k / (k + 5) with k the mean number of labels a class: the fewer labels, the
        closer to the probe. A fit that continues from the last one, and ``head_init="random"``, take 1.
    head_init : {"linear_probe", "random"}, default="linear_probe"
        Where a new head starts: from the logistic regression on the pre-trained features, or from random weights.
    train_batch_norm : bool, default=False
        Whether batch normalisation of trainable layers uses the statistics of its batch. By default it keeps the
        pre-trained ones: a batch of two labels has none worth having.
    warm_start : bool, default=False
        Whether `fit` continues from the last fit (M_{t-1} to M_t). New classes then add rows to the head and the old
        ones keep their weights. By default each fit starts from the pre-trained network.
    replay : float, default=0.9
        Where a fit continues from the last one (`warm_start`, `partial_fit`), the share of images seen before in each
        training step; new ones share the rest [5]_.
    cache : bool or path, default=True
        Whether activations of the frozen prefix are kept for other fits, folds and queries: in memory
        (``skal.features.CACHE``, 1 GiB), or in a folder that processes and later runs share.
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

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    >>> FrozenPrefixClassifier(net, n_frozen=1, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    net_: NeuralNetClassifier
    classes_: np.ndarray
    backbone_: Backbone
    n_frozen_: int
    seen_: Inputs
    seen_y_: np.ndarray

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
        class_weight: dict[Any, float] | str | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        normalize: bool = True,
        wise_alpha: float | None = None,
        head_init: str = "linear_probe",
        train_batch_norm: bool = False,
        warm_start: bool = False,
        replay: float = 0.9,
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
        "replay": [Interval(Real, 0, 1, closed="neither")],
        "verbose": ["verbose"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "normalize": ["boolean"],
        "wise_alpha": [Interval(Real, 0, 1, closed="both"), None],
        "head_init": [StrOptions({"linear_probe", "random"})],
        "train_batch_norm": ["boolean"],
        "warm_start": ["boolean"],
        "cache": ["boolean", str, os.PathLike],
        "random_state": ["random_state"],
        "net_params": [dict, None],
        "source": [SourceProfile, None],
    }

    def fit(self, X: Any, y: ArrayLike) -> FrozenPrefixClassifier:
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

    def partial_fit(self, X: Any, y: ArrayLike, classes: ArrayLike | None = None) -> FrozenPrefixClassifier:
        """Continue training with more labelled images; those seen before are replayed, so that nothing is forgotten.

        Parameters
        ----------
        X : as in `fit`
            New images. An image seen before takes its new label.
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
            As `fit`; if `y` holds a label that is not in `classes`.
        """
        return self._fit(X, y, continues=True, replays=True, classes=classes)

    def _fit(
        self, X: Any, y: Any, *, continues: bool, replays: bool, classes: ArrayLike | None = None
    ) -> FrozenPrefixClassifier:
        self._validate_params()
        continues = continues and self.__sklearn_is_fitted__()
        X, y = self._check_training_data(X, y, reset=not (continues and replays))
        foretold = y if classes is None else np.unique(np.asarray(classes))
        if not np.isin(y, foretold).all():
            raise ValueError(f"y holds {np.setdiff1d(y, foretold)[0]!r}, which is not among classes={foretold}")
        backbone = self._load_backbone(_width(X))
        layers = backbone.layers
        n_frozen = self._depth(backbone)
        if self.source is not None:
            self.source.check_backbone(backbone)
        continues = continues and self._is_same_network(backbone, n_frozen)
        inputs: Inputs = backbone.inputs.check(X)
        is_old = np.zeros(len(y), dtype=bool)
        if continues:
            new, old = _content(inputs), _content(self.seen_)
            is_old = np.isin(new, old)
            if replays:
                kept = np.flatnonzero(~np.isin(old, new))
                inputs = JoinedInputs((self.seen_, kept), (inputs, range(len(y))))
                is_old = np.arange(len(inputs)) < len(kept)
                y = np.concatenate([self.seen_y_[kept], y])
        cut = layers.cut(n_frozen)
        activations = torch.cat([block for (block,) in self._frozen(backbone, inputs, [Point(cut)])])

        with seeded(draw_seed(check_random_state(self.random_state))):
            if continues:
                suffix, classes = self._grown_suffix(np.union1d(y, foretold))
                fresh = np.flatnonzero(~np.isin(classes, self.classes_))
            else:
                classes = np.union1d(y, foretold)
                fresh = np.arange(len(classes))
                suffix = self._new_suffix(backbone, n_frozen, len(classes), activations)
            features = _run(suffix.to(self.device).eval().head_input, activations, self.device).numpy()
            suffix.cpu()
            targets = np.searchsorted(classes, y)
            weights = self._class_weights(classes, y)
            penalty = HeadPenalty.of(features)
            if self.head_init == "linear_probe" and len(np.unique(targets)) > 1:
                sample_weight = None if weights is None else weights[targets]
                solve_head(suffix.head, features, targets, penalty, sample_weight=sample_weight, new=fresh)
            start = None if continues or self.head_init == "random" else copy.deepcopy(suffix)
            net = self._net(
                suffix,
                len(y),
                head_penalty=penalty.per_image,
                class_weight=weights,
                share_of=replay_shares(is_old, self.replay),
            )
            target = torch.from_numpy(targets)
            if self.augment is None:
                net.fit(activations, target)
            else:
                prefix = layers.segment(layers.input, [cut]).to(self.device).eval()
                rows = AugmentedRows(inputs, target, self.augment, lambda x: prefix(x.to(self.device))[0].cpu())
                net.fit(rows, None)
        if not all(np.isfinite(epoch["train_loss"]) for epoch in net.history):
            raise ValueError(f"training diverged: the loss is not finite with lr={self.lr}; a lower rate helps")
        if start is not None:
            k = len(y) / len(classes)
            interpolate(start, net.module_, k / (k + 5) if self.wise_alpha is None else self.wise_alpha)
        self.net_, self.classes_, self.backbone_, self.n_frozen_ = net, classes, backbone, n_frozen
        self.seen_, self.seen_y_ = inputs, y
        return self

    def _check_training_data(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = self._check_features(X, reset=reset)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        check_classification_targets(y)
        return X, y

    def _check_features(self, X: Any, *, reset: bool) -> Any:
        """2-D data as scikit-learn checks it; images are left to the backbone's own check."""
        X = as_data(X)
        if is_images(X):
            return X
        return validate_data(self, X, dtype=np.float32, reset=reset)

    def _load_backbone(self, n_features: int | None) -> Backbone:
        return load_backbone(
            self.backbone,
            self.weights,
            image_size=self.image_size,
            preprocess=self.preprocess,
            n_features=n_features,
            seed=self._seed,
        )

    @property
    def _seed(self) -> int:
        """Seed of a network that has no weights of its own; the same before and after a fit."""
        return int(self.random_state) if isinstance(self.random_state, Integral) else 0

    def _depth(self, backbone: Backbone) -> int:
        """Number of frozen weight layers: the one asked for, or those up to layer A."""
        layers = backbone.layers
        if self.n_frozen is not None:
            return layers.check_n_frozen(self.n_frozen)
        if len(layers.weight_layers) < 3:  # too shallow to have a layer A
            return 0
        return layers.depth(layers.resolve(layers.pattern_layers()[0][0]))

    def _frozen(self, backbone: Backbone, inputs: Inputs, points: list[Point]) -> Iterator[list[torch.Tensor]]:
        return frozen_activations(
            backbone,
            inputs,
            points,
            device=self.device,
            cache=find_cache(self.cache),
            verbose=bool(self.verbose) and len(inputs) > _SILENT,
        )

    def _new_suffix(self, backbone: Backbone, n_frozen: int, n_classes: int, activations: torch.Tensor) -> Suffix:
        """The pre-trained layers after the cut, and a new head."""
        layers = backbone.layers
        rest = layers.segment(layers.cut(n_frozen), [layers.features]).to(self.device).eval()
        n_features = _run(lambda x: flat(rest(x)[0]), activations[:1], self.device).shape[1]
        return Suffix(layers, n_frozen, n_classes, n_features, self.train_batch_norm, self.normalize)

    def _is_same_network(self, backbone: Backbone, n_frozen: int) -> bool:
        """Whether the last fit was of this network at this depth."""
        return self.n_frozen_ == n_frozen and self.backbone_.fingerprint == backbone.fingerprint

    def _class_weights(self, classes: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Weight of each class in the loss; one of which there is no image yet weighs 1."""
        if self.class_weight is None:
            return None
        weights = np.ones(len(classes))
        labelled = np.unique(y)
        weights[np.searchsorted(classes, labelled)] = compute_class_weight(self.class_weight, classes=labelled, y=y)
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
    ) -> NeuralNetClassifier:
        return build_net(
            suffix,
            n_images,
            lr=self.lr,
            relative_lr=self.relative_lr,
            max_epochs=self.max_epochs,
            min_steps=self.min_steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            head_penalty=head_penalty,
            class_weight=class_weight,
            share_of=share_of,
            device=self.device,
            further=self.net_params or {},
        )

    # ------------------------------------------------------------- prediction

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

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
        return self._predict_logits(X).softmax(dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        y : ndarray of shape (n,)
        """
        logits = self._predict_logits(X)
        return self.classes_[logits.argmax(dim=1).numpy()]

    def _predict_logits(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return self._run_suffix(X, self.net_.module_)

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

    def _inputs(self, X: Any) -> tuple[Backbone, Inputs]:
        fitted = self.__sklearn_is_fitted__()
        if fitted:
            X = self._check_features(X, reset=False)
        else:
            X = as_data(X)
            X = X if is_images(X) else check_array(X, dtype=np.float32)
        backbone = self.backbone_ if fitted else self._load_backbone(_width(X))
        return backbone, backbone.inputs.check(X)

    def _run_suffix(self, X: Any, run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Run part of the fitted suffix on activations at the cut, block by block."""
        backbone, inputs = self._inputs(X)
        self.net_.module_.eval()
        points = [Point(backbone.layers.cut(self.n_frozen_))]
        return torch.cat([_run(run, block, self.device) for (block,) in self._frozen(backbone, inputs, points)])

    def activations(
        self, X: Any, layers: Sequence[int | str], *, pooled: bool = False, pretrained: bool = False
    ) -> list[np.ndarray]:
        """Activations at layers of the network, flattened.

        Parameters
        ----------
        X : as in `fit`
        layers : sequence of int or str
            Negative counts of weight layers from the end (-2 is layer B of the ADMA text, -4 its layer A), or names of
            submodules.
        pooled : bool, default=False
            Whether maps are averaged over space.
        pretrained : bool, default=False
            Whether the pre-trained network M0 is asked instead of the current one. Before the first fit they are the
            same.

        Returns
        -------
        activations : list of ndarray of shape (n, D)
            One array a layer, float32.

        Raises
        ------
        ValueError
            If a layer does not exist; the message names those that do.
        """
        backbone, inputs = self._inputs(X)
        graph = backbone.layers
        nodes = [graph.resolve(layer) for layer in layers]
        current = self.__sklearn_is_fitted__() and not pretrained
        cut = graph.cut(self.n_frozen_ if self.__sklearn_is_fitted__() else self._depth(backbone))
        trained = [node for node in dict.fromkeys(nodes) if current and graph.is_before(cut, node)]
        frozen = [node for node in dict.fromkeys(nodes) if node not in trained and node is not cut]
        suffix = graph.segment(cut, trained, root=self.net_.module_.body).eval() if trained else None
        parts: dict[fx.Node, list[torch.Tensor]] = {node: [] for node in nodes}
        # The cut is always among the points: whoever asks for activations will train or predict on it next.
        for at_cut, *others in self._frozen(backbone, inputs, [Point(cut), *(Point(node, pooled) for node in frozen)]):
            for node, values in zip(frozen, others, strict=True):
                parts[node].append(values.flatten(1))
            if cut in parts:
                parts[cut].append(pool(at_cut, pooled).flatten(1))
            if suffix is not None:
                with torch.inference_mode():
                    for batch in at_cut.split(_INFERENCE_BATCH):
                        for node, values in zip(trained, suffix(batch.to(self.device)), strict=True):
                            parts[node].append(pool(values, pooled).flatten(1).cpu())
        return [torch.cat(parts[node]).numpy() for node in nodes]

    def source_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the source classes under the pre-trained network and its own head.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        proba : ndarray of shape (n, n_source_outputs)

        Raises
        ------
        ValueError
            If the network has no head of its own.
        """
        backbone, inputs = self._inputs(X)
        head = backbone.layers.head_segment().to(self.device)
        logits = []
        for (block,) in self._frozen(backbone, inputs, [Point(backbone.layers.features)]):
            with torch.inference_mode():
                logits.append(head(block.to(self.device))[0].cpu())
        return torch.cat(logits).softmax(dim=1).numpy()

    def check_source(self, source: SourceProfile, X: Any) -> None:
        """Raise a ValueError if a profile belongs to another backbone than the one that takes `X`."""
        source.check_backbone(self._inputs(X[:1])[0])

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
            "classes": self.classes_.tolist(),
            "n_frozen": self.n_frozen_,
            "fingerprint": self.backbone_.fingerprint,
            "n_features_in": getattr(self, "n_features_in_", None),
            "preprocess": repr(self.backbone_.inputs.transform),
            "normalize": self.net_.module_.normalize,
        }
        write_checkpoint(path, self.net_.module_.state_dict(), described)

    def load(self, path: str | os.PathLike[str]) -> FrozenPrefixClassifier:
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
            If the file is no classifier of skal's or belongs to another backbone.
        """
        state, described = read_checkpoint(path)
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
            suffix = Suffix(
                backbone.layers,
                described["n_frozen"],
                n_classes,
                n_features,
                self.train_batch_norm,
                described["normalize"],
            )
        suffix.load_state_dict(state)
        self.net_ = self._net(suffix, 1).initialize()
        self.backbone_, self.n_frozen_ = backbone, described["n_frozen"]
        self.classes_ = np.array(described["classes"])
        self.seen_, self.seen_y_ = JoinedInputs(), self.classes_[:0]
        if described["n_features_in"] is not None:
            self.n_features_in_ = described["n_features_in"]
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _width(X: Any) -> int | None:
    """Number of features of 2-D data, None for images."""
    return None if is_images(X) else X.shape[1]


def _run(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: str) -> torch.Tensor:
    """Part of a network in evaluation on many rows, batch by batch."""
    with torch.inference_mode():
        return torch.cat([run(batch.to(device)).cpu() for batch in x.split(_INFERENCE_BATCH)])


def _content(inputs: Inputs) -> np.ndarray:
    """Name of each image's content."""
    return np.array([key.hex() for key in inputs.keys(range(len(inputs)))])
