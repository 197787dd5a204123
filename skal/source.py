"""SourceProfile: class centres of the source task and how the network transforms them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skal._device import find_device
from skal._files import read_tensors, remove_stale, write_tensors
from skal._labels import decode_labels, encode_labels
from skal._targets import check_labels
from skal._validation import check_options
from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike, load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.pooling import flat
from skal.images.forms import as_data
from skal.images.inputs import JoinedInputs
from skal.images.transform import ImageTransform
from skal.numerics.distances import euclidean_distances

Layer = int | str
LayerPair = tuple[Layer, Layer]

_KIND = "source profile"
_DESCRIBED = ("classes", "class_names", "center_indices", "columns", "layers", "centers", "fingerprint", "pooled")


class SourceProfile(BaseEstimator):
    """Profile of a pre-trained network's source task: activations of one centre image per class at layers A and B.

    Fit it once for a network, save it, and pass it to classifiers. :func:`sklearn.base.clone` returns a fitted profile
    unchanged, so grid search does not lose it.

    Parameters
    ----------
    backbone : str, nn.Module, callable or None
        As in :class:`FrozenPrefixClassifier`. None for a loaded profile, which cannot be fitted again.
    weights : {"auto"}, name of torchvision weights, path or None, default="auto"
    image_size : int or None, default=None
    preprocess : ImageTransform or None, default=None
    layers : list of pairs (A, B), default=None
        Layer pairs whose patterns are stored. A layer is a negative count of weight layers from the end, or a name.
        None is the ADMA paper's choice, ``[(-4, -2)]``. Two pairs such as ``[(-4, -2), (-5, -2)]`` give its ADMA-2.
    pooled : bool, default=True
        Whether feature maps are averaged over space. This keeps the profile small: 1,000 centres with 7 x 7 maps are
        too large to distribute.
    device : str, default="auto"
        ``"auto"`` uses a GPU if there is one.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Source classes that have a centre.
    class_names_ : list of str
    center_indices_ : ndarray of shape (K,)
        Indices of the images given to `fit` that became centres.
    columns_ : ndarray of shape (K,)
        Output of the network's own head for each class.
    layers_ : list of pairs
    centers_ : dict of layer to ndarray of shape (K, D)
        Activations of the centres under the pre-trained network, flattened.
    fingerprint_ : str
        Identifies the network's weights and its pre-processing.

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep CNNs with active model adaptation", KDD 2018, Eq. 1-3.

    Examples
    --------
    >>> from torch import nn
    >>> rng = np.random.default_rng(0)
    >>> net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(),
    ...                     nn.Linear(7, 3))
    >>> profile = SourceProfile(net).fit(rng.normal(size=(12, 5)), np.arange(12) % 3)
    >>> profile.patterns(profile.layers_[0]).shape
    (3, 3)
    """

    #: Attributes of a fitted profile that determine its results.
    _determined_by: ClassVar[tuple[str, ...]] = (
        "centers_", "classes_", "class_names_", "columns_", "layers_", "fingerprint_", "pooled",
    )  # fmt: skip

    def __init__(
        self,
        backbone: BackboneLike | None,
        *,
        weights: str | os.PathLike[str] | None = "auto",
        image_size: int | None = None,
        preprocess: ImageTransform | None = None,
        layers: Sequence[LayerPair] | None = None,
        pooled: bool = True,
        device: str = "auto",
    ):
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.preprocess = preprocess
        self.layers = layers
        self.pooled = pooled
        self.device = device

    def __sklearn_clone__(self) -> SourceProfile:
        if self.__sklearn_is_fitted__():
            return self
        return type(self)(**self.get_params(deep=False))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "centers_")

    def fit(self, X: Any, y: ArrayLike, *, class_names: Sequence[str] | None = None) -> SourceProfile:
        """Choose the centre of each source class (Eq. 1-2) and store its activations (Eq. 3).

        Parameters
        ----------
        X : images, array or list of paths
            Source images, at least one per class, in any form that :class:`FrozenPrefixClassifier` accepts.
        y : array-like of shape (n,)
            Source classes. Integers are columns of the network's own head. Other labels are sorted; if the
            network's probabilities are needed, their number must equal the number of outputs.
        class_names : sequence of str, default=None
            Human-readable name of each class in ``np.unique(y)``.

        Returns
        -------
        self : SourceProfile

        Raises
        ------
        ValueError
            If X is not in a form that the network accepts, y has a different length or a missing label, a layer is
            unknown, or the device does not exist.
        """
        if self.backbone is None:
            raise ValueError("this profile was loaded without its backbone and cannot be fitted again")
        device = find_device(self.device)
        X = as_data(X)
        y = check_labels(self, X, y)
        X = X.to_numpy() if hasattr(X, "to_numpy") else X
        width = X.shape[1] if getattr(X, "ndim", 0) == 2 else None
        backbone = load_backbone(
            self.backbone,
            self.weights,
            image_size=self.image_size,
            preprocess=self.preprocess,
            n_features=width,
        )
        inputs = backbone.inputs.check(X)
        classes, members = np.unique(y, return_inverse=True)
        if class_names is not None and len(class_names) != len(classes):
            raise ValueError(f"class_names has {len(class_names)} names, but y has {len(classes)} classes")
        layers = backbone.layers
        pairs = layers.pattern_layers() if self.layers is None else _pairs(self.layers)
        names = list(dict.fromkeys(layer for pair in pairs for layer in pair))
        nodes = {name: layers.resolve(name) for name in names}

        finals = [
            flat(block[0]).numpy()
            for block in frozen_activations(backbone, inputs, [Point(layers.features)], device=device)
        ]
        centers = class_centers(np.concatenate(finals), members)
        points = [Point(nodes[name], self.pooled) for name in names]
        chosen = JoinedInputs((inputs, centers))
        blocks = list(frozen_activations(backbone, chosen, points, device=device))

        self.classes_ = classes
        self.class_names_ = [str(name) for name in (classes if class_names is None else class_names)]
        self.center_indices_ = centers
        self.columns_ = classes.astype(np.int64) if classes.dtype.kind in "iu" else np.arange(len(classes))
        self.layers_ = pairs
        self.centers_ = {
            name: torch.cat([block[i] for block in blocks]).flatten(1).numpy() for i, name in enumerate(names)
        }
        self.fingerprint_ = _fingerprint(backbone)
        self._patterns: dict[LayerPair, np.ndarray] = {}
        return self

    def patterns(self, pair: LayerPair) -> np.ndarray:
        """Transformation patterns of the centres themselves (Eq. 6); the distance of a centre to itself is zero.

        Parameters
        ----------
        pair : (A, B)
            One of `layers_`.

        Returns
        -------
        patterns : ndarray of shape (K, K)
            Row k is the pattern of centre k.
        """
        pair = self.check_layers([pair])[0]
        if pair not in self._patterns:
            a, b = (self.centers_[layer] for layer in pair)
            self._patterns[pair] = euclidean_distances(a, a) - euclidean_distances(b, b)
        return self._patterns[pair]

    def check_layers(self, layers: Sequence[LayerPair] | None) -> list[LayerPair]:
        """The requested pairs, or all. Raises a ValueError that names layers this profile does not hold."""
        check_is_fitted(self)
        if layers is None:
            return self.layers_
        pairs = _pairs(layers)
        if any(layer not in self.centers_ for pair in pairs for layer in pair):
            raise ValueError(
                f"layers={layers!r} must be pairs of the layers of this profile, {list(self.centers_)}; fit a "
                "SourceProfile with layers=[(A, B), ...] for others"
            )
        return pairs

    def check_backbone(self, backbone: Backbone) -> None:
        """Raise a ValueError if this profile was fitted for other weights or another pre-processing."""
        check_is_fitted(self)
        if self.fingerprint_ != _fingerprint(backbone):
            raise ValueError(
                f"the source profile belongs to another backbone: it was fitted for {self.fingerprint_!r}, but this "
                f"network is {_fingerprint(backbone)!r}; fit a SourceProfile for these weights and pre-processing"
            )

    def select_columns(self, proba: np.ndarray) -> np.ndarray:
        """Probabilities of the classes that have a centre, from all outputs of the network's own head.

        Parameters
        ----------
        proba : ndarray of shape (n, n_outputs)

        Returns
        -------
        proba : ndarray of shape (n, K)
            Rows are rescaled to sum to 1 if some outputs have no centre.
        """
        named = self.classes_.dtype.kind not in "iu" and len(self.classes_) != proba.shape[1]
        if named or self.columns_.max() >= proba.shape[1] or self.columns_.min() < 0:
            raise ValueError(
                f"the {len(self.classes_)} classes of the profile do not match the {proba.shape[1]} outputs of the "
                f"network's own head; fit the profile with integers from 0 to {proba.shape[1] - 1} as labels"
            )
        chosen = proba[:, self.columns_]
        return chosen / chosen.sum(axis=1, keepdims=True)

    def save(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write the fitted profile as safetensors, with a checksum; an existing file is replaced atomically.

        Parameters
        ----------
        path : path
        dtype : {"float32", "float16"}, default="float32"
            float16 halves the file size. Activations are then rounded to 11 bits.

        Raises
        ------
        ValueError
            If `dtype` is not one of these, activations exceed the range of float16, or the classes are of a type that
            cannot be saved.
        """
        check_is_fitted(self)
        check_options(dtype=(dtype, ("float32", "float16")))
        largest = max(float(np.abs(values).max()) for values in self.centers_.values())
        if dtype == "float16" and largest > 65504:
            raise ValueError(
                f"dtype='float16' holds values up to 65504, but the largest activation is {largest:g}; save the "
                "profile with dtype='float32'"
            )
        tensors = {
            f"centers.{i}": torch.from_numpy(values.astype(dtype)) for i, values in enumerate(self.centers_.values())
        }
        described = {
            "classes": encode_labels(self.classes_),
            "class_names": self.class_names_,
            "center_indices": self.center_indices_.tolist(),
            "columns": self.columns_.tolist(),
            "layers": self.layers_,
            "centers": list(self.centers_),
            "fingerprint": self.fingerprint_,
            "pooled": self.pooled,
        }
        remove_stale(os.path.dirname(os.path.abspath(path)))
        write_tensors(path, _KIND, tensors, described)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SourceProfile:
        """Read a profile written by :meth:`save`. No code from the file is executed.

        Raises
        ------
        ValueError
            If the file is not a profile, is damaged or is incomplete.
        """
        tensors, described = read_tensors(path, _KIND)
        lacking = [name for name in _DESCRIBED if name not in described]
        lacking += [f"centers.{i}" for i in range(len(described.get("centers", ()))) if f"centers.{i}" not in tensors]
        if lacking:
            raise ValueError(f"{str(path)!r} is incomplete: {lacking} are missing")
        profile = cls(None, pooled=described["pooled"])
        profile.centers_ = {
            name: tensors[f"centers.{i}"].numpy().astype(np.float32) for i, name in enumerate(described["centers"])
        }
        profile.classes_ = decode_labels(described["classes"])
        profile.class_names_ = described["class_names"]
        profile.center_indices_ = np.array(described["center_indices"])
        profile.columns_ = np.array(described["columns"])
        profile.layers_ = [(a, b) for a, b in described["layers"]]
        profile.fingerprint_ = described["fingerprint"]
        profile._patterns = {}
        return profile


