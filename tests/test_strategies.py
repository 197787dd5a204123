"""The contract of query strategies, tested for the whole registry."""

import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from modAL.models import ActiveLearner, Committee
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing

import skal.query
from skal import ActiveClassifier, Query, SourceProfile
from skal.active import Learner
from skal.query import STRATEGIES
from tests.conftest import SMALL, Images
from tests.reference import Given, PlainQuery, indices_of, plain_versions

PLAIN, ALTERNATIVES = plain_versions()
FAST = {"aift": {"patches": 4}, "emoc_set": {"n_sets": 20}, "set": {"n_sets": 20}}
QUERIES = {name: Query(strategy.function, **FAST.get(name, {})) for name, strategy in STRATEGIES.items()}
for name, strategy in STRATEGIES.items():
    if strategy.batch == "either":
        default = inspect.signature(strategy.function).parameters["batch"].default
        other = "top" if default == "herding" else "herding"
        QUERIES[f"{name}, {other}"] = Query(strategy.function, batch=other)


def query_of(name, **keywords):
    seed = {"random_state": 0} if QUERIES[name].takes("random_state") else {}
    return clone(QUERIES[name]).set_params(**(seed | keywords))


def test_the_registry_holds_every_strategy():
    exported = {name for name in skal.query.__all__ if name.endswith("_sampling")}
    assert {f"{name}_sampling" for name in STRATEGIES} == exported
    for name, strategy in STRATEGIES.items():
        assert strategy.function is getattr(skal.query, f"{name}_sampling")
        assert (strategy.batch == "either") == Query(strategy.function).takes("batch")
    assert list(STRATEGIES) == sorted(STRATEGIES)


def test_only_those_that_need_no_labels_choose_without_a_classifier(pixels):
    X, _ = pixels
    for name, strategy in STRATEGIES.items():
        if not (strategy.needs_labels or strategy.needs_source):
            query_of(name)(Unfitted(), X.reshape(len(X), -1), 3)


class Unfitted:
    """Has no classes and raises when predicting."""

    def predict_proba(self, X):
        raise AssertionError("asked for predictions")


@pytest.fixture(params=QUERIES)
def name(request):
    return request.param


def twice(images):
    """Patches that do not depend on whether the image was flipped first."""
    return np.stack([images, images], axis=1)


def flipped(images):
    return np.ascontiguousarray(np.asarray(images)[:, :, ::-1])


@pytest.mark.parametrize("n_labels", [0, 12])
def test_a_batch_is_distinct_rows_of_the_pool(name, n_labels, classifier, pixels):
    X, y = pixels
    learner = ActiveLearner(classifier, query_strategy=query_of(name))
    if n_labels:
        learner.teach(X[:n_labels], y[:n_labels])
    for n_instances in (1, 7):
        rows, images = learner.query(X[12:], n_instances=n_instances)
        assert rows.shape == (n_instances,)
        assert len(set(rows.tolist())) == n_instances
        np.testing.assert_array_equal(images, X[12:][rows])


def test_the_same_seed_gives_the_same_batch(name, classifier, pixels):
    X, y = pixels
    classifier.fit(X[:12], y[:12])
    batches = [np.asarray(query_of(name)(classifier, X[12:], 5)) for _ in range(2)]
    np.testing.assert_array_equal(*batches)
    unpickled = pickle.loads(pickle.dumps(clone(query_of(name))))
    np.testing.assert_array_equal(unpickled(classifier, X[12:], 5), batches[0])


def test_a_query_leaves_the_learner_as_it_was(name, classifier, pixels):
    X, y = pixels
    learner = ActiveLearner(classifier, query_strategy=query_of(name), X_training=X[:12], y_training=y[:12])
    before = {k: v.clone() for k, v in classifier.net_.module_.state_dict().items()}
    proba = classifier.predict_proba(X)
    learner.query(X[12:], n_instances=3)
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)
    assert all((v == before[k]).all() for k, v in classifier.net_.module_.state_dict().items())
    assert len(learner.X_training) == 12


