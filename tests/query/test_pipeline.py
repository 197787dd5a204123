"""Networks in Pipelines and meta-estimators, before and after their first fit."""

import numpy as np
import pandas as pd
import pytest
from modAL.models import ActiveLearner
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from skal import ActiveClassifier, FrozenPrefixClassifier
from skal._random import seeded
from skal.query import STRATEGIES, coreset_sampling, margin_sampling, max_herding_sampling
from skal.query._features import features_of
from skal.query._pipeline import last_step
from tests.reference import indices_of

ASKED = ("max_herding", "uherding", "coreset", "typiclust", "margin", "badge")


def flipped(images):
    return np.ascontiguousarray(np.asarray(images)[:, :, ::-1])


def flat(images):
    return np.asarray(images).reshape(len(images), -1) / 255.0


def logistic():
    return LogisticRegression(max_iter=500)


#: Places where a network may be, with a function that puts it there.
PLACES = {
    "before a classifier": lambda net: make_pipeline(net, logistic()),
    "before a scaler and a classifier": lambda net: make_pipeline(net, StandardScaler(), logistic()),
    "in a pipeline of pipelines": lambda net: make_pipeline(
        make_pipeline(FunctionTransformer(flipped), "passthrough", FunctionTransformer(flipped)), make_pipeline(net)
    ),
    "in a pipeline before a classifier": lambda net: make_pipeline(
        Pipeline([("inner", make_pipeline(FunctionTransformer(), net))]), logistic()
    ),
    "calibrated": lambda net: CalibratedClassifierCV(net, cv=2),
    "calibrated without an ensemble": lambda net: CalibratedClassifierCV(net, cv=2, ensemble=False),
    "voting": lambda net: VotingClassifier(
        [("net", net), ("drop", "drop"), ("flat", make_pipeline(FunctionTransformer(flat), logistic()))], voting="soft"
    ),
    "searched": lambda net: GridSearchCV(net, {"lr": [1e-3, 1e-2]}, cv=2),
    "searched in a pipeline": lambda net: GridSearchCV(
        make_pipeline(FunctionTransformer(), net), {"frozenprefixclassifier__lr": [1e-3]}, cv=2
    ),
    "stacked": lambda net: StackingClassifier([("net", net)], logistic(), cv=2),
}


@pytest.fixture
def net(classifier):
    return classifier.set_params(max_epochs=1, source=None)


@pytest.mark.parametrize("n_labels", [0, 16])
@pytest.mark.parametrize("place", PLACES)
def test_the_network_is_found_wherever_it_is(place, n_labels, net, pixels):
    X, y = pixels
    estimator = PLACES[place](net)
    learner = ActiveLearner(estimator, X_training=X[:16], y_training=y[:16]) if n_labels else ActiveLearner(estimator)
    for name in ASKED:
        seed = {} if name == "max_herding" else {"random_state": 0}
        picks = indices_of(STRATEGIES[name].function)(learner, X[16:], 5, **seed)
        assert len(set(picks.tolist())) == 5, name
    if not n_labels and "scaler" not in place:  # before the first fit the pre-trained network is used
        expected = indices_of(max_herding_sampling)(ActiveLearner(net), X[16:], 5)
        np.testing.assert_array_equal(indices_of(max_herding_sampling)(learner, X[16:], 5), expected)


@pytest.mark.parametrize("n_labels", [0, 12])
@pytest.mark.parametrize("max_features", [1.0, 3])
def test_bagged_networks_see_the_columns_they_were_given(n_labels, max_features):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 2
    with seeded(0):
        body = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))
    bagging = BaggingClassifier(
        FrozenPrefixClassifier(body, n_frozen=1, max_epochs=1, min_steps=0, random_state=0),
        n_estimators=3,
        max_features=max_features,
        random_state=0,
    )
    learner = ActiveLearner(bagging, X_training=X[:12], y_training=y[:12]) if n_labels else ActiveLearner(bagging)
    for name in ASKED:
        seed = {} if name == "max_herding" else {"random_state": 0}
        assert len(set(indices_of(STRATEGIES[name].function)(learner, X[12:], 5, **seed).tolist())) == 5
    features = features_of(learner, X[12:]).pool.whole()
    assert features.shape[1] == (18 if n_labels else 6)
    np.testing.assert_array_equal(features_of(learner, pd.DataFrame(X[12:])).pool.whole(), features)