def class_centers(features: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Index of the sample nearest its class mean, for each class (Eq. 1-2).

    Parameters
    ----------
    features : ndarray of shape (n, D)
        Final representations z.
    members : ndarray of shape (n,)
        Class of each sample, from 0.

    Returns
    -------
    centers : ndarray of shape (K,)
        Positions in `features`; a centre is always a sample of its own class.

    Examples
    --------
    >>> class_centers(np.array([[0.0], [1.0], [5.0], [9.0]]), np.array([0, 0, 0, 1]))
    array([1, 3])
    """
    centers = []
    for k in range(members.max() + 1):
        own = np.flatnonzero(members == k)
        offsets = features[own] - features[own].mean(axis=0)
        centers.append(own[np.argmin((offsets**2).sum(axis=1))])
    return np.array(centers)


def _pairs(layers: Sequence[LayerPair]) -> list[LayerPair]:
    """Pairs of layers, given in a list or an array. Raises a ValueError for anything else."""
    given = layers.tolist() if isinstance(layers, np.ndarray) else [*layers]
    if not given or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in given):
        raise ValueError(f"layers={layers!r} must be pairs of layers, [(A, B), ...]")
    return [(a, b) for a, b in given]


def _fingerprint(backbone: Backbone) -> str:
    transform = backbone.inputs.transform
    return backbone.fingerprint + ("" if transform is None else f" with {transform}")
