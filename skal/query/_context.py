"""The inputs of a strategy in one query, and the conversion of positions to what the learner's modAL expects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from skal._learners import estimators_of, gains_methods_by_fit, labelled_rows, labels_of
from skal.images.forms import as_data
from skal.query._batch import cover, kernel_width, top
from skal.query._features import Features, features_of
from skal.query._pool import is_dask, n_rows, rows_of, score_pool, with_known_size

_AT_ONCE = 16_384  # rows of features whose scores are computed at a time


class Context:
    """One query: the learner, the pool, and the number of images to query.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
    X_pool : array-like of length n, or dask Array
    n_instances : int
    random_state : int, RandomState or None, default=None

    Attributes
    ----------
    estimators : list
        One, or one per member of a committee.
    n : int
        Size of the pool.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> context = Context(LogisticRegression(), np.array([[0.0], [0.2], [5.0]]), 2, random_state=0)
    >>> context.proba is None, len(context.features().pool)
    (True, 3)
    >>> context.batch(np.array([0.1, 0.3, 0.2]))
    array([1, 2])
    """

    def __init__(
        self,
        learner: Any,
        X_pool: Any,
        n_instances: int,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.learner = learner
        self.X_pool = with_known_size(X_pool)
        self.n = n_rows(self.X_pool)
        if self.n == 0:
            raise ValueError("X_pool is empty: there is nothing left to query")
        is_count = isinstance(n_instances, (int, np.integer)) and not isinstance(n_instances, bool)
        if not is_count or not 1 <= n_instances <= self.n:
            raise ValueError(f"n_instances={n_instances!r} must be an integer from 1 to {self.n}, the size of the pool")
        self.n_instances = int(n_instances)
        self.estimators = estimators_of(learner)
        self._random_state = random_state

    @cached_property
    def generator(self) -> np.random.RandomState:
        """Source of all randomness in this query."""
        return check_random_state(self._random_state)

    @property
    def X_labelled(self) -> Any:
        """The labelled rows, or None."""
        return labelled_rows(self.learner)

    @property
    def y_labelled(self) -> Any:
        """Their labels, or None."""
        return labels_of(self.learner)

    @property
    def n_labels(self) -> int:
        """Number of labelled rows."""
        return 0 if self.y_labelled is None else len(self.y_labelled)

    @cached_property
    def proba(self) -> np.ndarray | None:
        """Class probabilities of the pool (n, C), computed once; None before the first fit."""
        return self.predict_proba(self.X_pool)

    def predict_proba(self, X: Any) -> np.ndarray | None:
        """Class probabilities of any rows; None before the first fit.

        Raises
        ------
        ValueError
            If the estimator has no ``predict_proba``.
        """
        if any(gains_methods_by_fit(estimator) for estimator in self.estimators):
            return None
        for estimator in self.estimators:
            if not hasattr(estimator, "predict_proba"):
                raise ValueError(
                    f"{type(estimator).__name__} has no method predict_proba, but this strategy requires class "
                    "probabilities (use VotingClassifier with voting='soft', or SVC inside CalibratedClassifierCV)"
                )
        if len(self.estimators) > 1 and isinstance(X, (list, tuple)):
            X = as_data(X)  # modAL's committees read the shape
        try:
            return np.asarray(self._block_by_block(self.learner.predict_proba, X))
        except NotFittedError:
            return None

    @property
    def known_proba(self) -> np.ndarray:
        """Class probabilities of the pool; before the first fit a single column of ones."""
        return np.ones((self.n, 1)) if self.proba is None else self.proba

    def features(self, *, normalized: bool = False, **options: Any) -> Features:
        """Features of pool and labelled images, recomputed at each call.

        Parameters
        ----------
        normalized : bool, default=False
            Whether to scale them to length 1, centre them on their mean and scale them again.
        **options
            ``X_source`` for features of source images too; ``layer`` and ``pooled`` for another layer of the network.
        """
        features = features_of(self.learner, self.X_pool, **options)
        return features.normalized() if normalized else features

    def rows(self, positions: np.ndarray) -> Any:
        """Rows of the pool, loaded into memory if it is a Dask array."""
        return rows_of(self.X_pool, positions)

    def score(self, score: Callable[[Any], np.ndarray]) -> np.ndarray:
        """Scores of the pool (n, ...) from a function of rows, applied to a Dask array block by block."""
        return self._block_by_block(score, self.X_pool)

    def batch(self, scores: np.ndarray, rule: str = "top", *, random_ties: bool = True) -> Any:
        """Choose a batch by scores and return it in the form the learner expects.

        Parameters
        ----------
        scores : ndarray of shape (n,)
            Higher is better.
        rule : {"top", "herding"}, default="top"
            "top" takes the highest scores. "herding" takes the images that cover the most score, by repeatedly adding
            the one that increases the coverage of the pool most [1]_. The coverage of each image is weighted by its
            score, minus the lowest score if that is negative.
        random_ties : bool, default=True
            Whether ties are ordered at random; otherwise they are in pool order.

        References
        ----------
        .. [1] Bae, Oliveira, Sutherland. "Uncertainty herding: one active learning method for all label budgets", ICLR
           2025, section 3.
        """
        if rule == "top":
            picks = top(scores, self.n_instances, self.generator if random_ties else None)
        else:
            features = self.features(normalized=True)
            weights = scores - min(scores.min(), 0)
            picks = cover(features, self.n_instances, kernel_width(features.labelled), self.generator, weights)
        return self.result(picks, scores[picks])

    def result(self, picks: ArrayLike, scores: ArrayLike | None = None) -> Any:
        """Return value of a strategy: positions in the pool, with their scores for modAL 0.4.2 and later.

        modAL 0.4.1 expects plain positions. 0.4.2 unpacks a pair, and calls the strategy again if it does not get one.
        Images that were chosen jointly have no individual scores; their scores are zeros.
        """
        positions = np.asarray(picks)
        query = getattr(type(self.learner), "query", None)
        wants_pair = query is not None and "return_metrics" in inspect.signature(query).parameters
        values = np.zeros(len(positions)) if scores is None else np.asarray(scores)
        return (positions, values) if wants_pair else positions

    @staticmethod
    def _block_by_block(score: Callable[[Any], np.ndarray], X: Any) -> np.ndarray:
        if is_dask(X):
            return score_pool(score, X)
        if isinstance(X, np.ndarray) and X.ndim == 2 and len(X) > _AT_ONCE:  # their intermediates may be much larger
            return np.concatenate([score(X[start : start + _AT_ONCE]) for start in range(0, len(X), _AT_ONCE)])
        return score(X)
