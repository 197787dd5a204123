"""FrozenPrefixClassifier: a pre-trained network whose first layers are frozen, as a scikit-learn estimator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, clone
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from skorch import NeuralNetClassifier

from skal._compat import repair_modal
from skal._fitting import recipe_of, train
from skal._prediction import PredictionMixin
from skal._saving import SavingMixin, take_state
from skal._targets import check_class_weight
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

repair_modal()

#: Data that `fit` and `partial_fit` accept besides X and y. Searches and Pipelines route it without a request.
_DATA = ("X_source", "y_source", "X_unlabeled", "sample_domain")


class FrozenPrefixClassifier(
    PredictionMixin, SavingMixin, ClassNamePrefixFeaturesOutMixin, ClassifierMixin, BaseEstimator
):
    """Classifier that freezes the first layers of a pre-trained network and fine-tunes the rest.

    The activations of the frozen layers are computed once per image and shared by training, prediction, queries and
    clones. The new head is first fitted as a logistic regression on the pre-trained features. The `recipe` then
    fine-tunes the head and the trainable layers together, with the same penalty on the head [3]_.

    Parameters
    ----------
    backbone : str, nn.Module or callable
        A torchvision name, ``"timm:NAME"``, ``"efficientnet_lite0"``, a module (copied, never mutated), or a function
        that returns one.
    weights : {"auto"}, name of torchvision weights, path or None, default="auto"
        ``"auto"`` loads pre-trained weights for a network given by name and leaves a module unchanged. None gives a
        network given by name random weights. Files are state dicts (``.safetensors``, or any file that
        ``torch.load(weights_only=True)`` reads).
    n_frozen : int or None, default=None
        Number of frozen weight layers, counted in forward order. A residual shortcut belongs to its block. A negative
        number is the number of layers below the head that stay trainable. With None, fine-tuning freezes the first
        seven eighths, two thirds from 20 labels, and nothing from 500. A linear probe (``max_epochs=0``) freezes all
        layers. Other recipes freeze up to layer A of the transformation pattern, the fourth weight layer from the end.
        A fit that continues another keeps its depth, unless the earlier fit was a probe. The ADMA paper uses 2 for
        AlexNet, 7 for VGG-16 and 8 for ResNet-18 [1]_.
    recipe : Recipe or None, default=None
        How the trainable layers are trained: :class:`FineTuning` (None), :class:`DAN`, :class:`SelectiveJoint` or a
        custom recipe. Its parameters can be searched as ``recipe__name``.
    source : SourceProfile or None, default=None
        Profile of the source task, used by queries.
    image_size : int or None, default=None
        Side of the square network input. None uses the size of the pre-processing.
    preprocess : ImageTransform or None, default=None
        Image pre-processing. None uses that of a named network's weights. For a module, it resizes to 224 pixels and
        uses ImageNet's mean and standard deviation (0.5 and 0.5 for one channel).
    lr : float, default=3e-3
        Initial learning rate. It decays linearly to zero.
    relative_lr : bool, default=True
        Whether `lr` is relative to the root mean square of the weights of each output channel. A step then changes all
        layers, in every network and at every depth, and a head of any size, by the same fraction [2]_. The first 20
        steps, at most a fifth of all steps, are shorter (warm-up). False uses `lr` as an absolute rate.
    max_epochs : int, default=30
        Passes over the labelled images in one fit. 0 fits the linear probe only.
    min_steps : int, default=100
        Minimum number of training steps in one fit. Small training sets are passed over more than `max_epochs` times.
    max_seconds : float or None, default=None
        Time limit of a fit, in seconds. The fit ends with the weights reached by then, and the learning rate decays to
        zero over this time. Activations that are not cached are always computed completely, so a fit may take longer.
        As many images of `X_unlabeled` are used as half of the time allows. Fits with a time limit are not
        reproducible.
    batch_size : int, default=32
        Images per training step.
    optimizer : type, default=torch.optim.AdamW
        Class of the optimiser.
    weight_decay : float, default=0.01
    class_weight : dict, "balanced" or None, default="balanced"
        Weight of each class in the loss, as in scikit-learn. Queried images do not follow the class distribution of
        the task. With few labels the penalty on the head is strong, and larger classes would dominate the
        predictions. None gives every image the same weight.
    augment : callable, "auto" or None, default="auto"
        Random augmentation of a batch of network inputs (n, channels, H, W), applied each time the batch is drawn. It
        must use torch's generator, as torchvision's transforms do. Every step then also runs the frozen layers, without
        the cache. "auto" shifts images by up to an eighth of their sides if all layers are fine-tuned on 500 labels or
        more. None disables augmentation. A function is applied to the image itself, not to its mirror image. Rows that
        ``train_split`` holds out are not augmented.
    mirror : bool or "auto", default="auto"
        Whether each image is used together with its mirror image. The final representation is the mean of both, and a
        training step draws one of the two. Both are passed through the frozen layers and cached. "auto" mirrors images
        if two conditions hold. The network is pre-trained and given by name: such networks were trained on mirrored
        photographs. And in the network's features, nearly all images of a sample are nearer to their own mirror image
        than to any other image. This holds for photographs but not for characters. A fit that continues another keeps
        its choice.
    normalize : bool, default=True
        Whether the features of every image are scaled to the same norm before the head.
    wise_alpha : float or None, default=None
        The fitted weights are (1 - alpha) times the weights before fine-tuning, with the linear probe as head, plus
        alpha times the fine-tuned weights [4]_. None uses k / (k + 1), where k is the mean number of labels per class:
        the fewer labels, the closer to the probe. ``head_init="random"`` uses 1.
    head_init : {"linear_probe", "random"}, default="linear_probe"
        Initial weights of a new head: the logistic regression on the pre-trained features, or random weights.
    train_batch_norm : bool, default=False
        Whether batch normalisation of trainable layers uses the statistics of the batch. By default it keeps the
        pre-trained statistics, since those of tiny batches are unreliable.
    warm_start : bool, default=False
        Whether `fit` continues from the last fit (M_{t-1} to M_t) of the same network at the same depth. New classes
        then add rows to the head, and old rows keep their weights. `normalize` and `train_batch_norm` keep their
        earlier values. By default each fit starts from the pre-trained network.
    cache : bool, path or cache, default=True
        Where activations of the frozen prefix are cached for other fits, folds and queries. True caches in memory
        (``skal.features.CACHE``, a quarter of the machine's memory), and False disables caching. A path caches in a
        folder that other processes and later runs share. A cache object is used directly, such as
        ``FolderCache(folder, dtype="float16")``.
    device : str, default="auto"
        Where the network runs. "auto" uses a CUDA GPU if there is one, else the CPU.
    random_state : int, RandomState or None, default=None
        Seed of the head's initial weights, the batch order and dropout. An int also seeds the weights of a network that
        is not pre-trained; otherwise their seed is 0.
    verbose : bool, default=False
        Whether to show a progress bar when more than 512 images are passed through the network.
    net_params : dict or None, default=None
        Additional parameters of :class:`skorch.NeuralNetClassifier`, such as ``callbacks``, ``criterion`` or
        ``verbose``, but none that is a parameter here. Nothing is trained on the images that a ``train_split``, such as
        ``skorch.dataset.ValidSplit(5)``, holds out.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    net_ : skorch.NeuralNetClassifier
        The trained suffix. Its ``history`` holds the loss of each epoch. A pickle leaves out its optimiser.
    backbone_ : Backbone
        The pre-trained network M0.
    n_frozen_ : int
        Number of frozen weight layers.
    mirrors_ : bool
        Whether images are used together with their mirror images.
    recipe_ : Recipe
        The recipe that was used for training: a clone of `recipe`.
    data_ : dict of str to object
        Data given to `fit` besides X and y, such as ``X_source``. A fit that continues this one uses it again.
    fused_ : list of Suffix
        Additional models whose probabilities are averaged with those of `net_`.
    seen_ : Labelled
        The labelled images trained on, which `partial_fit` replays.
    trained_classes_ : ndarray
        Classes in `classes_` that have had labelled images.
    n_features_in_ : int
        Number of features. Set only if X is 2-D features.

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
            Labelled images of the task: uint8 images (n, H, W, 3) or greyscale (n, H, W); float images
            (n, channels, H, W), which must be pre-processed already; image file paths; PIL images of any size; or
            features (n, n_features) if the backbone accepts them.
        y : array-like of shape (n,)
            Labels, all of one kind.
        sample_weight : array-like of shape (n,), default=None
            Weight of each image in the loss, in addition to that of its class. Images of weight 0 are ignored.
        X_source, y_source : images and labels of another task or domain, default=None
            Like `sample_domain` and `X_unlabeled`, only for recipes that accept them. In a search, wrap data that is as
            long as X in a :class:`Pool`. Otherwise the search cuts it to the fold.
        X_unlabeled : unlabelled images of the task, default=None
        sample_domain : array-like of shape (n,), default=None
            As in :class:`DAN`.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            Before any training: if X is not in a form that the network accepts (the message names the allowed forms),
            y has a different length, a file is damaged, a parameter is out of range, the recipe does not accept some of
            the data, or the source profile belongs to another backbone. Also if training diverges; an earlier fit is
            then kept.
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
        """Continue training with more labelled images; earlier ones are replayed to avoid forgetting.

        Parameters
        ----------
        X : as in `fit`
            New images. The new label of an image seen before replaces its old one. Images are not copied, and are read
            again when replayed: do not overwrite the array with other images.
        y : array-like of shape (n,)
            Labels; new classes add rows to the head.
        classes : array-like of shape (n_classes,), default=None
            Classes that may appear later and need a column of `predict_proba` now.
        sample_weight, X_source, y_source, X_unlabeled, sample_domain
            As in `fit`. Source and unlabelled data that are not given are those of the last fit.

        Returns
        -------
        self : FrozenPrefixClassifier

        Raises
        ------
        ValueError
            As `fit`. Also if `y` holds a label that is not in `classes`, or labels of a different kind than before, or
            if the network, its frozen depth or the kind of recipe differs from the last fit.
        """
        data = {"X_source": X_source, "y_source": y_source, "X_unlabeled": X_unlabeled, "sample_domain": sample_domain}
        return self._fit(X, y, sample_weight, data, continues=True, replays=True, classes=classes)

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the data that `fit` accepts besides X and y under this recipe, such as ``"X_unlabeled"``."""
        return recipe_of(self).takes

    def linear_probe(self) -> Self:
        """An unfitted clone whose fit solves only the head: milliseconds if the pre-trained features are cached."""
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
        check_class_weight(self.class_weight)
        state = train(self, X, y, sample_weight, data, continues=continues, replays=replays, classes=classes)
        take_state(self, state)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
