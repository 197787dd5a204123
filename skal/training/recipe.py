"""What a recipe is: a way to train, as a value with parameters of its own."""

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
    """What a recipe gives back.

    Parameters
    ----------
    net : NeuralNetClassifier
        Its ``module_`` is the trained ``Suffix``, its ``history`` the loss of each epoch.
    classes : ndarray of shape (n_classes,)
        Class of each output of the head.
    fused : sequence of Suffix, default=()
        Further models whose probabilities are averaged with those of the net.
    attributes : dict of str to object, default={}
        Fitted attributes of the classifier, beside its own; their names end in an underscore.
    """

    net: NeuralNetClassifier
    classes: np.ndarray
    fused: Sequence[Suffix] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


class Recipe(BaseEstimator, ABC):
    """Base class of recipes: how the trainable layers of a :class:`skal.FrozenPrefixClassifier` are trained.

    A recipe defines ``__init__`` with its parameters, and :meth:`train`. The classifier trains a clone, so a recipe
    never changes; its parameters can be searched as ``recipe__name``.

    Examples
    --------
    A recipe that leaves the linear probe as it is:

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
            Labelled images, and what all recipes share.
        **data
            What was given to `fit` beside X and y. The keyword-only parameters of a recipe's `train` declare which of
            ``X_source``, ``y_source`` and ``X_unlabeled`` it takes; ``fit`` raises if it is given others.

        Returns
        -------
        trained : Trained
        """

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of what :meth:`train` takes beside the problem."""
        parameters = inspect.signature(self.train).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def default_depth(self, backbone: Backbone, n_labels: int) -> int:
        """Number of frozen layers under ``n_frozen=None``, with so many labelled images; here those up to layer A."""
        return default_depth(backbone)

    def arrange(self, X: Any, y: Any, data: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        """Data in the form that :meth:`train` takes; recipes that accept other forms override it.

        Afterwards X, y are labelled images of the task, or None where there are none.
        """
        return X, y, data

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise a ValueError if there is data that this recipe does not take."""
        for name in data:
            if name not in self.takes:
                takes = ", ".join(self.takes) or "nothing beside X and y"
                raise ValueError(f"{name} was given, but recipe={type(self).__name__}() takes {takes}")
        if ("X_source" in data) != ("y_source" in data):
            raise ValueError("X_source and y_source belong together, but only one of them is given")