def test_features_are_those_of_the_fitted_networks_inside(net, pixels):
    X, y = pixels
    calibrated = CalibratedClassifierCV(net, cv=2).fit(X[:16], y[:16])
    expected = np.concatenate([one.estimator.transform(X) for one in calibrated.calibrated_classifiers_], axis=1)
    np.testing.assert_allclose(features_of(calibrated, X).pool.whole(), expected, atol=1e-6)
    search = GridSearchCV(net, {"lr": [1e-3]}, cv=2).fit(X[:16], y[:16])
    np.testing.assert_allclose(features_of(search, X).pool.whole(), search.best_estimator_.transform(X), atol=1e-6)
    behind = make_pipeline(clone(net), StandardScaler(), logistic()).fit(X[:16], y[:16])
    np.testing.assert_allclose(features_of(behind, X).pool.whole(), behind[:-1].transform(X), atol=1e-6)


def test_a_network_before_a_classifier_gives_its_pretrained_activations(net, pixels):
    X = pixels[0]
    (expected,) = net.activations(X, [-2], pooled=True)
    features = features_of(make_pipeline(net, logistic()), X).pool.whole()
    np.testing.assert_array_equal(features, expected)
    scaled = features_of(make_pipeline(net, StandardScaler(), logistic()), X).pool.whole()
    np.testing.assert_allclose(scaled, StandardScaler().fit_transform(expected), atol=1e-5)
    assert not hasattr(net, "net_")  # the learner itself is unchanged


def test_active_classifier_takes_its_own_default_with_a_network_before_a_classifier(net, pixels):
    X, y = pixels
    active = ActiveClassifier(make_pipeline(net, logistic()), n_queries=2, batch_size=6, random_state=0).fit(X, y)
    assert len(set(active.queried_.tolist())) == 12


def test_ensembles_without_a_network_are_compared_by_their_rows():
    X, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2
    expected = coreset_sampling(logistic(), X, 5, random_state=0)
    voting = VotingClassifier([("a", logistic()), ("b", LinearDiscriminantAnalysis())])
    for ensemble in (voting, RandomForestClassifier(5, random_state=0), GridSearchCV(logistic(), {"C": [1]}, cv=2)):
        for one in (ensemble, clone(ensemble).fit(X, y)):
            np.testing.assert_array_equal(coreset_sampling(one, X, 5, random_state=0), expected)


def test_steps_that_have_learned_nothing_are_fitted_to_the_pool_in_a_copy():
    X = np.random.default_rng(0).normal(size=(40, 4)) * [1, 10, 100, 1]
    pipeline = make_pipeline(StandardScaler(), PCA(2, random_state=0), logistic())
    features = features_of(pipeline, X).pool.whole()
    np.testing.assert_allclose(features, make_pipeline(StandardScaler(), PCA(2, random_state=0)).fit_transform(X))
    assert not hasattr(pipeline[0], "mean_")
    assert last_step(pipeline, X)[0] is pipeline[-1]


def test_what_cannot_be_used_is_named_with_what_to_do(net, pixels):
    X, _ = pixels
    union = make_pipeline(FeatureUnion([("net", net), ("flat", FunctionTransformer(flat))]), logistic())
    with pytest.raises(ValueError, match=r"FeatureUnion is not fitted yet .* without labels .* random_sampling"):
        max_herding_sampling(union, X, 3)
    with pytest.raises(ValueError, match=r"features of LogisticRegression have shape \(40, 16, 16, 3\).*Pipeline"):
        max_herding_sampling(logistic(), X, 3)
    paths = np.array(["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"features of .* have shape \(2,\)"):
        coreset_sampling(logistic(), paths, 1)
    with pytest.raises(ValueError, match="LinearSVC has no method predict_proba"):
        margin_sampling(LinearSVC(), flat(X), 3)
    hard = VotingClassifier([("net", net)])
    with pytest.raises(ValueError, match=r"VotingClassifier has no method predict_proba.*voting='soft'"):
        margin_sampling(ActiveLearner(hard), X, 3)
