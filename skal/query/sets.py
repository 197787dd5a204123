"""Sets of images that are labelled together: which of many random sets a strategy prefers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from skal._validation import check_count, check_options
from skal.query._clusters import clusters
from skal.query._features import features_of
from skal.query._learner import check_pool, classifier_proba, members, rows_of
from skal.query._pool import with_known_size
from skal.query._select import query_result, top
from skal.query.emoc import OUTPUTS, change_scorer, check_reference, draw_reference
from skal.query.uncertainty import confidence_scores

SCORES = ("least_confident", "margin", "entropy", "gini", "most_confident", "random")
GROUPS = ("prediction", "cluster", "truth")
_SETS_A_CLUSTER, _MOST_CLUSTERS = 4, 500
_ROWS = 4096  # images that are loaded at a time


def random_sets(
    groups: ArrayLike, set_size: int, n_sets: int = 1000, *, random_state: int | np.random.RandomState | None = None
) -> np.ndarray:
    """Random sets of images that share a group.

    Each set takes a group at random, of those with at least `set_size` images, and draws its images from it. Where no
    group is as large, sets are drawn from all images.

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
        If there are fewer than `set_size` images, or no set is asked for.

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
        raise ValueError(f"set_size={set_size!r} is more than the {len(groups)} images")
    generator = check_random_state(random_state)
    _, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.split(np.argsort(of, kind="stable"), sizes.cumsum()[:-1])
    pools = [rows for rows in by_group if len(rows) >= set_size] or [np.arange(len(groups))]
    chosen = generator.randint(len(pools), size=n_sets)
    return np.array([generator.choice(pools[g], set_size, replace=False) for g in chosen])


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
    """Query the best of many random sets of images that probably share a class, by the mean score of its images.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier. As long as it is not fitted, all sets are alike.
    X_pool : array-like of length n
    n_instances : int, default=1
        Images of a set (K in the text). All sets have as many, so that sum and mean prefer the same.
    score : str or callable, default="least_confident"
        "least_confident" (the text's min), "margin" (1-vs-2), "entropy", "gini", "most_confident" (max), "random", or a
        function ``score(learner, X_pool)`` that gives one number an image, larger for better.
    groups : {"prediction", "cluster", "truth"}, default="prediction"
        From what a set is drawn: images of one predicted class; of one cluster, by k-means on the estimator's
        features into as many as hold four sets (500 at most, and not fewer than the known classes); or of one true
        class, as in the text's experiment.
    n_sets : int, default=1000
    y_pool : array-like of shape (n,), default=None
        True classes, for ``groups="truth"``; a simulation (:func:`skal.experiment.run_experiment`) fills them in.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, an option is unknown, or true classes are missing.

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
    X_pool = with_known_size(X_pool)
    n = check_pool(X_pool, n_instances)
    if not callable(score):
        check_options(score=(score, SCORES))
    check_count("n_sets", n_sets)
    truth = _checked_groups(groups, y_pool, n)
    generator = check_random_state(random_state)
    proba = classifier_proba(learner, X_pool)
    of = truth if truth is not None else _groups(learner, X_pool, groups, proba, n_instances, generator)
    sets = random_sets(of, n_instances, n_sets, random_state=generator)
    if callable(score):
        scores = np.asarray(score(learner, X_pool), dtype=float)
        if scores.shape != (n,):
            raise ValueError(f"score gave shape {scores.shape}, not one number for each of {n} images")
    else:
        scores = np.zeros(n) if score == "random" else confidence_scores(proba, score)
    return _best(learner, sets, scores[sets], generator)


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
    """Query the best of many random sets of images by EMOC, all images of a set with the label the set has.

    The label of a set is the most probable one of the mean probabilities of its images, which is not always the most
    probable one of each; Eq. 5 of [1]_.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        As in :func:`emoc_sampling`.
    X_pool : images of length n
    n_instances : int, default=1
        Images of a set (K in the text).
    groups, n_sets, y_pool
        As in :func:`set_sampling`.
    X_reference, n_reference, output
        As in :func:`emoc_sampling`.
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool; with modAL 0.4.2 and later ``(indices, scores)``.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`, an option is unknown, true classes are missing, or the
        estimator has no gradients.

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
    X_pool = with_known_size(X_pool)
    n = check_pool(X_pool, n_instances)
    check_options(output=(output, OUTPUTS))
    check_reference(X_reference, n_reference)
    check_count("n_sets", n_sets)
    truth = _checked_groups(groups, y_pool, n)
    generator = check_random_state(random_state)
    proba = classifier_proba(learner, X_pool)
    of = truth if truth is not None else _groups(learner, X_pool, groups, proba, n_instances, generator)
    sets = random_sets(of, n_instances, n_sets, random_state=generator)
    if X_reference is None:
        X_reference = draw_reference(learner, X_pool, n_reference, generator)
    scores = np.zeros(sets.shape)
    for estimator in members(learner):
        change = change_scorer(estimator, X_pool, X_reference, output=output)
        if change is not None:
            own = proba if len(members(learner)) == 1 else classifier_proba(estimator, X_pool)
            scores += _with_shared_labels(change, estimator.classes_, X_pool, own, sets)
    return _best(learner, sets, scores, generator)


def _with_shared_labels(
    change: Callable[..., np.ndarray], classes: np.ndarray, X_pool: Any, proba: np.ndarray, sets: np.ndarray
) -> np.ndarray:
    """Score of each image of each set, with the label of the set; each image once for each of its labels."""
    labels = np.repeat(proba[sets].mean(axis=1).argmax(axis=1), sets.shape[1])
    needed, found = np.unique(np.column_stack([sets.ravel(), labels]), axis=0, return_inverse=True)
    blocks = np.split(needed, range(_ROWS, len(needed), _ROWS))
    scores = [change(rows_of(X_pool, block[:, 0]), labels=classes[block[:, 1]]) for block in blocks]
    return np.concatenate(scores)[found.ravel()].reshape(sets.shape)


def _checked_groups(groups: str, y_pool: ArrayLike | None, n: int) -> np.ndarray | None:
    """The true classes, if sets are drawn from them."""
    check_options(groups=(groups, GROUPS))
    if groups != "truth":
        return None
    if y_pool is None or np.shape(y_pool) != (n,):
        given = "none" if y_pool is None else f"shape {np.shape(y_pool)}"
        raise ValueError(f"groups='truth' needs the true class of each of the {n} images as y_pool, but got {given}")
    return np.asarray(y_pool)


def _groups(
    learner: Any, X_pool: Any, groups: str, proba: np.ndarray, set_size: int, generator: np.random.RandomState
) -> np.ndarray:
    """Predicted class or cluster of each image."""
    if groups == "prediction":
        return proba.argmax(axis=1)
    features = features_of(learner, X_pool).pool.numpy()
    n_clusters = max(proba.shape[1], min(_MOST_CLUSTERS, len(proba) // (_SETS_A_CLUSTER * set_size)))
    return clusters(features, min(len(proba), n_clusters), generator)


def _best(learner: Any, sets: np.ndarray, scores: np.ndarray, generator: np.random.RandomState) -> Any:
    """The set with the highest mean score; of equal ones any."""
    best = top(scores.mean(axis=1), 1, generator)[0]
    return query_result(learner, sets[best], scores[best])
