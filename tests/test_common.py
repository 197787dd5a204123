"""scikit-learn's own checks: every estimator passes all of them, and they really ran."""

from functools import partial
from unittest import SkipTest

import pytest
from modAL.uncertainty import margin_sampling
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_set_output_transform_pandas, estimator_checks_generator
from torch import nn

from skal import (
    DAN,
    ActiveClassifier,
    FineTuning,
    FrozenPrefixClassifier,
    Query,
    SelectiveJoint,
    random_sampling,
)
from skal.selective import SymmetricKLNeighbors


def toy_backbone():
    """A network on 2-D features of any width."""
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))


ESTIMATORS = [
    FrozenPrefixClassifier(toy_backbone(), max_epochs=10, min_steps=0),
    FrozenPrefixClassifier(
        toy_backbone, max_epochs=10, min_steps=0, n_frozen=0, warm_start=False, head_init="random", lr=0.02
    ),
    FrozenPrefixClassifier(toy_backbone(), recipe=FineTuning("misclassified"), max_epochs=10, min_steps=0),
    FrozenPrefixClassifier(toy_backbone(), recipe=DAN(), max_epochs=10, min_steps=0),
    FrozenPrefixClassifier(toy_backbone(), recipe=SelectiveJoint(), max_epochs=10, min_steps=0),
    ActiveClassifier(LogisticRegression(), Query(random_sampling)),
    ActiveClassifier(LogisticRegression(), margin_sampling, n_initial=10),
    ActiveClassifier(
        FrozenPrefixClassifier(toy_backbone(), max_epochs=10, min_steps=0), Query(random_sampling), n_queries=3
    ),
    SymmetricKLNeighbors(1),
]


@pytest.fixture
def _global_generators_untouched():
    """The checks use random_state=None, which draws from numpy's global generator as everywhere in scikit-learn."""


def expected_failures(estimator):
    """A weight increases the loss of a row, while a repeated row is drawn more often: the steps differ."""
    if not isinstance(estimator, FrozenPrefixClassifier):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "batches are drawn, as in scikit-learn's SGDClassifier"}


# Not `parametrize_with_checks`: its names contain addresses of functions, so they differ between processes.
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pair
        for estimator in ESTIMATORS
        for pair in estimator_checks_generator(
            estimator, expected_failed_checks=expected_failures(estimator), mark="xfail"
        )
    ],
    ids=lambda part: part.func.__name__ if isinstance(part, partial) else type(part).__name__,
)
def test_sklearn_check(estimator, check):
    try:
        check(estimator)
    except SkipTest as skipped:
        pytest.fail(f"scikit-learn skips the check: {skipped}")


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_all_checks_run(estimator):
    checks = [check for _, check in estimator_checks_generator(estimator)]
    assert len(checks) >= (50 if hasattr(estimator, "predict") else 35)  # an estimator that opts out of them passes one


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # the check mixes frames and arrays
def test_set_output():
    check_set_output_transform_pandas("FrozenPrefixClassifier", ESTIMATORS[0])
