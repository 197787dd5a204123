"""All sets, instead of random ones."""

from itertools import combinations

import numpy as np

from tests.reference import Given


def same_prediction(proba, K):
    """All sets of K images with one prediction."""
    label = proba.argmax(1)
    return [list(s) for s in combinations(range(len(proba)), K) if len(set(label[list(s)])) == 1]


def set_score(each, proba, members):
    """Eq. 5 of Käding et al. 2016: every member has the label of the set, that of the mean posterior."""
    return each[members, proba[members].mean(0).argmax()].sum()


def by_position(learner, X):
    return np.arange(len(X), dtype=float)


_SETS = {"groups": ["cluster"], "n_sets": [7], "y_pool": [Given("y_pool")]}
ALTERNATIVES = {
    "set": _SETS | {"score": ["entropy", by_position]},
    "emoc_set": _SETS | {"X_reference": [Given("X_reference")], "n_reference": [5], "output": ["probability"]},
}
