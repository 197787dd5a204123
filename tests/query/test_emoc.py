"""EMOC of classifiers, and the images it queries, compared with the plain version."""

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from modAL.models import ActiveLearner, Committee
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import _safe_indexing

from skal import Query
from skal import query as strategies
from skal.active import Learner
from skal.gradients.change import output_change
from tests.conftest import Images
from tests.gradients.networks import close
from tests.query.vectors import CLASSES, POOL, REFERENCE, blank, oracle_each, vectors
from tests.reference import indices_of
from tests.reference.emoc import scores_of

OUTPUTS, NORMS = ["logit", "probability"], ["l1", "l2"]

emoc = indices_of(Query(strategies.emoc_sampling, batch="top"))  # the paper's rule
emoc_sets, sets = indices_of(strategies.emoc_set_sampling), indices_of(strategies.set_sampling)


@pytest.fixture(scope="module")
def fitted():
    return blank().fit(vectors(24, 0), CLASSES[np.arange(24) % 3])


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"n_frozen": 0}, {"n_frozen": 3}, {"n_frozen": 2}])
def test_classifier(options):
    estimator = blank(**options).fit(vectors(24, 0), CLASSES[np.arange(24) % 3])
    given = CLASSES[np.arange(20) % 3]
    for output in OUTPUTS:
        change, proba = oracle_each(estimator, output)
        assert_allclose(estimator.predict_proba(POOL), proba, atol=1e-5)
        for labels in ["map", "posterior", "each", given]:
            numbers = labels if isinstance(labels, str) else np.searchsorted(estimator.classes_, labels)
            for norm in NORMS:
                asked = {"output": output, "labels": labels, "norm": norm}
                expected, scores = (
                    scores_of(change, proba, numbers, norm),
                    estimator.output_change(REFERENCE, POOL, **asked),
                )
                close(scores, expected, rtol=1e-3)
        assert_allclose(output_change(estimator, REFERENCE, POOL, **asked), scores, rtol=1e-6)
        learner = ActiveLearner(estimator)
        assert_allclose(output_change(learner, REFERENCE, POOL, **asked), scores, rtol=1e-6)


