"""The labelling loop, as a generator of rounds and as a classifier that scikit-learn can search and score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, _safe_indexing, check_random_state, get_tags, indexable
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skal._learners import gains_methods_by_fit
from skal._targets import check_labels
from skal._validation import check_count
from skal.images.forms import unwrap
from skal.query._query import Query
from skal.query.uherding import uherding_sampling


class Learner:
    """What a strategy receives: the estimator and the labelled rows, under modAL's names.

    Parameters
    ----------
    estimator : classifier
    X, y : array-like of length n
        The pool and its labels.
    fit_params : dict, default=None
        Further arguments of the estimator's fit. Those whose name begins with ``sample_`` are reduced to the labelled
        rows.
    """

    on_transformed = False  # modAL's learners may compare rows after the steps of a Pipeline; this one does not

    def __init__(self, estimator: BaseEstimator, X: Any, y: np.ndarray, fit_params: dict[str, Any] | None = None):
        self.estimator = estimator
        self._X = X
        self._y = y
        self._fit_params = fit_params or {}
        self.labelled = np.empty(0, dtype=int)

    @property
    def X_training(self) -> Any:
        """Labelled rows, in the order of their queries; None before the first."""
        return _safe_indexing(self._X, self.labelled) if len(self.labelled) else None

    @property
    def y_training(self) -> np.ndarray | None:
        """Their labels."""
        return self._y[self.labelled] if len(self.labelled) else None

    def predict(self, X: Any) -> np.ndarray:
        return self.estimator.predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        if gains_methods_by_fit(self.estimator):
            raise NotFittedError(f"{type(self.estimator).__name__} is not fitted yet")
        return self.estimator.predict_proba(X)

    def fit(self) -> None:
        further = {
            name: _safe_indexing(unwrap(value), self.labelled) if _is_per_row(name, value) else value
            for name, value in self._fit_params.items()
        }
        self.estimator.fit(self.X_training, self.y_training, **further)


def _is_per_row(name: str, value: Any) -> bool:
    """Whether an argument of fit, possibly of a step of a Pipeline, has one entry per row of the pool."""
    return value is not None and name.rpartition("__")[2].startswith("sample_")


class Round(NamedTuple):
    """A round of labelling: the learner, the rows labelled in it, and the seconds it took."""

    learner: Learner
    queried: np.ndarray
    query_seconds: float
    fit_seconds: float


def labelling_rounds(
    estimator: BaseEstimator,
    query: Callable[..., Any],
    X: Any,
    y: ArrayLike,
    *,
    n_queries: int,
    batch_size: int,
    n_initial: int = 0,
    initial: ArrayLike | None = None,
    seed: int | None = None,
    known: Sequence[np.ndarray] = (),
    fit_params: dict[str, Any] | None = None,
    use_pool: bool | str = "auto",
) -> Iterator[Round]:
    """Query, label and fit, round after round, until the budget or the pool is used up.

    While all labels are of one class the estimator is not fitted, except in the last round, because many classifiers
    need two classes. An exception or an interrupt propagates to the caller, and its round is not yielded.

    Parameters
    ----------
    estimator : classifier
        Fitted in place.
    query : Query or callable
        The keywords ``random_state``, ``n_initial`` and ``y_pool`` are filled in if the strategy has them and they are
        not set: with a seed per round, the number of labels before the first query, and the labels of the pool.
    X, y : array-like of length n
        The pool and its labels, by position: an index is ignored.
    n_queries : int
    batch_size : int
        Labels per query. The last query takes what is left.
    n_initial : int, default=0
        Rows drawn at random and labelled before the first query, in a separate round.
    initial : array-like of int, default=None
        Rows labelled before the first query, instead of random ones.
    seed : int, default=None
        Seed of the initial rows and of the strategy. Each round has its own, so a resumed run makes the same draws.
    known : sequence of int arrays, default=()
        Rows queried in each round of an interrupted run. They are labelled again without calling the strategy, and
        these rounds are not yielded. An estimator with ``warm_start`` is fitted in each of them, others only in the
        last.
    fit_params : dict, default=None
        Further arguments of the estimator's fit, such as source data.
    use_pool : bool or "auto", default="auto"
        As in :class:`ActiveClassifier`.

    Yields
    ------
    round : Round
    """
    for name, value, least in (("n_queries", n_queries, 1), ("batch_size", batch_size, 1), ("n_initial", n_initial, 0)):
        check_count(name, value, least)
    query = Query.of(query)
    y = check_labels(estimator, X, y)
    if len(y) == 0:
        raise ValueError("X is empty: there is nothing to label")
    learner = Learner(estimator, X, y, with_pool(estimator, X, fit_params or {}, use_pool))
    given = check_initial(initial, n_initial, len(y))
    n_initial = n_initial or len(given)
    sizes = _sizes(len(y), n_initial, batch_size, n_queries)
    continues = any(_parameters(estimator, "warm_start").values())
    left = np.arange(len(y))
    for t, size in enumerate(sizes):
        generator = np.random.RandomState() if seed is None else np.random.RandomState(np.random.MT19937([seed, t]))
        start = time.perf_counter()
        if t < len(known):
            queried = np.asarray(known[t])
        elif t == 0 and n_initial:
            queried = given if len(given) else generator.permutation(len(y))[:size]
        else:
            seed_of_round = generator.randint(2**31 - 1)
            of_loop = {"random_state": seed_of_round, "n_initial": n_initial, "y_pool": y[left]}
            further = {name: value for name, value in of_loop.items() if query.takes(name)}
            answer = query(learner, _safe_indexing(X, left), size, **further)
            queried = left[_positions(answer, query, size, len(left))]
        asked = time.perf_counter()
        learner.labelled = np.concatenate([learner.labelled, queried])
        left = np.setdiff1d(left, queried)
        is_needed = continues or t >= len(known) - 1  # a known round is fitted only if a later fit starts from it
        is_last = t == len(sizes) - 1
        if is_needed and (is_last or len(np.unique(y[learner.labelled])) > 1):
            learner.fit()
        if t >= len(known):
            yield Round(learner, queried, asked - start, time.perf_counter() - asked)


def _sizes(n: int, n_initial: int, batch_size: int, n_queries: int) -> list[int]:
    """Labels of each round, until the budget or the pool of n rows is used up."""
    budget = ([n_initial] if n_initial else []) + [batch_size] * n_queries
    sizes = np.diff(np.minimum(np.cumsum(budget), n), prepend=0)
    return sizes[sizes > 0].tolist()


def _positions(answer: Any, query: Query, size: int, n: int) -> np.ndarray:
    """The positions that a strategy returned. Raises a ValueError unless they are `size` distinct ones below n."""
    found = np.asarray(answer[0] if isinstance(answer, tuple) else answer)
    if found.shape != (size,) or len(set(found)) < size or not (0 <= min(found) <= max(found) < n):
        raise ValueError(f"{query} returned {found} instead of {size} distinct positions from 0 to {n - 1}")
    return found


def with_pool(estimator: BaseEstimator, X: Any, fit_params: dict[str, Any], use_pool: bool | str) -> dict[str, Any]:
    """Arguments of fit, with the pool as `X_unlabeled` if the estimator takes it and it is not given already."""
    takes = "X_unlabeled" in getattr(estimator, "takes", ())
    if use_pool is True and not takes:
        raise ValueError(f"use_pool=True, but {type(estimator).__name__} does not accept X_unlabeled")
    if not use_pool or not takes or fit_params.get("X_unlabeled") is not None:
        return fit_params
    return {**fit_params, "X_unlabeled": X}


def check_initial(initial: ArrayLike | None, n_initial: int, n: int) -> np.ndarray:
    """`initial` as an array. Raises a ValueError unless it holds distinct rows of n and no further ones are drawn."""
    rows = np.asarray([] if initial is None else initial)
    if rows.size == 0:
        return np.empty(0, dtype=int)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(set(rows.tolist())) < len(rows):
        raise ValueError(f"initial={initial!r} is not a 1-D array of distinct row numbers")
    if not 0 <= rows.min() <= rows.max() < n:
        raise ValueError(
            f"initial contains row {rows.min() if rows.min() < 0 else rows.max()}, but the pool has rows 0 to {n - 1}"
        )
    if n_initial:
        raise ValueError(f"n_initial={n_initial} must be 0 if initial is given, as here with {len(rows)} rows")
    return rows


def _has(name: str) -> Callable[[Any], bool]:
    def check(self: Any) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), name)
        return True

    return check


class _FitsAndPredicts(HasMethods):
    """An object that has the methods, or gains them by its fit."""

    def is_satisfied_by(self, val: Any) -> bool:
        return super().is_satisfied_by(val) or gains_methods_by_fit(val)


class ActiveClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier trained by a simulated labelling loop: `fit` receives all labels but trains on the queried ones.

    The choices of active learning become parameters. ``GridSearchCV`` searches them, and ``cross_val_score`` measures
    the accuracy that a labelling budget buys.

    Parameters
    ----------
    estimator : classifier
        Cloned. With ``warm_start``, training continues from round to round.
    query : Query, callable or None, default=None
        The strategy. :class:`Query` makes its keywords searchable, for example as ``query__lam``. None uses
        :func:`skal.query.uherding_sampling`.
    n_queries : int, default=20
    batch_size : int, default=10
        Labels per query. The last query takes what is left of the pool.
    n_initial : int, default=0
        Rows labelled at random before the first query. With 0, the strategy also chooses the first batch.
    use_pool : bool or "auto", default="auto"
        Whether every fit receives the pool as `X_unlabeled`, to train on images without their labels. "auto" does so if
        the estimator's `takes` lists `X_unlabeled`, as for :class:`FrozenPrefixClassifier` with the default recipe.
    target_score : float, default=None
        Stop as soon as ``history_["score"]`` reaches this value. None uses the whole budget.
    random_state : int, RandomState or None, default=None
        Draws the initial rows. Also seeds the strategy and the estimator if their own ``random_state`` is not set.

    Attributes
    ----------
    estimator_ : classifier
        Fitted on the queried rows.
    queried_ : ndarray of int
        Rows of X that were labelled, in the order of their queries.
    history_ : dict of str to ndarray
        One entry per round. ``labels`` is the number of labels. ``score`` is the accuracy on the rows not labelled yet
        (on all rows if none is left), which is known only in a simulation. It is NaN while all labels are of one class.
    classes_ : ndarray of shape (n_classes,)
        All classes of y. A class that was never queried has probability 0.
    n_features_in_ : int
        As in `estimator_`, if defined there.

    See Also
    --------
    skal.experiment.run_experiment : learning curves of many strategies and data sets.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skal import Query, random_sampling
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = LogisticRegression(max_iter=1000)
    >>> active = ActiveClassifier(classifier, Query(random_sampling), n_queries=3, random_state=0)
    >>> active.fit(X, y).history_["labels"]
    array([10, 20, 30])
    >>> GridSearchCV(active, {"estimator__C": [0.1, 1], "n_queries": [2, 4]}).fit(X, y).best_params_["n_queries"]
    4
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [_FitsAndPredicts(["fit", "predict"])],
        "query": [callable, None],
        "n_queries": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_initial": [Interval(Integral, 0, None, closed="left")],
        "use_pool": ["boolean", StrOptions({"auto"})],
        "target_score": [Interval(Real, 0, 1, closed="both"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        query: Callable[..., Any] | None = None,
        *,
        n_queries: int = 20,
        batch_size: int = 10,
        n_initial: int = 0,
        use_pool: bool | str = "auto",
        target_score: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.estimator = estimator
        self.query = query
        self.n_queries = n_queries
        self.batch_size = batch_size
        self.n_initial = n_initial
        self.use_pool = use_pool
        self.target_score = target_score
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, **fit_params: Any) -> ActiveClassifier:
        """Run the labelling loop, answering queries from y.

        Parameters
        ----------
        X : array-like of length n
            The pool, in any form the estimator accepts.
        y : array-like of shape (n,)
        **fit_params
            Further arguments of the estimator's fit in every round, such as source data. Those whose name begins with
            ``sample_`` are reduced to the labelled rows. With metadata routing enabled, arguments that the estimator
            requests are passed on. A search cuts every array as long as X to the rows of a fold. Wrap source data in
            :class:`skal.Pool` to pass it whole.

        Returns
        -------
        self : ActiveClassifier

        Raises
        ------
        ValueError
            If a parameter is out of range, X and y differ in length, or the estimator or strategy rejects its data.
        TypeError
            If metadata routing is enabled and the estimator does not request one of `fit_params`.
        """
        self._validate_params()
        if get_config()["enable_metadata_routing"]:
            fit_params = process_routing(self, "fit", **fit_params).estimator.fit
        y_pool = check_labels(self, X, y)
        (X,) = indexable(X)
        random_state = check_random_state(self.random_state)
        seed = random_state.randint(2**31 - 1)
        estimator = with_seeds(clone(self.estimator), None if self.random_state is None else random_state)

        history: dict[str, list[float]] = {"labels": [], "score": []}
        rounds = labelling_rounds(
            estimator,
            uherding_sampling if self.query is None else self.query,
            X,
            y_pool,
            n_queries=self.n_queries,
            batch_size=self.batch_size,
            n_initial=self.n_initial,
            seed=seed,
            fit_params=fit_params,
            use_pool=self.use_pool,
        )
        for learner, *_ in rounds:
            labelled = learner.labelled
            score = np.nan
            if len(np.unique(y_pool[labelled])) > 1:
                rows = np.setdiff1d(np.arange(len(y_pool)), labelled)
                rows = rows if len(rows) else labelled
                score = float(np.mean(learner.predict(_safe_indexing(X, rows)) == y_pool[rows]))
            history["labels"].append(len(labelled))
            history["score"].append(score)
            if self.target_score is not None and score >= self.target_score:
                break
        self.estimator_ = estimator
        self.classes_ = np.unique(y_pool)
        self.queried_ = labelled
        self.history_ = {name: np.array(values) for name, values in history.items()}
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """Routing of the arguments of `fit` to the estimator; see scikit-learn's metadata routing.

        Returns
        -------
        routing : MetadataRouter
        """
        router = MetadataRouter(owner=self.__class__.__name__).add_self_request(self)
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return router.add(estimator=self.estimator, method_mapping=mapping)

    @property
    def n_features_in_(self) -> int:
        check_is_fitted(self)
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        check_is_fitted(self)
        return self.estimator_.feature_names_in_

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class.

        Parameters
        ----------
        X : array-like of length n

        Returns
        -------
        y : ndarray of shape (n,)
        """
        check_is_fitted(self)
        return self.estimator_.predict(X)

    @available_if(_has("predict_proba"))
    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of length n

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Columns in the order of `classes_`.
        """
        check_is_fitted(self)
        found = self.estimator_.predict_proba(X)
        proba = np.zeros((len(found), len(self.classes_)), dtype=found.dtype)
        proba[:, np.searchsorted(self.classes_, self.estimator_.classes_)] = found
        return proba

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def with_seeds(estimator: BaseEstimator, random_state: np.random.RandomState | None) -> BaseEstimator:
    """Set every unset ``random_state``, at any depth and in place, from a generator. None changes nothing."""
    if random_state is None:
        return estimator
    unset = [name for name, value in _parameters(estimator, "random_state").items() if value is None]
    return estimator.set_params(**{name: random_state.randint(2**31 - 1) for name in unset})


def _parameters(estimator: BaseEstimator, name: str) -> dict[str, Any]:
    """The parameters of this name at any depth, sorted."""
    return {path: value for path, value in sorted(estimator.get_params().items()) if path.split("__")[-1] == name}
