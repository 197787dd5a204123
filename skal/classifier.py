"""FrozenPrefixClassifier: a pre-trained network whose first layers are frozen, as a scikit-learn estimator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from skorch import NeuralNetClassifier

from skal._compat import repair_modal
from skal._fitting import recipe_of, train
from skal._prediction import PredictionMixin
from skal._saving import SavingMixin, take_state
from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike
from skal.features.cache import Cache
from skal.images import ImageTransform
from skal.source import SourceProfile
from skal.training.labelled import Labelled
from skal.training.net import Options
from skal.training.recipe import Recipe
from skal.training.suffix import Suffix

if TYPE_CHECKING:
    from typing import Self

#: What `fit` and `partial_fit` take beside X and y, and a search or Pipeline passes on without a request.
repair_modal()

_DATA = ("X_source", "y_source", "X_unlabeled", "sample_domain")


class FrozenPrefixClassifier(
    PredictionMixin, SavingMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator
):
    """Classifier that fine-tunes the last layers of a pre-trained network; its first layers are frozen.

    The activations of the frozen layers are computed once per image and shared by training, prediction, queries and
    clones. The new head is first solved as a logistic regression on the pre-trained features; then head and trainable
    layers are fine-tuned together, under the same penalty of the head [3]_, as the `recipe` says.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        A torchvision name, ``"timm:NAME"``, ``"efficientnet_lite0"``, a module (copied, never mutated), or a function
        making one.
    weights : {"auto"}, name of torchvision weights, path or None, default="auto"
        ``"auto"``: a network given by name is pre-trained, a module stays as it is. None: random weights for a name.
        Files are state dicts (``.safetensors``, or what ``torch.load(weights_only=True)`` reads).
    n_frozen : int or None, default=None
        Number of frozen weight layers, counted in forward order; a residual shortcut belongs to its block. A negative
        number leaves so many trainable below the head. None freezes the first seven eighths, from 20 labels on two
        thirds, and from 500 on nothing; of a probe (``max_epochs=0``) all; and under other recipes than fine-tuning
        those up to layer A of the transformation pattern, the fourth weight layer from the end. A fit that continues
        keeps its depth, unless that was a probe's. The ADMA paper uses 2 for AlexNet, 7 for VGG-16 and 8 for ResNet-18
        [1]_.
    recipe : Recipe or None, default=None
        How the trainable layers are trained: :class:`FineTuning` (None), :class:`DAN`, :class:`SelectiveJoint` or one
        of your own. Its parameters can be searched as ``recipe__name``.
    source : SourceProfile or None, default=None
        Profile of the source task, used by queries.
    image_size : int or None, default=None
        Side of the square images given to the network; None takes the pre-processing's own.
    preprocess : ImageTransform or None, default=None
        Pre-processing of pixels; None takes the backbone's own.
    lr : float, default=3e-3
        Initial learning rate; it falls linearly to zero.
    relative_lr : bool, default=True
        Whether a step changes the weights of each output channel by `lr` times their root mean square: the layers of
        every network at every depth, and a head of any size, then change by the same share [2]_. The first 20 steps, at
        most a fifth of all, are shorter. False takes `lr` as it is.
    max_epochs : int, default=30
        Passes over the labelled images in one fit; 0 leaves the linear probe.
    min_steps : int, default=100
        Fewest training steps in one fit: few images are passed more often than `max_epochs`.
    max_seconds : float or None, default=None
        Seconds after which a fit ends with the weights it has by then; the rate falls to zero on the way. Activations
        that are not cached are computed to the end, so that a fit may take longer. Two such fits differ.
    batch_size : int, default=32
        Images in a training step.
    optimizer : type, default=torch.optim.AdamW
        Class of the optimiser.
    weight_decay : float, default=0.01
    class_weight : dict, "balanced" or None, default="balanced"
        Weight of each class in the loss, as in scikit-learn. Queried images are not distributed as the task is, and
        under the strong penalty of a head with few labels the larger classes would take everything; None gives every
        image the same weight.
    augment : callable, "auto" or None, default="auto"
        Changes a batch of network inputs (n, channels, H, W) at random each time it is drawn, with torch's generator
        (torchvision's transforms do). Every step then runs the frozen layers too, without the cache. "auto" moves
        images by up to an eighth of their sides where all layers are fine-tuned on 500 labels or more; None never
        changes an image.
    mirror : bool or "auto", default="auto"
        Whether an image is read together with its mirror image: its final representation is the mean of both, and a
        training step draws one of them. Both pass the frozen layers, and both are cached. "auto" does so for a
        pre-trained network given by name, which has learned from mirrored photographs, where mirror images are of the
        same kind: as the network sees a sample of the images, nearly all are nearer to their own mirror image than to
        another image. That holds for photographs, and not for characters. A fit that continues keeps its choice.
    normalize : bool, default=True
        Whether the head reads the features of every image scaled to one length.
    wise_alpha : float or None, default=None
        The fitted weights are (1 - alpha) times those before fine-tuning, with the linear probe as head, plus alpha
        times the fine-tuned ones [4]_. None takes k / (k + 1) with k the mean number of labels per class: the fewer
        labels, the closer to the probe. ``head_init="random"`` takes 1.
    head_init : {"linear_probe", "random"}, default="linear_probe"
        Where a new head starts: from the logistic regression on the pre-trained features, or from random weights.
    train_batch_norm : bool, default=False
        Whether batch normalisation of trainable layers uses the statistics of its batch. By default it keeps the
        pre-trained ones: statistics of tiny batches are unreliable.
    warm_start : bool, default=False
        Whether `fit` continues from the last fit (M_{t-1} to M_t) of the same network at the same depth. New classes
        then add rows to the head; the old ones keep their weights, and `normalize` and `train_batch_norm` stay as they
        were. By default each fit starts from the pre-trained network.
    cache : bool, path or cache, default=True
        Where activations of the frozen prefix are cached for other fits, folds and queries: in memory
        (``skal.features.CACHE``, a quarter of the machine's memory), in a folder that processes and later runs share,
        in a cache such as ``FolderCache(folder, dtype="float16")``, or not at all.
    device : str, default="auto"
        Where the network runs: "auto" takes a CUDA GPU where there is one, else the CPU.
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
    mirrors_ : bool
        Whether images are read together with their mirror images.
    recipe_ : Recipe
        The recipe that trained it: a clone of `recipe`.
    data_ : dict of str to object
        What `fit` was given beside X and y, such as ``X_source``; a fit that continues takes it again.
    fused_ : list of Suffix
        Further models whose probabilities are averaged with those of `net_`.
    seen_ : Labelled
        The labelled images trained on, which `partial_fit` replays.
    trained_classes_ : ndarray
        Those of `classes_` of which there have been images.
    n_features_in_ : int
        Number of features; only where X is 2-D features.

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep CNNs with active model adaptation", KDD 2018, section 4.1.
    .. [2] Shazeer, Stern. "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018, section 8.
    .. [3] Kumar, Raghunathan, Jones, Ma, Liang. "Fine-tuning can distort pretrained features and underperform
       out-of-distribution", ICLR 2022, section 3.2 (LP-FT).
    .. [4] Wortsman et al. "Robust fine-tuning of zero-shot models", CVPR 2022, section 4 (WiSE-FT).

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    >>> FrozenPrefixClassifier(net, n_frozen=1, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = dict.fromkeys(_DATA, True)
    __metadata_request__partial_fit: ClassVar[dict[str, bool]] = dict.fromkeys(_DATA, True)

    net_: NeuralNetClassifier
    classes_: np.ndarray
    trained_classes_: np.ndarray
    backbone_: Backbone
    n_frozen_: int
    mirrors_: bool
    recipe_: Recipe
    data_: dict[str, Any]
    fused_: Sequence[Suffix]
    seen_: Labelled

    def __init__(
        self,
        backbone: BackboneLike,
        *,
        weights: str | os.PathLike[str] | None = "auto",
        n_frozen: int | None = None,
        recipe: Recipe | None = None,
        source: SourceProfile | None = None,
        image_size: int | None = None,
        preprocess: ImageTransform | None = None,
        lr: float = 3e-3,
        relative_lr: bool = True,
        max_epochs: int = 30,
        min_steps: int = 100,
        max_seconds: float | None = None,
        batch_size: int = 32,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
        weight_decay: float = 0.01,
        class_weight: dict[Any, float] | str | None = "balanced",
        augment: Callable[[torch.Tensor], torch.Tensor] | str | None = "auto",
        mirror: bool | str = "auto",
        normalize: bool = True,
        wise_alpha: float | None = None,
        head_init: str = "linear_probe",
        train_batch_norm: bool = False,
        warm_start: bool = False,
        cache: bool | str | os.PathLike[str] | Cache = True,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        net_params: dict[str, Any] | None = None,
    ):
        self.backbone = backbone
        self.weights = weights
        self.n_frozen = n_frozen
        self.recipe = recipe
        self.source = source
        self.image_size = image_size
        self.preprocess = preprocess
        self.lr = lr
        self.relative_lr = relative_lr
        self.max_epochs = max_epochs
        self.min_steps = min_steps
        self.max_seconds = max_seconds
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.augment = augment
        self.mirror = mirror
        self.normalize = normalize
        self.wise_alpha = wise_alpha
        self.head_init = head_init
        self.train_batch_norm = train_batch_norm
        self.warm_start = warm_start
        self.cache = cache
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.net_params = net_params

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Options.constraints,
        "recipe": [Recipe, None],
        "source": [SourceProfile, None],
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "preprocess": [ImageTransform, None],
        "mirror": ["boolean", StrOptions({"auto"})],
        "warm_start": ["boolean"],
        "cache": ["boolean", str, os.PathLike, HasMethods(["holds", "get", "put"])],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str, torch.device],
    }

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_source: Any = None,
        y_source: Any = None,
        X_unlabeled: Any = None,
        sample_domain: ArrayLike | None = None,
    ) -> Self:
        """Train the trainable layers and a new head on labelled images.

        Parameters
        ----------
        X : ndarray, tensor, list of paths or of PIL images, ImageFolder or Dataset
            Labelled images of the task: uint8 images (n, H, W, 3) or grey (n, H, W); float images (n, channels, H, W),
            taken as already pre-processed; image file paths; PIL images of any size; or features (n, n_features) where
            the backbone takes them.
        y : array-like of shape (n,)
            Labels, all of one kind.
        sample_weight : array-like of shape (n,), default=None
            Weight of each image in the loss, beside that of its class; an image of weight 0 is left out.
        X_source, y_source : images and labels of another task or domain, default=None
            For recipes that take them, as `sample_domain` and `X_unlabeled`. In a search, wrap what is as long as X in
            a :class:`Pool`, else it is cut to the fold.
        X_unlabeled : images of the task that nobody has labelled, default=None
        sample_domain : array-like of shape (n,), default=None
            As in :class:`DAN`.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            If X is not what the network takes (the message names the allowed forms), y has another length, a file is
            damaged, a parameter is out of range, there is data that the recipe does not take, or the source profile
            belongs to another backbone; all before any training. If training diverges; an earlier fit then stays.
        """
        data = {"X_source": X_source, "y_source": y_source, "X_unlabeled": X_unlabeled, "sample_domain": sample_domain}
        return self._fit(X, y, sample_weight, data, continues=self.warm_start)

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_source: Any = None,
        y_source: Any = None,
        X_unlabeled: Any = None,
        sample_domain: ArrayLike | None = None,
    ) -> Self:
        """Continue training with more labelled images; those seen before are replayed, so that nothing is forgotten.

        Parameters
        ----------
        X : as in `fit`
            New images. An image seen before takes its new label. They are not copied, and read again when they are
            replayed: do not write other images into the same array.
        y : array-like of shape (n,)
            Labels; new classes add rows to the head.
        classes : array-like of shape (n_classes,), default=None
            Classes that may come later and need a column of `predict_proba` now.
        sample_weight, X_source, y_source, X_unlabeled, sample_domain
            As in `fit`; what is not given is that of the last fit.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            As `fit`; if `y` holds a label that is not in `classes`, or labels of another kind than before; if the
            network, its frozen depth or the kind of recipe is another than that of the last fit.
        """
        data = {"X_source": X_source, "y_source": y_source, "X_unlabeled": X_unlabeled, "sample_domain": sample_domain}
        return self._fit(X, y, sample_weight, data, continues=True, replays=True, classes=classes)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of what `fit` takes beside X and y under this recipe, such as ``"X_unlabeled"``."""
        return recipe_of(self).takes

    def linear_probe(self) -> Self:
        """An unfitted clone whose fit solves the head alone: milliseconds if the pre-trained features are cached."""
        probe = clone(self).set_params(max_epochs=0, n_frozen=None, recipe=None, warm_start=False)
        return probe.set_params(mirror=self.mirrors_) if hasattr(self, "mirrors_") else probe

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        data: dict[str, Any],
        *,
        continues: bool,
        replays: bool = False,
        classes: ArrayLike | None = None,
    ) -> Self:
        self._validate_params()
        state = train(self, X, y, sample_weight, data, continues=continues, replays=replays, classes=classes)
        take_state(self, state)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