def test_classifier_names_bad_options(fitted):
    for options, message in [
        ({"output": "x"}, "'x'"),
        ({"labels": "x"}, "'x'"),
        ({"norm": 2}, "2"),
        ({"labels": np.full(20, "cow")}, "cow"),
        ({"labels": CLASSES}, "3"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.output_change(REFERENCE, POOL, **options)
    with pytest.raises(ValueError):
        fitted.output_change(REFERENCE[:0], POOL)
    with pytest.raises(ValueError):
        fitted.output_change(REFERENCE, POOL[:0])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("labels", ["map", "posterior"])
def test_emoc_sampling_takes_the_highest(fitted, output, labels):
    scores = scores_of(*oracle_each(fitted, output), labels)
    options = {"X_reference": REFERENCE, "output": output, "labels": labels, "random_state": 0}
    for n_instances in (1, 5, 20):
        expected = np.argsort(-scores)[:n_instances]
        assert_array_equal(emoc(fitted, POOL, n_instances, **options), expected)
        learner = ActiveLearner(fitted, query_strategy=Query(strategies.emoc_sampling, batch="top"))
        indices, rows = learner.query(POOL, n_instances=n_instances, **options)
        assert_array_equal(indices, expected)
        assert_array_equal(rows, POOL[expected])


def test_emoc_sampling_draws_its_references(fitted):
    every = emoc(fitted, POOL, 20, n_reference=1000, random_state=0)  # more than available: the whole pool is used
    assert_array_equal(every, np.argsort(-scores_of(*oracle_each(fitted, reference=POOL))))
    learner = ActiveLearner(fitted, X_training=vectors(24, 0), y_training=CLASSES[np.arange(24) % 3])
    both = np.concatenate([POOL, vectors(24, 0)])
    expected = np.argsort(-scores_of(*oracle_each(learner.estimator, reference=both)))
    assert_array_equal(emoc(learner, POOL, 20, n_reference=44, random_state=0), expected)
    few = [emoc(fitted, POOL, 20, n_reference=1, random_state=seed).tolist() for seed in (0, 0, 1, 2, 3, 4)]
    assert few[0] == few[1]
    assert len({tuple(picks) for picks in few}) > 1


@pytest.mark.parametrize("form", [pd.DataFrame, np.ndarray.tolist, sparse.csr_matrix])
@pytest.mark.parametrize("strategy", [emoc, emoc_sets])
def test_references_of_any_form_of_features(strategy, form):
    both = np.concatenate([POOL, vectors(24, 0)])
    dense = FunctionTransformer(lambda X: np.asarray(X.toarray() if sparse.issparse(X) else X))
    pipeline = make_pipeline(dense, blank()).fit(vectors(24, 0), CLASSES[np.arange(24) % 3])
    picks = []
    for X in (both, form(both)):
        learner = Learner(pipeline, X, CLASSES[np.arange(44) % 3])
        learner.labelled = np.arange(20, 44)
        picks.append(strategy(learner, X[:20], 5, n_reference=44, random_state=0))
    assert_array_equal(*picks)


@pytest.mark.parametrize("strategy", [emoc, emoc_sets])
def test_references_of_several_sizes(strategy, classifier, pixels):
    X, y = pixels
    classifier.fit(X, y)
    images = [Image.fromarray(image).resize((16 + i % 3, 20)) for i, image in enumerate(X)]
    objects = np.empty(40, dtype=object)
    objects[:] = images
    picks = []
    for pool in (images, objects, Images(images)):
        learner = Learner(classifier, pool, y)
        learner.labelled = np.arange(20, 40)
        picks.append(strategy(learner, _safe_indexing(pool, np.arange(20)), 5, random_state=0))
    assert_array_equal(picks[0], picks[1])
    assert_array_equal(picks[0], picks[2])


@pytest.mark.parametrize("strategy", [strategies.emoc_sampling, strategies.emoc_set_sampling])
def test_estimators_without_gradients(strategy):
    model = LogisticRegression().fit(POOL[:6], np.arange(6) % 3)
    for learner in (model, ActiveLearner(model), make_pipeline(StandardScaler(), LogisticRegression())):
        if not hasattr(learner, "predict_proba") or isinstance(learner, ActiveLearner | LogisticRegression):
            with pytest.raises(ValueError, match="LogisticRegression"):
                strategy(learner, POOL, 2, random_state=0)
        else:
            learner.fit(POOL[:6], np.arange(6) % 3)
            with pytest.raises(ValueError, match="LogisticRegression"):
                strategy(learner, POOL, 2, random_state=0)


@pytest.mark.parametrize("strategy", [emoc, emoc_sets, sets])
def test_unfitted_learners_query_at_random(strategy):
    draws = []
    for seed in (0, 0, 1, 2):
        for learner in (blank(), ActiveLearner(blank())):
            picks = strategy(learner, POOL, 6, random_state=seed)
            assert len(set(picks.tolist())) == 6
            assert set(picks.tolist()) <= set(range(20))
            draws.append(picks.tolist())
    assert draws[0] == draws[1] == draws[2]
    assert len({tuple(picks) for picks in draws}) > 1


def test_pipelines(fitted):
    scaler = StandardScaler().fit(3 + 2 * vectors(40, 9))
    pipeline = make_pipeline(scaler, fitted)
    reference, pool = scaler.transform(REFERENCE), scaler.transform(POOL)
    expected = np.argsort(-scores_of(*oracle_each(fitted, "logit", reference, pool)))
    assert_array_equal(emoc(pipeline, POOL, 20, X_reference=REFERENCE, random_state=0), expected)
    assert_array_equal(emoc(ActiveLearner(pipeline), POOL, 20, X_reference=REFERENCE, random_state=0), expected)
    scores = output_change(pipeline, REFERENCE, POOL)
    assert_allclose(scores, fitted.output_change(reference, pool), rtol=1e-5)
    assert_array_equal(
        emoc_sets(pipeline, POOL, 3, X_reference=REFERENCE, random_state=0),
        emoc_sets(fitted, pool, 3, X_reference=reference, random_state=0),
    )
    unfitted = make_pipeline(StandardScaler(), blank())
    assert len(set(emoc(unfitted, POOL, 5, random_state=0).tolist())) == 5
    assert len(set(emoc_sets(unfitted, POOL, 5, random_state=0).tolist())) == 5


def test_committees_average():
    y = CLASSES[np.arange(24) % 3]
    learners = [
        ActiveLearner(blank(random_state=seed, n_frozen=seed), X_training=vectors(24, 0), y_training=y)
        for seed in (0, 2)
    ]
    committee = Committee(learners)
    scores = np.mean([scores_of(*oracle_each(learner.estimator)) for learner in learners], 0)
    assert_array_equal(emoc(committee, POOL, 20, X_reference=REFERENCE, random_state=0), np.argsort(-scores))


def test_a_new_class_has_scores_too(fitted):
    grown = deepcopy(fitted).partial_fit(5 + vectors(4, 11), np.repeat("eel", 4))
    assert grown.output_change(REFERENCE, POOL, labels="each").shape == (20, 4)
    close(grown.output_change(REFERENCE, POOL), scores_of(*oracle_each(grown)), rtol=1e-3)
