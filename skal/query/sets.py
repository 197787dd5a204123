"""Sets of images that are labelled together: the best of many random sets."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skal._validation import check_count
from skal.query._batch import top
from skal.query._clusters import k_means
from skal.query._context import Context
from skal.query._registry import strategy
from skal.query.emoc import CHANGE, change_scorer, check_reference, draw_reference
from skal.query.uncertainty import confidence_scores

_SETS = {
    "groups": [StrOptions({"prediction", "cluster", "truth"})],
    "n_sets": [Interval(Integral, 1, None, closed="left")],
    "y_pool": "no_validation",
}
_SCORES = {"least_confident", "margin", "entropy", "gini", "most_confident", "random"}
_SETS_A_CLUSTER, _MOST_CLUSTERS = 4, 500
_ROWS = 4096  # images loaded at a time


def random_sets(
    groups: ArrayLike, set_size: int, n_sets: int = 1000, *, random_state: int | np.random.RandomState | None = None
) -> np.ndarray:
    """Random sets of images that share a group.

    For each set, one of the groups with at least `set_size` images is drawn, then the images from that group. If no
    group is large enough, sets are drawn from all images.

    Parameters
    ----------
    groups : array-like of shape (n,)
        Classes, predictions or clusters.
    set_size : int
    n_sets : int, default=1000
    random_state : int, RandomState or None, default=None

    Returns
    -------
    sets : ndarray of shape (n_sets, set_size)
        Positions, distinct within a set.

    Raises
    ------
    ValueError
        If there are fewer than `set_size` images, or `n_sets` is below 1.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, sections 2 and 3 (M random sets of size K).

    Examples
    --------
    >>> random_sets(["a", "b", "a", "b", "b"], 2, 3, random_state=0)
    array([[2, 0],
           [1, 4],
           [4, 1]])
    """
    groups = np.asarray(groups)
    check_count("n_sets", n_sets)
    check_count("set_size", set_size)
    if set_size > len(groups):
        raise ValueError(f"set_size={set_size!r} must be at most {len(groups)}, the number of images")
    generator = check_random_state(random_state)
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.split(np.argsort(of, kind="stable"), sizes.cumsum()[:-1])
    pools = [rows for rows in by_group if len(rows) >= set_size] or [np.arange(len(groups))]
    chosen = generator.randint(len(pools), size=n_sets)
    return np.array([generator.choice(pools[g], set_size, replace=False) for g in chosen])


@strategy(_SETS | {"score": [StrOptions(_SCORES), callable]}, cost="pool", needs_labels=True, without_labels="chance")
def set_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    score: str | Callable[[Any, Any], np.ndarray] = "least_confident",
    groups: str = "prediction",
    n_sets: int = 1000,
    y_pool: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the best of many random sets of images that probably share a class, by mean score per set.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier. Before its first fit, a random set is queried.
    X_pool : array-like of length n
    n_instances : int, default=1
        Images per set (K in the paper). All sets have the same size, so sum and mean prefer the same one.
    score : str or callable, default="least_confident"
        "least_confident" (the paper's min), "margin" (1-vs-2), "entropy", "gini", "most_confident" (max), "random", or
        a function ``score(learner, X_pool)`` that returns one number per image, where higher is better.
    groups : {"prediction", "cluster", "truth"}, default="prediction"
        What the images of a set share. "prediction" is one predicted class. "cluster" is one k-means cluster of the
        estimator's features. Clusters hold four sets on average (at most 500 clusters, and at least as many as known
        classes). "truth" is one true class, as in the paper's experiment.
    n_sets : int, default=1000
    y_pool : array-like of shape (n,), default=None
        True classes, for ``groups="truth"``. A simulation (:func:`skal.experiment.run_experiment`) fills them in.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, or true classes are missing.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, section 3.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> pool = np.array([[-2.0], [-1.5], [0.6], [0.7]])
    >>> sorted(set_sampling(model, pool, 2, random_state=0).tolist())
    [2, 3]
    """
    context = Context(learner, X_pool, n_instances, random_state)
    sets = random_sets(_groups(context, groups, y_pool), n_instances, n_sets, random_state=context.generator)
    if callable(score):
        scores = np.asarray(score(learner, context.X_pool), dtype=float)
        if scores.shape != (context.n,):
            raise ValueError(
                f"score returned shape {scores.shape} instead of one number for each of {context.n} images"
            )
    else:
        scores = np.zeros(context.n) if score == "random" else confidence_scores(context.known_proba, score)
    return _best(context, sets, scores[sets])


