"""Prediction methods of the classifier: predictions, features, activations, and output change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier

from skal._fitting import checked_features, fitted_prefix, prefix_of
from skal.backbones.backbone import Backbone
from skal.features.gathered import Gathered
from skal.features.memory import ActivationCache
from skal.features.prefix import Prefix, run_batched
from skal.gradients.cached import cached_output_change
from skal.images.forms import as_data, is_images
from skal.images.inputs import Inputs
from skal.source import SourceProfile
from skal.training.final import final_and_inner, final_features
from skal.training.suffix import Suffix


class PredictionMixin(TransformerMixin):
    """Prediction methods. Before the first fit, activations are available and are those of the pre-trained network.

    A TransformerMixin itself, since scikit-learn's ``set_output`` applies to a ``transform`` that its subclass defines.
    """

    net_: NeuralNetClassifier
    backbone_: Backbone
    classes_: np.ndarray
    n_frozen_: int
    fused_: Sequence[Suffix]
    _final: ActivationCache
    cache: Any
    device: str
    verbose: bool

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def _checked(self, X: Any) -> tuple[Prefix, Inputs]:
        """The frozen layers, and images or features as checked network inputs."""
        if not self.__sklearn_is_fitted__():
            X = as_data(X)
            X = X if is_images(X) else check_array(X, dtype=np.float32)
            prefix = prefix_of(self, X)
        else:
            X = checked_features(self, X, reset=False)
            prefix = fitted_prefix(self)
        return prefix, prefix.check(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Columns in the order of `classes_`; float32, each row sums to 1.
        """
        return self._log_proba(X).exp().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        y : ndarray of shape (n,)
        """
        log_proba = self._log_proba(X)
        return self.classes_[log_proba.argmax(dim=1).numpy()]

    def _log_proba(self, X: Any) -> torch.Tensor:
        """Logarithm of the mean probabilities over all models."""
        check_is_fitted(self)
        prefix, inputs = self._checked(X)
        of_models = []
        for model in (*self.fused_, self.net_.module_):
            features = final_features(prefix, inputs, model, self._final)
            logits = torch.cat([run_batched(model.logits, block, prefix.device) for block in features])
            of_models.append(logits.log_softmax(1))
        return of_models[0] if len(of_models) == 1 else torch.stack(of_models).logsumexp(0).log_softmax(1)

    def transform(self, X: Any) -> np.ndarray:
        """Final representation under the current network.

        Before the first fit, use ``activations(X, [-2], pooled=True)`` for that of the pre-trained network.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        features : ndarray of shape (n, n_features_out)
        """
        check_is_fitted(self)
        return self._transformed(*self._checked(X))

    def _transformed(self, prefix: Prefix, inputs: Inputs) -> np.ndarray:
        features = Gathered(len(inputs))
        for block in final_features(prefix, inputs, self.net_.module_, self._final):
            features.add(block)
        return features.rows.numpy()

    @property
    def _n_features_out(self) -> int:
        return self.net_.module_.head.in_features

    def activations(
        self, X: Any, layers: Sequence[int | str], *, pooled: bool = False, pretrained: bool = False
    ) -> list[np.ndarray]:
        """Activations at layers of the network, flattened.

        Parameters
        ----------
        X : as in `fit`
        layers : sequence of int or str
            Negative counts of weight layers from the end (-2 is layer B of the ADMA paper, -4 its layer A), or names
            of submodules.
        pooled : bool, default=False
            Whether feature maps are averaged over space.
        pretrained : bool, default=False
            Whether to use the pre-trained network M0 instead of the current one. Before the first fit they are the
            same.

        Returns
        -------
        activations : list of ndarray of shape (n, D)
            One array per layer, float32.

        Raises
        ------
        ValueError
            If a layer does not exist; the message lists the existing ones.
        """
        prefix, inputs = self._checked(X)
        if pretrained or not self.__sklearn_is_fitted__():
            return prefix.layer_activations(inputs, layers, pooled=pooled)
        graph, suffix = prefix.backbone.layers, self.net_.module_.to(prefix.device)
        nodes = {layer: graph.resolve(layer) for layer in layers}
        final = [layer for layer, node in nodes.items() if pooled and node is graph.features]
        inner = [layer for layer, node in nodes.items() if layer not in final and graph.is_before(prefix.cut, node)]
        found: dict[int | str, np.ndarray] = {}
        # Predictions use the final representation too, so it is cached and the trainable layers run once for all.
        if final and inner and prefix.cache is not None:
            features, values = final_and_inner(prefix, inputs, suffix, self._final, inner, pooled)
            found = dict.fromkeys(final, features) | dict(zip(inner, values, strict=True))
        elif final:
            found = dict.fromkeys(final, self._transformed(prefix, inputs))
        others = [layer for layer in nodes if layer not in found]
        if others:
            values = prefix.layer_activations(inputs, others, pooled=pooled, trained=suffix.body)
            found |= dict(zip(others, values, strict=True))
        return [found[layer] for layer in layers]

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
        prefix, inputs = self._checked(X)
        return prefix.source_proba(inputs)

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
        """How much a gradient step on each image would change the outputs for reference images.

        Parameters
        ----------
        X_reference, X : as in `fit`
        output, labels, norm, max_memory
            As in :func:`skal.output_change`. If `labels` is an array, it contains classes.

        Returns
        -------
        scores : ndarray of shape (n,), or (n, n_classes) for ``labels="each"``

        Raises
        ------
        ValueError
            If an option is unknown, there are no images, or a label is not one of the classes.
        """
        check_is_fitted(self)
        return cached_output_change(
            self.net_.module_,
            self.classes_,
            fitted_prefix(self),
            checked_features(self, X_reference, reset=False),
            checked_features(self, X, reset=False),
            output=output,
            labels=labels,
            norm=norm,
            max_memory=max_memory,
        )

    def check_source(self, source: SourceProfile, X: Any) -> None:
        """Raise a ValueError if a profile was fitted for a different backbone than the one used for `X`."""
        source.check_backbone(self._checked(X)[0].backbone)
