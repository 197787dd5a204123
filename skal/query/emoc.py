"""EMOC: query the images whose label is expected to change the outputs of the network most."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval, StrOptions

from skal.query._context import Context
from skal.query._pipeline import Steps, last_step
from skal.query._pool import joined, n_rows, rows_of
from skal.query._registry import strategy

#: Constraints of the keywords shared by EMOC of images and EMOC of sets.
CHANGE = {
    "X_reference": "no_validation",
    "n_reference": [Interval(Integral, 1, None, closed="left")],
    "output": [StrOptions({"logit", "probability"})],
}


@strategy(
    CHANGE | {"labels": [StrOptions({"map", "posterior"})]},
    cost="pool x references x trainable layers",
    needs_labels=True,
    without_labels="coverage",
    needs_gradients=True,
)
def emoc_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    X_reference: Any = None,
    n_reference: int = 100,
    output: str = "logit",
    labels: str = "map",
    batch: str = "herding",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose label is expected to change the outputs of the network most.

    The change is caused by a gradient step on the image. It is exact to first order and covers all trainable layers;
    see :func:`skal.output_change`.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Its estimator has a method ``output_change``, like :class:`skal.FrozenPrefixClassifier`, alone or as the last
        step of a Pipeline. In a committee, the scores are averaged over the members. Before its first fit, images are
        drawn at random, or by coverage with ``batch="herding"``.
    X_pool : images of length n
        As in :meth:`skal.FrozenPrefixClassifier.fit`, or a Dask array of them, which is scored on its cluster.
    n_instances : int, default=1
    X_reference : images, default=None
        Images on whose outputs the change is measured. None draws `n_reference` images from pool and labelled images.
    n_reference : int, default=100
        The time of a query is proportional to it.
    output : {"logit", "probability"}, default="logit"
    labels : {"map", "posterior"}, default="map"
        "map" assumes the most probable label, as in the paper. "posterior" averages the score over all labels, which
        multiplies the time by about the number of classes.
    batch : {"top", "herding"}, default="herding"
        "top" queries the images with the highest scores, as in the paper. "herding" queries those that together cover
        the most score, as in :func:`skal.query.uherding_sampling`. Top-scoring batches are near-duplicates of each
        other.
    random_state : int, RandomState or None, default=None
        Draws the references, and orders images with equal scores.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, best first; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, or the estimator has no
        gradients.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, Eq. 2-4.

    Examples
    --------
    >>> from modAL.models import ActiveLearner
    >>> from torch import nn
    >>> from skal import FrozenPrefixClassifier
    >>> rng = np.random.default_rng(0)
    >>> net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> learner = ActiveLearner(FrozenPrefixClassifier(net, n_frozen=1, random_state=0), query_strategy=emoc_sampling)
    >>> learner.teach(rng.normal(size=(12, 5)), np.arange(12) % 3)
    >>> indices, images = learner.query(rng.normal(size=(20, 5)), n_instances=2, random_state=0)
    >>> images.shape
    (2, 5)
    """
    check_reference(X_reference)
    context = Context(learner, X_pool, n_instances, random_state)
    if X_reference is None:
        X_reference = draw_reference(context, n_reference)
    scores = np.zeros(context.n)
    for estimator in context.estimators:
        change = change_scorer(estimator, context.X_pool, X_reference, output=output)
        if change is not None:
            scores += context.score(partial(change, labels=labels))
    return context.batch(scores / len(context.estimators), batch)


def check_reference(X_reference: Any) -> None:
    """Raise a ValueError if the reference is empty."""
    if X_reference is not None and n_rows(X_reference) == 0:
        raise ValueError("X_reference is empty; at least one sample is required")


def draw_reference(context: Context, n_reference: int) -> Any:
    """Draw images without replacement from the pool and the labelled images together."""
    labelled = context.X_labelled
    n_labelled = 0 if labelled is None else n_rows(labelled)
    rows = np.sort(context.generator.permutation(context.n + n_labelled)[:n_reference])
    parts = [context.rows(rows[rows < context.n])]
    if rows[-1] >= context.n:
        parts.append(rows_of(labelled, rows[rows >= context.n] - context.n))
    parts = [part for part in parts if n_rows(part)]
    return parts[0] if len(parts) == 1 else joined(parts)


def change_scorer(estimator: Any, X_pool: Any, X_reference: Any, **options: Any) -> Callable[..., np.ndarray] | None:
    """A function of images and labels that returns their output change; None before the first fit."""
    network, earlier = last_step(estimator, X_pool)
    if not hasattr(network, "output_change"):
        raise ValueError(
            f"EMOC needs an estimator with gradients, such as FrozenPrefixClassifier, but got {type(network).__name__}"
        )
    try:
        estimator.predict(rows_of(X_reference, np.arange(1)))
    except NotFittedError:
        return None
    return partial(_output_change, network, earlier, earlier(X_reference), options)


def _output_change(
    network: Any, earlier: Steps, reference: Any, options: dict[str, Any], X: Any, labels: Any
) -> np.ndarray:
    return network.output_change(reference, earlier(X), labels=labels, **options)