@strategy(
    _SETS | CHANGE,
    cost="pool x references x trainable layers",
    needs_labels=True,
    without_labels="chance",
    needs_gradients=True,
)
def emoc_set_sampling(
    learner: Any,
    X_pool: Any,
    n_instances: int = 1,
    *,
    groups: str = "prediction",
    n_sets: int = 1000,
    X_reference: Any = None,
    n_reference: int = 100,
    output: str = "logit",
    y_pool: ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> Any:
    """Query the best of many random sets of images by EMOC, with one label per set.

    The label of a set is the most probable class under the mean probabilities of its images (Eq. 5 of [1]_). It is not
    always the most probable class of each image.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        As in :func:`skal.query.emoc_sampling`.
    X_pool : images of length n
    n_instances : int, default=1
        Images per set (K in the paper).
    groups, n_sets, y_pool
        As in :func:`skal.query.set_sampling`.
    X_reference, n_reference, output
        As in :func:`skal.query.emoc_sampling`.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, a parameter is out of range, true classes are missing, or
        the estimator has no gradients.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, Eq. 5.

    Examples
    --------
    >>> from torch import nn
    >>> from skal import FrozenPrefixClassifier
    >>> rng = np.random.default_rng(0)
    >>> net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> classifier = FrozenPrefixClassifier(net, n_frozen=1, random_state=0)
    >>> classifier = classifier.fit(rng.normal(size=(12, 5)), np.arange(12) % 3)
    >>> len(emoc_set_sampling(classifier, rng.normal(size=(20, 5)), 4, n_sets=10, random_state=0))
    4
    """
    check_reference(X_reference)
    context = Context(learner, X_pool, n_instances, random_state)
    sets = random_sets(_groups(context, groups, y_pool), n_instances, n_sets, random_state=context.generator)
    if X_reference is None:
        X_reference = draw_reference(context, n_reference)
    scores = np.zeros(sets.shape)
    for estimator in context.estimators:
        change = change_scorer(estimator, context.X_pool, X_reference, output=output)
        if change is not None:
            alone = context if len(context.estimators) == 1 else Context(estimator, context.X_pool, n_instances)
            scores += _with_shared_labels(change, estimator.classes_, alone, sets)
    return _best(context, sets, scores)


def _with_shared_labels(
    change: Callable[..., np.ndarray], classes: np.ndarray, context: Context, sets: np.ndarray
) -> np.ndarray:
    """Score of each image of each set under the label of the set. Each pair of image and label is scored once."""
    proba = context.known_proba
    labels = np.repeat(proba[sets].mean(axis=1).argmax(axis=1), sets.shape[1])
    needed, found = np.unique(np.column_stack([sets.ravel(), labels]), axis=0, return_inverse=True)
    blocks = np.split(needed, range(_ROWS, len(needed), _ROWS))
    scores = [change(context.rows(block[:, 0]), labels=classes[block[:, 1]]) for block in blocks]
    return np.concatenate(scores)[found.ravel()].reshape(sets.shape)


def _groups(context: Context, groups: str, y_pool: ArrayLike | None) -> np.ndarray:
    """True class, predicted class or cluster of each image."""
    if groups == "truth":
        if y_pool is None or np.shape(y_pool) != (context.n,):
            given = "none" if y_pool is None else f"shape {np.shape(y_pool)}"
            raise ValueError(
                f"groups='truth' needs the true class of each of the {context.n} images as y_pool, but got {given}"
            )
        return np.asarray(y_pool)
    if groups == "prediction":
        return context.known_proba.argmax(axis=1)
    n_sets = context.n // (_SETS_A_CLUSTER * context.n_instances)
    n_clusters = max(context.known_proba.shape[1], min(_MOST_CLUSTERS, n_sets))
    return k_means(context.features().pool.whole().numpy(), min(context.n, n_clusters), context.generator).labels_


def _best(context: Context, sets: np.ndarray, scores: np.ndarray) -> Any:
    """The set with the highest mean score; ties are broken at random."""
    best = top(scores.mean(axis=1), 1, context.generator)[0]
    return context.result(sets[best], scores[best])