@pytest.mark.parametrize("n_instances", [0, 29, 1.5, True, -1])
def test_impossible_numbers_are_named(name, n_instances, classifier, pixels):
    with pytest.raises(ValueError, match=f"n_instances={n_instances} must be an integer from 1 to"):
        query_of(name)(classifier, pixels[0][12:], n_instances)


def test_an_empty_pool_is_named(name, classifier, pixels):
    with pytest.raises(ValueError, match="X_pool is empty"):
        query_of(name)(classifier, pixels[0][:0], 1)


def test_files_are_a_pool(name, classifier, files):
    X, y = files
    classifier.fit(X[:12], y[:12])
    of_array = query_of(name)(classifier, X[12:], 4)
    np.testing.assert_array_equal(query_of(name)(classifier, list(X[12:]), 4), of_array)


ODD = 1.5 * np.arange(40)[::-1]  # an index whose labels are not positions
FORMS = {
    "list of arrays": lambda pixels, paths: list(pixels),
    "list of PIL images": lambda pixels, paths: [Image.fromarray(image) for image in pixels],
    "data set": lambda pixels, paths: Images([(Image.fromarray(image), 0) for image in pixels]),
    "paths": lambda pixels, paths: paths,
    "Series of paths": lambda pixels, paths: pd.Series(paths, index=ODD),
    "Index of paths": lambda pixels, paths: pd.Index(paths),
    "frame of paths": lambda pixels, paths: pd.DataFrame({"path": paths}, index=ODD),
}


def test_any_form_of_images_gives_the_same_batch(name, classifier, pixels, files):
    X, y = pixels
    classifier.fit(X[:12], y[:12])
    batches = {}
    for form, images in {"array": X, **{form: make(X, files[0]) for form, make in FORMS.items()}}.items():
        learner = Learner(classifier, images, y)
        learner.labelled = np.arange(12)
        batches[form] = query_of(name)(learner, _safe_indexing(images, np.arange(12, 40)), 4).tolist()
    assert batches == dict.fromkeys(batches, batches["array"])


def test_the_earlier_steps_of_a_pipeline_are_applied(name, classifier, pixels):
    X, y = pixels
    pipeline = make_pipeline(FunctionTransformer(flipped), clone(classifier)).fit(flipped(X[:12]), y[:12])
    classifier.fit(X[:12], y[:12])
    options = {"patches": twice} if name == "aift" else {}
    direct = query_of(name, **options)(classifier, X[12:], 4)
    np.testing.assert_array_equal(query_of(name, **options)(pipeline, flipped(X[12:]), 4), direct)


def test_a_committee_is_a_learner(name, classifier, pixels):
    X, y = pixels
    members = [ActiveLearner(clone(classifier).set_params(random_state=s)) for s in range(2)]
    committee = Committee(members, query_strategy=query_of(name))
    committee.teach(X[:12], y[:12])
    rows, _ = committee.query(X[12:], n_instances=3)
    assert len(set(rows.tolist())) == 3


@pytest.mark.parametrize(
    "name", [name for name, known in STRATEGIES.items() if not known.needs_gradients | known.needs_source]
)
def test_the_classifier_may_be_certain_of_everything(name):
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    certain = KNeighborsClassifier(1).fit(X[:8], np.arange(8) % 2)
    options = {"patches": twice} if name == "aift" else {}
    assert len(set(query_of(name, **options)(certain, X, 6).tolist())) == 6


def test_it_runs_in_the_labelling_loop(name, classifier, pixels):
    X, y = pixels
    query = QUERIES[name]
    fits = [
        ActiveClassifier(classifier, query, n_queries=3, batch_size=4, random_state=0).fit(X, y).queried_
        for _ in range(2)
    ]
    assert len(set(fits[0])) == 12
    np.testing.assert_array_equal(*fits)


