"""The decorator that turns a function into a strategy."""

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import StrOptions

import skal
import skal.query
from skal.query import STRATEGIES, Query, adma_sampling
from skal.query._registry import strategy


@pytest.fixture
def registered():
    """Strategies registered in a test are removed afterwards."""
    before = dict(STRATEGIES)
    yield STRATEGIES
    STRATEGIES.clear()
    STRATEGIES.update(before)


def test_a_function_becomes_a_strategy(registered):
    @strategy({"order": [StrOptions({"up", "down"})]}, cost="nothing")
    def sorted_sampling(learner, X_pool, n_instances=1, *, order="up", batch="top"):
        """Query in order."""
        return list(range(n_instances))

    entry = registered["sorted"]
    assert entry.function is sorted_sampling
    assert entry.batch == "either"  # it has the keyword
    assert entry.without_labels == "its rule"
    assert sorted_sampling.__doc__ == "Query in order."
    assert list(inspect.signature(sorted_sampling).parameters) == ["learner", "X_pool", "n_instances", "order", "batch"]
    assert sorted_sampling(None, np.zeros((5, 2)), 3) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"The 'order' parameter of sorted_sampling must be a str among .*'left'"):
        sorted_sampling(None, np.zeros((5, 2)), 3, order="left")
    with pytest.raises(TypeError, match=r"^sorted_sampling\(\) got an unexpected keyword argument 'seed'"):
        sorted_sampling(None, np.zeros((5, 2)), seed=1)
    with pytest.raises(ValueError, match="does not accept the keyword 'seed'"):
        Query(sorted_sampling, seed=1)


def test_keywords_and_constraints_must_agree(registered):
    with pytest.raises(TypeError, match=r"keywords and their constraints differ in \['order'\]"):

        @strategy(cost="nothing")
        def sorted_sampling(learner, X_pool, n_instances=1, *, order="up"):
            pass

    with pytest.raises(TypeError, match=r"differ in \['oder'\]"):

        @strategy({"oder": [str]}, cost="nothing")
        def other_sampling(learner, X_pool, n_instances=1):
            pass

    with pytest.raises(TypeError, match="must end in _sampling"):

        @strategy(cost="nothing")
        def sample(learner, X_pool, n_instances=1):
            pass


def test_errors_of_an_estimator_inside_keep_its_name():
    X, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    model = LogisticRegression().fit(X, y).set_params(C=-1)
    learner = skal.active.Learner(model, X, y)
    learner.labelled = np.arange(20)
    picks = skal.query.uherding_sampling(learner, X[20:], 2, random_state=0)  # without a temperature
    assert len(set(picks.tolist())) == 2


def test_strategies_are_exported_pickled_and_in_order():
    assert list(STRATEGIES) == sorted(STRATEGIES)
    for entry in STRATEGIES.values():
        assert getattr(skal.query, entry.function.__name__) is entry.function
        assert pickle.loads(pickle.dumps(entry.function)) is entry.function
        assert "Parameters" in inspect.getdoc(entry.function)
    assert adma_sampling is skal.adma_sampling


def test_a_strategy_is_one_file(tmp_path):
    """A module placed in the package is found, exported and registered."""
    code = """if True:
        import pkgutil, sys
        real = pkgutil.iter_modules
        pkgutil.iter_modules = lambda path: real(path.append(sys.argv[1]) or path)
        import skal.query
        assert "first" in skal.query.STRATEGIES and "first_sampling" in skal.query.__all__
        assert skal.query.first_sampling(None, [3, 4, 5], 2).tolist() == [0, 1]
        assert list(skal.query.STRATEGIES) == sorted(skal.query.STRATEGIES)
    """
    (tmp_path / "first.py").write_text(
        "from skal.query._context import Context\n"
        "from skal.query._registry import strategy\n\n"
        '@strategy(cost="nothing")\n'
        "def first_sampling(learner, X_pool, n_instances=1):\n"
        "    return Context(learner, X_pool, n_instances).result(range(n_instances))\n"
    )
    root = str(Path(skal.__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=root, env=os.environ | {"PYTHONPATH": root}
    )
