"""What every estimator on a frozen prefix shares: its network, cached activations, and what strategies ask of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNetClassifier
from torch import fx

from skal.backbones.backbone import Backbone
from skal.backbones.load import BackboneLike, load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.cache import find_cache
from skal.features.pooling import pool
from skal.gradients.change import OutputChange, check_options
from skal.images.forms import as_data, is_images
from skal.images.inputs import Inputs
from skal.images.transform import ImageTransform
from skal.source import SourceProfile

_INFERENCE_BATCH = 256
_SILENT = 512  # images that pass without a progress bar: a query asks for the pool in blocks of this size


class AdaptedNetwork(BaseEstimator):
    """A pre-trained network whose first layers are frozen, before and after its other layers have been trained.

    Subclasses have the parameters below; their fit sets `net_`, `backbone_` and `n_frozen_`.
    """

    backbone: BackboneLike
    weights: str | os.PathLike[str] | None
    n_frozen: int | None
    image_size: int | None
    preprocess: ImageTransform | None
    cache: bool | str | os.PathLike[str]
    device: str
    random_state: int | np.random.RandomState | None
    verbose: bool
    net_: NeuralNetClassifier
    backbone_: Backbone
    n_frozen_: int
    classes_: np.ndarray

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def _inputs(self, X: Any) -> tuple[Backbone, Inputs]:
        fitted = self.__sklearn_is_fitted__()
        if fitted:
            X = self._check_features(X, reset=False)
        else:
            X = as_data(X)
            X = X if is_images(X) else check_array(X, dtype=np.float32)
        backbone = self.backbone_ if fitted else self._load_backbone(width(X))
        return backbone, backbone.inputs.check(X)

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

    def output_change(
        self,
        X_reference: Any,
        X: Any,
        *,
        output: str = "logit",
        labels: str | ArrayLike = "map",
        norm: str = "l1",
        max_memory: int = 2 << 30,
    ) -> np.ndarray:
        """How far a gradient step on each image would move the outputs of reference images.

        Parameters
        ----------
        X_reference, X : as in `fit`
        output, labels, norm, max_memory
            As in :func:`skal.gradients.output_change`; an array of labels holds classes.

        Returns
        -------
        scores : ndarray of shape (n,), or (n, n_classes) for ``labels="each"``

        Raises
        ------
        ValueError
            If an option is unknown, there are no images, or a label is none of the classes.
        """
        check_is_fitted(self)
        check_options(output, labels, norm, max_memory)
        (backbone, inputs), references = self._inputs(X), self._inputs(X_reference)
        for name, images in (("X", inputs), ("X_reference", references[1])):
            if len(images) == 0:
                raise ValueError(f"{name} is empty")
        y = None
        if not isinstance(labels, str):
            given, labels = np.asarray(labels), "map"
            if given.shape != (len(inputs),):
                raise ValueError(f"labels has shape {given.shape}, but there are {len(inputs)} images")
            unknown = given[~np.isin(given, self.classes_)]
            if len(unknown):
                raise ValueError(f"labels holds {unknown.tolist()[0]!r}, but the classes are {self.classes_}")
            y = np.searchsorted(self.classes_, given)
        points = [Point(backbone.layers.cut(self.n_frozen_))]
        reference = torch.cat([block for (block,) in self._frozen(*references, points)])
        module = self.net_.module_.to(self.device)
        change = OutputChange(module, reference.to(self.device), output, labels, norm, max_memory)
        scores: list[np.ndarray] = []
        waiting: list[torch.Tensor] = []
        done = start = 0
        for (block,) in self._frozen(backbone, inputs, points):
            waiting.append(block)
            done += len(block)
            if done == len(inputs) or sum(part.nbytes for part in waiting) > max_memory // 8:
                of_rows = None if y is None else y[start:done]
                scores.append(change.scores(torch.cat(waiting).to(self.device), of_rows))
                waiting, start = [], done
        return np.concatenate(scores)

    def check_source(self, source: SourceProfile, X: Any) -> None:
        """Raise a ValueError if a profile belongs to another backbone than the one that takes `X`."""
        source.check_backbone(self._inputs(X[:1])[0])


def width(X: Any) -> int | None:
    """Number of features of 2-D data, None for images."""
    return None if is_images(X) else X.shape[1]


def run_batched(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, device: str) -> torch.Tensor:
    """Part of a network in evaluation on many rows, batch by batch."""
    with torch.inference_mode():
        return torch.cat([run(batch.to(device)).cpu() for batch in x.split(_INFERENCE_BATCH)])
