"""Recipe: the base class of training methods, each with its own parameters."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from skorch import NeuralNetClassifier

from skal.backbones.backbone import Backbone
from skal.features.prefix import default_depth
from skal.training.problem import Problem
from skal.training.suffix import Suffix


@dataclass(frozen=True)
class Trained:
    """Result of a recipe.

    Parameters
    ----------
    net : NeuralNetClassifier
        Its ``module_`` is the trained ``Suffix``, and its ``history`` holds the loss of each epoch.
    classes : ndarray of shape (n_classes,)
        Class of each output of the head.
    fused : sequence of Suffix, default=()
        Additional models whose probabilities are averaged with those of the net.
    attributes : dict of str to object, default={}
        Additional fitted attributes of the classifier. Their names end in an underscore.
    labels : ndarray or None, default=None
        Labels of all images that the head was trained on. None means those of X.
    """

    net: NeuralNetClassifier
    classes: np.ndarray
    fused: Sequence[Suffix] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    labels: np.ndarray | None = None


class Recipe(BaseEstimator, ABC):
    """Base class of recipes: how the trainable layers of a :class:`skal.FrozenPrefixClassifier` are trained.

    A recipe defines ``__init__`` with its parameters, and :meth:`train`. The classifier trains with a clone, so a
    recipe is never modified. Its parameters can be searched as ``recipe__name``.

    Examples
    --------
    A recipe that keeps the linear probe unchanged:

    >>> from skal import FrozenPrefixClassifier
    >>> from torch import nn
    >>> class Probe(Recipe):
    ...     def train(self, problem):
    ...         return Trained(problem.finished_net(problem.start().suffix), problem.classes)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2
    >>> FrozenPrefixClassifier(net, recipe=Probe()).fit(X, y).predict(X).shape
    (20,)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @abstractmethod
    def train(self, problem: Problem, *args: Any, **data: Any) -> Trained:
        """Train on a problem.

        Parameters
        ----------
        problem : Problem
            Labelled images, and everything that recipes share.
        **data
            Data given to `fit` besides X and y. The keyword-only parameters of a recipe's `train` declare which of
            ``X_source``, ``y_source`` and ``X_unlabeled`` it accepts. ``fit`` raises if it is given others.

        Returns
        -------
        trained : Trained
        """

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the data that :meth:`train` accepts besides the problem."""
        parameters = inspect.signature(self.train).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def default_depth(self, backbone: Backbone, n_labels: int) -> int:
        """Number of frozen layers if ``n_frozen=None``, given the number of labels; by default those up to layer A."""
        return default_depth(backbone)

    def arrange(self, X: Any, y: Any, data: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Convert data to the form that :meth:`train` expects; recipes that accept other forms override this method.

        The returned X, y are labelled images of the task, or None if there are none.
        """
        return X, y, data

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a ValueError if there is data that this recipe does not accept."""
        for name in data:
            if name not in self.takes:
                takes = ", ".join(self.takes) or "only X and y"
                raise ValueError(f"{name} was given, but recipe={type(self).__name__}() takes {takes}")
        missing = [name for name in ("X_source", "y_source") if name not in data]
        if len(missing) == 1:
            raise ValueError(f"X_source and y_source must be passed together, but {missing[0]} is missing")