def test_a_dask_array_is_a_pool(name, classifier, pixels):
    dask = pytest.importorskip("dask")
    array = pytest.importorskip("dask.array")
    X, y = pixels
    classifier.fit(X[:12], y[:12])
    of_array = query_of(name)(classifier, X[12:], 4)
    with dask.config.set(scheduler="synchronous"):
        rows = query_of(name)(classifier, array.from_array(X[12:], chunks=(9, -1, -1, -1)), 4)
    np.testing.assert_array_equal(rows, of_array)


# Every keyword, and every plain version ------------------------------------------------------------------------------


def keywords(name):
    """Keywords of a strategy and their defaults."""
    parameters = inspect.signature(STRATEGIES[name].function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def values(name, keyword):
    """Values of a keyword other than its default."""
    return ALTERNATIVES[name].get(keyword, [1] if keyword == "random_state" else [])


PAIRS = [(name, keyword) for name in STRATEGIES for keyword in keywords(name)]


@pytest.fixture
def setting(convnet, classifier, pixels, source_images):
    """A fitted learner, a pool, and values for keywords."""
    X, y = pixels
    profile = SourceProfile(convnet, layers=[(-4, -2), (-5, -2)], preprocess=SMALL).fit(*source_images)
    learner = ActiveLearner(classifier.set_params(source=profile, max_epochs=1), X_training=X[:12], y_training=y[:12])
    other = SourceProfile(convnet, layers=[(-4, -2)], preprocess=SMALL).fit(*source_images)
    given = {"X_source": source_images[0], "profile": other, "X_reference": X[:4], "y_pool": y[12:]}
    return SimpleNamespace(learner=learner, pool=X[12:], given=given)


def test_every_keyword_has_other_values():
    assert set(ALTERNATIVES) == set(STRATEGIES), "tests/reference says what to try of every strategy"
    for name, keyword in PAIRS:
        others = values(name, keyword)
        assert others, f"{keyword} of {name}_sampling is not tested: give ALTERNATIVES a value in tests/reference"
        assert all(other is not keywords(name)[keyword] for other in others)


@pytest.mark.parametrize(("name", "keyword"), PAIRS)
def test_another_value_of_a_keyword_is_a_batch_too(name, keyword, setting):
    seed = {"random_state": 0} if "random_state" in keywords(name) else {}
    for value in values(name, keyword):
        value = setting.given[value] if isinstance(value, Given) else value
        query = indices_of(Query(STRATEGIES[name].function, **(FAST.get(name, {}) | seed | {keyword: value})))
        picks = query(setting.learner, setting.pool, 5)
        assert len(set(picks.tolist())) == 5
        assert set(picks.tolist()) <= set(range(len(setting.pool)))
        np.testing.assert_array_equal(query(setting.learner, setting.pool, 5), picks)


@pytest.mark.parametrize(("name", "keyword"), PAIRS)
def test_a_keyword_out_of_range_is_named_before_any_work(name, keyword):
    function = STRATEGIES[name].function
    if function._skl_parameter_constraints[keyword] != "no_validation":
        with pytest.raises(ValueError, match=f"The '{keyword}' parameter of {name}_sampling must be"):
            function(Unfitted(), np.zeros((9, 2)), 2, **{keyword: Unfitted()})


DIGITS, LABELS = load_digits(return_X_y=True)
POOL = DIGITS[300:550] / 16


@pytest.mark.parametrize("n_labels", [0, 12, 60])
@pytest.mark.parametrize("name", PLAIN)
def test_the_batch_is_that_of_the_plain_version(name, n_labels):
    rows = np.argsort(LABELS[:300], kind="stable")[:: 300 // n_labels] if n_labels else []
    X, y = DIGITS[rows] / 16, LABELS[rows]
    model = LogisticRegression(max_iter=3000)
    learner = ActiveLearner(model, X_training=X, y_training=y) if n_labels else ActiveLearner(model)
    plain = PlainQuery(
        POOL, X, y, model.predict_proba(POOL) if n_labels else None, 8, np.random.RandomState(3), clone(model)
    )
    seed = {"random_state": 3} if "random_state" in keywords(name) else {}
    picks = indices_of(STRATEGIES[name].function)(learner, POOL, 8, **seed)
    assert picks.tolist() == list(PLAIN[name](plain))
