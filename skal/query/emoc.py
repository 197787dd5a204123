"""EMOC: query the images whose label is expected to change the outputs of the network most."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from modAL.utils.data import data_vstack
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from skal._validation import check_count, check_options
from skal.query._cover import BATCHES, select_batch
from skal.query._learner import check_pool, labelled, last_step, members, rows_of
from skal.query._pool import is_dask, n_rows, score_pool, with_known_size

OUTPUTS = ("logit", "probability")
LABELS = ("map", "posterior")


def emoc_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    X_reference: Any = None,
    n_reference: int = 100,
    output: str = "logit",
    labels: str = "map",
    batch: str = "top",
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the images whose label is expected to change the outputs of the network most.

    The change is that of a gradient step on the image, to first order and exactly, over all trainable layers; see
    :func:`skal.gradients.output_change`.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Its estimator has a method ``output_change``, as :class:`skal.FrozenPrefixClassifier` has, alone or as the last
        step of a Pipeline. In a committee the scores are averaged over the members. As long as it is not fitted all
        images are alike, and drawn at random.
    X_pool : images of length n
        As in :meth:`FrozenPrefixClassifier.fit`, or a Dask array of them, which is scored on its cluster.
    n_instances : int, default=1
    X_reference : images, default=None
        On whose outputs the change is measured. None draws `n_reference` of pool and labelled images together.
    n_reference : int, default=100
        The time a query takes is proportional to it.
    output : {"logit", "probability"}, default="logit"
    labels : {"map", "posterior"}, default="map"
        Whether the most probable label is assumed, as in the text, or the score is the mean over all labels; this
        takes as many times longer as there are classes, roughly.
    batch : {"top", "herding"}, default="top"
        Whether the images of highest score are queried, or those that together cover most score, as in
        :func:`skal.query.uherding_sampling`: then a batch is not the same image ten times.
    random_state : int, RandomState or None, default=None
        Draws the references, and orders images of equal score.

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, best first; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, an option is unknown, or the estimator has no gradients.

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
    X_pool = with_known_size(X_pool)
    n = check_pool(X_pool, n_instances)
    check_options(output=(output, OUTPUTS), labels=(labels, LABELS), batch=(batch, BATCHES))
    check_reference(X_reference, n_reference)
    generator = check_random_state(random_state)
    if X_reference is None:
        X_reference = draw_reference(learner, X_pool, n_reference, generator)
    scores = np.zeros(n)
    for estimator in members(learner):
        change = change_scorer(estimator, X_pool, X_reference, output=output)
        if change is not None:
            change = partial(change, labels=labels)
            scores += score_pool(change, X_pool) if is_dask(X_pool) else change(X_pool)
    scores /= len(members(learner))
    return select_batch(learner, X_pool, scores, n_instances, batch, generator)


def check_reference(X_reference: Any, n_reference: int) -> None:
    """Raise a ValueError if there would be no reference."""
    if X_reference is not None and n_rows(X_reference) == 0:
        raise ValueError("X_reference is empty: there is no output whose change could be measured")
    check_count("n_reference", n_reference)


def draw_reference(learner: Any, X_pool: Any, n_reference: int, generator: np.random.RandomState) -> Any:
    """Images drawn without replacement from pool and labelled images together."""
    taught = labelled(learner)
    n_pool, n_taught = n_rows(X_pool), 0 if taught is None else n_rows(taught)
    rows = np.sort(generator.permutation(n_pool + n_taught)[:n_reference])
    parts = [rows_of(X_pool, rows[rows < n_pool])]
    if rows[-1] >= n_pool:
        parts.append(rows_of(taught, rows[rows >= n_pool] - n_pool))
    parts = [part for part in parts if n_rows(part)]
    return parts[0] if len(parts) == 1 else data_vstack(parts)


def change_scorer(estimator: Any, X_pool: Any, X_reference: Any, **options: Any) -> Callable[..., np.ndarray] | None:
    """A function of images and labels that gives their output change; None as long as nothing is fitted."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not hasattr(last, "output_change"):
        raise ValueError(
            f"EMOC needs an estimator with gradients, such as FrozenPrefixClassifier, but got {type(last).__name__}"
        )
    try:
        estimator.predict(rows_of(X_reference, np.arange(1)))
    except NotFittedError:
        return None
    network, earlier = last_step(estimator, X_pool)
    return partial(_output_change, network, earlier, earlier(X_reference), options)


def _output_change(
    network: Any, earlier: Callable[[Any], Any], reference: Any, options: dict[str, Any], X: Any, labels: Any
) -> np.ndarray:
    return network.output_change(reference, earlier(X), labels=labels, **options)
