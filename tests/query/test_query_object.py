"""Query: a partial whose keywords are parameters."""

import pickle

import numpy as np
from modAL.models import ActiveLearner
from modAL.uncertainty import margin_sampling
from sklearn.base import clone

from skal import Query, random_sampling
from tests.conftest import blobs, greatest, indices_of, logistic


def test_query_is_a_partial_whose_keywords_show():
    query = Query(greatest, sign=-1.0)
    assert query.get_params() == {"strategy": greatest, "sign": -1.0}
    assert query(None, np.array([[2.0], [1.0], [3.0]]), 2).tolist() == [1, 0]
    copy = clone(query)
    assert copy is not query
    assert copy.get_params() == query.get_params()
    copy.set_params(sign=1.0)
    assert query.keywords == {"sign": -1.0}
    assert copy(None, np.array([[2.0], [1.0], [3.0]]), 1).tolist() == [2]
    back = pickle.loads(pickle.dumps(query))
    assert back.get_params() == query.get_params()
    assert back(None, np.array([[2.0], [1.0], [3.0]]), 1).tolist() == [1]
    assert "greatest" in repr(query)
    assert Query(random_sampling).takes("random_state")
    replaced = Query(greatest).set_params(strategy=random_sampling, random_state=0)
    assert replaced.get_params() == {"strategy": random_sampling, "random_state": 0}
    assert not Query(random_sampling, random_state=0).takes("random_state")
    assert not query.takes("random_state")


def test_query_keywords_win_over_those_of_the_loop():
    X = np.array([[2.0], [1.0], [3.0]])
    assert Query(greatest, sign=-1.0)(None, X, 1, sign=1.0).tolist() == [1]
    assert Query(greatest)(None, X, 1, sign=-1.0).tolist() == [1]


def test_query_drives_modal():
    X, y = blobs(30)
    learner = ActiveLearner(logistic(), query_strategy=Query(margin_sampling), X_training=X[:10], y_training=y[:10])
    indices, _ = learner.query(X[10:], n_instances=4)
    expected = indices_of(margin_sampling(logistic().fit(X[:10], y[:10]), X[10:], n_instances=4))
    assert indices.tolist() == expected.tolist()


def test_no_parameters_change_nothing():
    query = Query(greatest, sign=-1.0)
    assert query.set_params() is query
    assert query.get_params() == {"strategy": greatest, "sign": -1.0}
