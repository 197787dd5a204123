"""modAL with current scikit-learn: learners and committees work, and a strategy is called once per query."""

import inspect
from functools import partial

import numpy as np
import pytest
from modAL.disagreement import vote_entropy_sampling
from modAL.models import ActiveLearner, Committee
from modAL.uncertainty import entropy_sampling, margin_sampling, uncertainty_sampling
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skal import _compat, adma_sampling, random_sampling

WANTS_PAIRS = "return_metrics" in inspect.signature(ActiveLearner.query).parameters


def test_a_loop_from_zero_labels_with_new_classes_on_the_way(classifier, pixels):
    X, y = pixels
    order = np.argsort(y, kind="stable")
    X, y = X[order], y[order]
    learner = ActiveLearner(classifier, query_strategy=adma_sampling)
    for n_labels in (1, 3, 8, 16):
        missing = n_labels - (0 if learner.y_training is None else len(learner.y_training))
        indices, images = learner.query(X, n_instances=missing)
        np.testing.assert_array_equal(images, X[indices])
        learner.teach(images, y[indices])
        X, y = np.delete(X, indices, axis=0), np.delete(y, indices)
        assert learner.predict_proba(X).shape == (len(X), len(np.unique(learner.y_training)))


@pytest.mark.parametrize("strategy", [adma_sampling, random_sampling])
@pytest.mark.parametrize("n_instances", [1, 2, 40])
def test_a_strategy_is_called_once_and_gives_distinct_indices(classifier, pixels, strategy, n_instances):
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return strategy(*args, **kwargs)

    if strategy is random_sampling:
        strategy = partial(random_sampling, random_state=0)
    learner = ActiveLearner(classifier, query_strategy=counted)
    indices, images = learner.query(pixels[0], n_instances=n_instances)
    assert len(calls) == 1
    assert sorted(set(indices)) == sorted(indices)
    assert len(indices) == n_instances
    assert images.shape == (n_instances, 16, 16, 3)


@pytest.mark.skipif(not WANTS_PAIRS, reason="this modAL returns indices alone")
def test_scores_come_back_as_metrics(classifier, pixels):
    learner = ActiveLearner(classifier, query_strategy=adma_sampling)
    indices, _, metrics = learner.query(pixels[0], n_instances=5, return_metrics=True, batch="top")
    assert (np.diff(metrics) <= 0).all()
    assert len(indices) == len(metrics) == 5


@pytest.mark.parametrize("strategy", [uncertainty_sampling, margin_sampling, entropy_sampling])
def test_modals_own_strategies_work(classifier, pixels, strategy):
    X, y = pixels
    learner = ActiveLearner(classifier, query_strategy=strategy)
    indices, images = learner.query(X, n_instances=4)
    learner.teach(images, y[indices])
    learner.teach(X[:12], y[:12])
    assert len(set(learner.query(X, n_instances=4)[0])) == 4


def test_committees_pipelines_and_files(classifier, pixels, files):
    y = pixels[1]
    members = [
        ActiveLearner(make_pipeline(FunctionTransformer(), classifier), X_training=files[0][:8], y_training=y[:8]),
        ActiveLearner(classifier, X_training=files[0][4:12], y_training=y[4:12]),
    ]
    committee = Committee(members, query_strategy=adma_sampling)
    indices, paths = committee.query(files[0][12:], n_instances=3)
    committee.teach(paths, y[12:][indices])
    assert committee.predict(files[0]).shape == (40,)


def test_a_committee_that_votes(classifier, pixels):
    X, y = pixels[0], np.unique(pixels[1], return_inverse=True)[1]  # modAL counts votes for numbers only
    members = [ActiveLearner(classifier, X_training=X[i : i + 9], y_training=y[i : i + 9]) for i in (0, 9)]
    committee = Committee(members, query_strategy=vote_entropy_sampling)
    assert len(committee.query(X, n_instances=2)[0]) == 2


def test_any_classifier_can_be_sampled_at_random(pixels):
    X, y = pixels[0].reshape(40, -1) / 255.0, pixels[1]
    learner = ActiveLearner(LogisticRegression(), query_strategy=partial(random_sampling, random_state=0))
    indices, rows = learner.query(X, n_instances=10)
    learner.teach(rows, y[indices])
    assert learner.score(X, y) > 0.5


def test_the_repair_translates_the_keyword():
    X, _ = _compat._check_X_y([["a"], ["b"]], ["c", "d"], force_all_finite=True, dtype=None)
    assert X.shape == (2, 1)
    with pytest.raises(ValueError, match="NaN"):
        _compat._check_X_y([[np.nan]], [1], force_all_finite=True)


def test_bad_queries_are_refused(classifier, pixels):
    X = pixels[0]
    learner = ActiveLearner(classifier, query_strategy=adma_sampling)
    for bad, message in [
        ({"n_instances": 41}, "n_instances=41 .* from 1 to 40"),
        ({"n_instances": 0}, "n_instances=0"),
        ({"alpha": "cosine"}, "'alpha' parameter of adma_sampling must be a str among .*Got 'cosine'"),
        ({"uncertainty": "std"}, "'uncertainty' parameter of adma_sampling .*Got 'std'"),
        ({"aggregate": "max"}, "'aggregate' parameter of adma_sampling .*Got 'max'"),
        ({"aggregate": "variance"}, "needs at least two patterns"),
        ({"layers": [("conv9", -2)]}, "the layers of this profile"),
        ({"lam": -0.1}, "'lam' parameter of adma_sampling must be a float .*Got -0.1"),
        ({"lam": "x"}, "'lam' parameter of adma_sampling .*Got 'x'"),
        ({"t": 0}, "'t' parameter of adma_sampling .*Got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            learner.query(X, **bad)
    with pytest.raises(ValueError, match="X_pool is empty"):
        learner.query(X[:0])
    with pytest.raises(ValueError, match="got LogisticRegression with source=None"):
        adma_sampling(ActiveLearner(LogisticRegression()), X)
    with pytest.raises(ValueError, match="with source=None"):
        adma_sampling(ActiveLearner(classifier.set_params(source=None)), X)


def test_a_learner_can_be_shown_and_cloned(classifier, pixels):
    X, y = pixels
    learner = ActiveLearner(classifier, query_strategy=random_sampling, X_training=X[:12], y_training=y[:12])
    assert "ActiveLearner" in repr(learner)
    assert learner.get_params(deep=False)["estimator"] is classifier
    untaught = clone(learner)
    assert untaught.X_training is None
    assert not hasattr(untaught.estimator, "net_")
    assert untaught.query_strategy is random_sampling
    untaught.teach(X[:12], y[:12])
    np.testing.assert_array_equal(untaught.predict_proba(X), learner.predict_proba(X))
    committee = clone(Committee([learner, untaught], query_strategy=random_sampling))
    assert "Committee" in repr(committee)
    assert all(member.X_training is None for member in committee.learner_list)
