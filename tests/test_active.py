"""The labelling loop inside fit: what it queries, when it stops, and that scikit-learn can search it."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from modAL.batch import ranked_batch, uncertainty_batch_sampling
from modAL.models import ActiveLearner
from modAL.uncertainty import classifier_margin, margin_sampling
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import _safe_indexing

from skal import ActiveClassifier, Query, adma_sampling, random_sampling
from skal.active import labelling_rounds
from skal.images.forms import Pool
from skal.query import uherding_sampling

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]


def active(query=None, estimator=None, **params):
    estimator = LogisticRegression(max_iter=2000) if estimator is None else estimator
    options = {"n_queries": 4, "batch_size": 5, "random_state": 0} | params
    return ActiveClassifier(estimator, query or Query(margin_sampling), **options)


def test_the_estimator_learns_from_the_queried_rows_alone():
    seen = []

    def spy(learner, X_pool, n_instances=1):
        seen.append((learner.X_training, learner.y_training, len(X_pool)))
        return np.arange(n_instances)  # always the first remaining rows

    fitted = active(spy, n_initial=30).fit(X, NAMES)
    assert len(set(fitted.queried_)) == 50
    for t, (rows, labels, left) in enumerate(seen):
        n = 30 + 5 * t
        np.testing.assert_array_equal(rows, X[fitted.queried_[:n]])
        np.testing.assert_array_equal(labels, NAMES[fitted.queried_[:n]])
        assert left == 150 - n
    # The first remaining rows, five at a time.
    left = np.setdiff1d(np.arange(150), fitted.queried_[:30])
    np.testing.assert_array_equal(fitted.queried_[30:], left[:20])
    expected = LogisticRegression(max_iter=2000).fit(X[fitted.queried_], NAMES[fitted.queried_])
    np.testing.assert_allclose(fitted.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(fitted.history_["labels"], [30, 35, 40, 45, 50])
    rest = np.setdiff1d(np.arange(150), fitted.queried_)
    assert fitted.history_["score"][-1] == pytest.approx(expected.score(X[rest], NAMES[rest]))


def test_the_same_seed_asks_the_same():
    first, second = (active(Query(random_sampling)).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.queried_, second.queried_)
    other = active(Query(random_sampling), random_state=1).fit(X, Y)
    assert not np.array_equal(first.queried_, other.queried_)
    assert len(set(first.queried_)) == 20  # each round makes new draws
    fixed = active(Query(random_sampling, random_state=3)).fit(X, Y)
    np.testing.assert_array_equal(fixed.queried_, active(Query(random_sampling, random_state=3)).fit(X, Y).queried_)


def test_an_unseeded_estimator_takes_the_seed_of_the_loop():
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(5))
    first, second = (active(estimator=forest).fit(X, Y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert forest[-1].random_state is None
    own = active(estimator=RandomForestClassifier(5, random_state=7)).fit(X, Y)
    assert own.estimator_.random_state == 7


def test_stops_at_the_target_the_budget_or_the_end_of_the_pool():
    fitted = active(Query(random_sampling), n_queries=20, target_score=0.9).fit(X, Y)
    scores = fitted.history_["score"]
    assert scores[-1] >= 0.9
    assert not (scores[:-1] >= 0.9).any()
    whole = active(n_queries=100, batch_size=40).fit(X, Y)
    np.testing.assert_array_equal(whole.history_["labels"], [40, 80, 120, 150])
    assert sorted(whole.queried_) == list(range(150))
    np.testing.assert_array_equal(active(n_queries=2, n_initial=200).fit(X, Y).history_["labels"], [150])


def test_a_single_class_is_no_crash():
    # Sorted by class: modAL's margin sampling starts with the first rows, all of one class.
    fitted = active(n_queries=6, batch_size=10).fit(X, NAMES)
    assert np.isnan(fitted.history_["score"][0])
    assert len(fitted.classes_) == 3


def test_a_class_that_was_never_queried_has_probability_zero():
    first = Query(lambda learner, X_pool, n_instances=1: np.arange(n_instances))
    fitted = active(first, n_queries=6, batch_size=10).fit(X, NAMES)  # the first 60 rows: two classes
    np.testing.assert_array_equal(fitted.classes_, ["setosa", "versicolor", "virginica"])
    np.testing.assert_array_equal(fitted.estimator_.classes_, ["setosa", "versicolor"])
    proba = fitted.predict_proba(X)
    assert (proba[:, 2] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert np.isfinite(cross_val_score(fitted, X, NAMES, cv=3, scoring="roc_auc_ovr")).all()


@pytest.mark.parametrize("form", ["list", "frame", "sparse"])
def test_forms_of_data(form):
    import pandas as pd
    from scipy import sparse

    data = {"list": X.tolist(), "frame": pd.DataFrame(X, columns=list("abcd")), "sparse": sparse.coo_matrix(X)}[form]
    fitted = active(Query(random_sampling)).fit(data, Y)
    assert fitted.score(data, Y) > 0.8
    assert fitted.n_features_in_ == 4
    assert (form == "frame") == hasattr(fitted, "feature_names_in_")


def test_searches_pipelines_and_scores():
    digits = load_digits()
    X, y = digits.data[:300], digits.target[:300]
    base = active(n_queries=6, batch_size=10, n_initial=20)
    grid = {"query": [Query(margin_sampling), Query(random_sampling)], "estimator__C": [0.01, 1]}
    one, two = (GridSearchCV(base, grid, cv=2, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    assert one.best_params_["estimator__C"] == two.best_params_["estimator__C"]
    halving = HalvingGridSearchCV(
        base, {"estimator__C": [0.01, 0.1, 1]}, resource="n_queries", max_resources=9, min_resources=1, cv=2
    ).fit(X, y)
    assert halving.best_score_ > 0.5
    assert halving.n_resources_ == [1, 3]
    inside = active(estimator=make_pipeline(StandardScaler(), LogisticRegression()))
    outside = make_pipeline(StandardScaler(), base)
    for estimator in (inside, outside):
        assert cross_val_score(estimator, X, y, cv=2, n_jobs=2).mean() > 0.5


def test_the_default_strategy_is_uherding():
    X, y = load_iris(return_X_y=True)
    options = {"n_queries": 3, "batch_size": 5, "random_state": 0}
    chosen = ActiveClassifier(LogisticRegression(max_iter=2000), **options).fit(X, y).queried_
    named = ActiveClassifier(LogisticRegression(max_iter=2000), uherding_sampling, **options).fit(X, y).queried_
    np.testing.assert_array_equal(chosen, named)


def test_search_of_a_query_keyword_over_images(classifier, pixels):
    X, y = pixels
    search = GridSearchCV(
        ActiveClassifier(classifier, Query(adma_sampling), n_queries=2, batch_size=6, random_state=0),
        {"query__lam": [0.0, 0.5], "estimator__n_frozen": [2, 3]},
        cv=2,
    ).fit(X, y)
    assert search.best_score_ > 0.4
    assert set(search.best_params_) == {"query__lam", "estimator__n_frozen"}
    assert search.best_estimator_.estimator_.source is classifier.source


def test_warm_start_continues_between_rounds(classifier, pixels):
    X, y = pixels
    warm = clone(classifier).set_params(warm_start=True, max_epochs=0)
    fitted = ActiveClassifier(warm, Query(random_sampling), n_queries=4, batch_size=5, random_state=0).fit(X, y)
    assert fitted.score(X, y) > 0.5


def test_without_probabilities_there_are_none():
    fitted = active(Query(random_sampling), estimator=LinearSVC()).fit(X, Y)
    assert not hasattr(fitted, "predict_proba")
    assert hasattr(active(), "predict_proba")


@pytest.mark.parametrize("warm_start", [False, True])
def test_known_rounds_are_continued_as_if_never_stopped(classifier, pixels, warm_start):
    X, y = pixels
    estimator = classifier.set_params(warm_start=warm_start)
    options = {"n_queries": 4, "batch_size": 4, "n_initial": 6, "seed": 5}
    query = Query(adma_sampling, lam=0.3, uncertainty="margin")
    whole = list(labelling_rounds(clone(estimator), query, X, y, **options))
    rows = [round.queried for round in whole]
    expected = whole[-1].learner.predict_proba(X)
    for done in (1, 3):
        rest = list(labelling_rounds(clone(estimator), query, X, y, known=rows[:done], **options))
        assert len(rest) == 5 - done
        for round, queried in zip(rest, rows[done:], strict=True):
            np.testing.assert_array_equal(round.queried, queried)
        np.testing.assert_array_equal(rest[-1].learner.labelled, whole[-1].learner.labelled)
        np.testing.assert_allclose(rest[-1].learner.predict_proba(X), expected, atol=1e-6)


LABELS = {
    "list": lambda y: y.tolist(),
    "Series": lambda y: pd.Series(y, index=np.random.RandomState(0).permutation(len(y))),
    "Series with a repeated index": lambda y: pd.Series(y, index=np.zeros(len(y))),
    "categories": lambda y: pd.Series(y, dtype="category"),
    "tensor": torch.from_numpy,
}


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("form", LABELS)
def test_labels_and_rows_are_those_of_their_positions(form, frame):
    labels = LABELS[form](Y)
    pool = pd.DataFrame(X, columns=list("abcd"), index=np.random.RandomState(1).permutation(150)) if frame else X
    rounds = labelling_rounds(LogisticRegression(), random_sampling, pool, labels, n_queries=3, batch_size=10, seed=0)
    for learner, *_ in rounds:
        np.testing.assert_array_equal(learner.y_training, Y[learner.labelled])
        np.testing.assert_array_equal(learner.X_training, X[learner.labelled])
    assert learner.estimator.score(pool, Y) > 0.9


@pytest.mark.parametrize("n_initial", [0, 3])
def test_an_empty_pool_is_named(n_initial):
    with pytest.raises(ValueError, match="X is empty: there is nothing to label"):
        active(n_initial=n_initial).fit(X[:0], Y[:0])


def test_labels_that_are_no_classes_are_named_before_any_work():
    for labels, message in [(Y[:-1], "different lengths"), (np.linspace(0, 1, 150), "Unknown label type")]:
        with pytest.raises(ValueError, match=message):
            next(labelling_rounds(None, random_sampling, X, labels, n_queries=1, batch_size=1))


def ranked_by_margin(classifier, X, n_instances=1):
    return ranked_batch(classifier, X, 1 - classifier_margin(classifier, X), n_instances, "euclidean", None)


@pytest.mark.parametrize("n_initial", [0, 10])
@pytest.mark.parametrize("strategy", [uncertainty_batch_sampling, ranked_by_margin])
def test_ranked_batches_of_modal(strategy, n_initial):
    fitted = active(strategy, n_initial=n_initial).fit(X, NAMES)
    n_labels = n_initial + 20
    assert len(set(fitted.queried_)) == n_labels
    learner = ActiveLearner(LogisticRegression(max_iter=2000), query_strategy=Query(strategy))
    if n_initial:
        learner.teach(X[fitted.queried_[:10]], NAMES[fitted.queried_[:10]])
    left = np.setdiff1d(np.arange(150), fitted.queried_[:n_initial])
    np.testing.assert_array_equal(left[learner.query(X[left], n_instances=5)[0]], fitted.queried_[n_initial:][:5])


@pytest.mark.parametrize("strategy", [uherding_sampling, margin_sampling, random_sampling])
@pytest.mark.parametrize("n_initial", [0, 30])
def test_an_estimator_may_have_predict_only_after_its_fit(strategy, n_initial):
    stacking = StackingClassifier([("a", LogisticRegression(max_iter=2000))], cv=2)
    for estimator in (stacking, make_pipeline(StandardScaler(), stacking)):
        fitted = active(strategy, estimator, n_initial=n_initial, batch_size=20).fit(X, NAMES)
        assert len(set(fitted.queried_)) == n_initial + 80
        assert fitted.score(X, NAMES) > 0.6  # without labels, modAL's margin sampling takes the first rows of a class
        assert fitted.predict_proba(X).shape == (150, 3)


def test_the_learner_looks_like_modals(classifier, pixels):
    X, y = pixels
    (round, *_) = labelling_rounds(classifier, Query(random_sampling), X, y, n_queries=1, batch_size=9, seed=0)
    learner = round.learner
    np.testing.assert_array_equal(learner.X_training, _safe_indexing(X, round.queried))
    assert learner.estimator is classifier
    np.testing.assert_array_equal(learner.predict(X), classifier.predict(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_queries": 0}, "'n_queries' parameter .* 0"),
        ({"batch_size": 1.5}, "'batch_size' parameter .* 1.5"),
        ({"n_initial": -1}, "'n_initial' parameter .* -1"),
        ({"target_score": 2}, "'target_score' parameter .* 2"),
        ({"query": 3}, "'query' parameter .* 3"),
        ({"estimator": StandardScaler()}, "'estimator' parameter"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        active().set_params(**params).fit(X, Y)


def test_bad_data_is_refused():
    for data, labels, message in [
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X, None, "requires y to be passed"),
        (X, np.linspace(0, 1, 150), "Unknown label type"),
    ]:
        with pytest.raises(ValueError, match=message):
            active().fit(data, labels)


class TestQuery:
    def test_keywords_are_parameters(self):
        query = Query(adma_sampling, lam=0.1)
        assert query.get_params() == {"strategy": adma_sampling, "lam": 0.1}
        assert clone(query.set_params(alpha="predict")).keywords == {"lam": 0.1, "alpha": "predict"}
        assert query.set_params(strategy=margin_sampling, lam=1).strategy is margin_sampling  # it takes any keyword

    def test_calls_the_strategy(self):
        query = Query(random_sampling, random_state=0)
        np.testing.assert_array_equal(query(None, range(100), 3), random_sampling(None, range(100), 3, random_state=0))
        np.testing.assert_array_equal(query(None, range(100), 3, random_state=1), query(None, range(100), 3))

    def test_unknown_keywords_are_refused_at_once(self):
        with pytest.raises(
            ValueError, match=r"adma_sampling does not accept the keyword 'lamda'; it accepts \['lam', 't', 'alpha'"
        ):
            Query(adma_sampling, lamda=0.1)
        query = Query(adma_sampling, lam=0.1)
        with pytest.raises(ValueError, match="the keyword 'n_instances' of adma_sampling is set by each call"):
            query.set_params(n_instances=4)
        assert query.keywords == {"lam": 0.1}
        with pytest.raises(ValueError, match=r"strategy='adma' is not callable; pass a function, such as skal\.query"):
            Query("adma")


def test_the_loop_gives_adma_the_number_of_its_first_query(classifier, pixels):
    asked = []

    def spy(learner, X_pool, n_instances=1, *, n_initial=0, random_state=None):
        asked.append((n_initial, random_state))
        return np.arange(n_instances)

    X, y = pixels
    options = {"n_queries": 2, "batch_size": 3, "n_initial": 7, "random_state": 0}
    ActiveClassifier(classifier, spy, **options).fit(X, y)
    assert [n_initial for n_initial, _ in asked] == [7, 7]
    assert len({seed for _, seed in asked}) == 2
    asked.clear()
    ActiveClassifier(classifier, partial(spy, random_state=3), **options).fit(X, y)
    assert [seed for _, seed in asked] == [3, 3]


@pytest.mark.parametrize("answer", [[0, 0, 1], [0, 1], [0, 1, 500], [-1, 0, 1]])
def test_a_strategy_that_does_not_answer_is_named(answer):
    with pytest.raises(ValueError, match="instead of 3 distinct positions from 0 to 149"):
        active(Query(lambda learner, X_pool, n_instances=1: np.array(answer)), batch_size=3).fit(X, Y)


@pytest.mark.parametrize("sizes", [{"n_queries": -1}, {"batch_size": 0}, {"n_initial": -5}])
def test_impossible_sizes_of_the_loop(sizes):
    options = {"n_queries": 1, "batch_size": 1} | sizes
    (name,) = sizes
    with pytest.raises(ValueError, match=f"{name}={sizes[name]} is not an integer"):
        next(labelling_rounds(LogisticRegression(), Query(random_sampling), X, Y, **options))


class Sourced(ClassifierMixin, BaseEstimator):
    """A classifier that takes source data and records what it received."""

    __metadata_request__fit = {"X_source": True, "y_source": True, "sample_weight": True}  # noqa: RUF012

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y, sample_weight=None, *, X_source=None, y_source=None):
        self.given_ = {"n": len(X), "weight": sample_weight, "X_source": X_source, "y_source": y_source}
        self.model_ = LogisticRegression(C=self.C, max_iter=2000).fit(X, y, sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


@pytest.fixture(params=[False, True], ids=["routing off", "routing on"])
def routing(request):
    with config_context(enable_metadata_routing=request.param):
        yield request.param


@pytest.mark.parametrize("n_source", [10, 150], ids=["another length", "as long as X"])
def test_a_search_passes_source_data_whole(routing, n_source):
    X_source, y_source = Pool(X[:n_source]), Pool(Y[:n_source])
    base = active(Query(random_sampling), Sourced(), n_initial=9)
    search = GridSearchCV(base, {"estimator__C": [0.1, 1]}, cv=3, error_score="raise")
    search.fit(X, Y, X_source=X_source, y_source=y_source)
    given = search.best_estimator_.estimator_.given_
    assert given["X_source"] is X_source
    assert given["y_source"] is y_source
    scores = cross_val_score(base, X, Y, cv=3, params={"X_source": X_source, "y_source": y_source})
    assert len(scores) == 3


def test_of_weights_the_labelled_rows_are_passed(routing):
    weights = np.arange(1.0, 151)
    fitted = active(Query(random_sampling), Sourced(), n_initial=9).fit(X, Y, sample_weight=weights)
    np.testing.assert_array_equal(fitted.estimator_.given_["weight"], weights[fitted.queried_])
    assert active(Query(random_sampling), Sourced()).fit(X, Y, sample_weight=None).estimator_.given_["weight"] is None


def test_of_weights_of_a_step_the_labelled_rows_are_passed():
    weights = np.arange(1.0, 151)
    inside = make_pipeline(StandardScaler(), Sourced())
    fitted = active(Query(random_sampling), inside, n_initial=9).fit(X, Y, sourced__sample_weight=weights)
    np.testing.assert_array_equal(fitted.estimator_[-1].given_["weight"], weights[fitted.queried_])


def test_what_the_estimator_does_not_request_is_named():
    with config_context(enable_metadata_routing=True):
        with pytest.raises(TypeError, match="X_other"):
            active(Query(random_sampling), Sourced()).fit(X, Y, X_other=X)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            active(Query(random_sampling)).fit(X, Y, sample_weight=np.ones(150))
        requests = LogisticRegression(max_iter=2000).set_fit_request(sample_weight=True)
        active(Query(random_sampling), requests).fit(X, Y, sample_weight=np.ones(150))


def test_an_interrupt_leaves_the_earlier_fit():
    def interrupting(learner, X_pool, n_instances=1):
        if len(X_pool) < 140:
            raise KeyboardInterrupt
        return np.arange(0, 140, 28)[:n_instances]

    fitted = active(Query(random_sampling)).fit(X, Y)
    before = fitted.queried_, fitted.predict_proba(X)
    with pytest.raises(KeyboardInterrupt):
        fitted.set_params(query=interrupting).fit(X, Y)
    np.testing.assert_array_equal(fitted.queried_, before[0])
    np.testing.assert_array_equal(fitted.predict_proba(X), before[1])
