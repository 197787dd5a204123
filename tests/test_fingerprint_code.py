"""Fingerprints of code: changes of a strategy, a closure or a class are detected, and only changes."""

import importlib
import os
import subprocess
import sys
import textwrap

import pytest
from sklearn.linear_model import LogisticRegression

from skal._fingerprint import fingerprint, fingerprint_params
from skal._random import seeded
from skal.query import margin_sampling

RATE = 1


def reads_a_global(x):
    return RATE * x


def calls_another(x):
    return reads_a_global(x) + 1


def load(folder, source, name="user_module"):
    """A user's module, loaded from its source."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with seeded(0):
        spec.loader.exec_module(module)
    return module


USER = """
    import functools
    from torch import nn
    import torch.nn.functional as F

    RATE = 0.5
    TABLE = {"a": [1, 2], "b": {"x", "y", "z"}}

    def helper(x):
        return RATE * x

    def strategy(learner, X_pool, n_instances=1, *, temperature=2.0):
        "Picks."
        def inner(x):
            return helper(x) + TABLE["a"][0]
        return inner(len(X_pool))

    def made(width):
        return lambda x: x + width

    closed = made(3)
    fixed = functools.partial(strategy, temperature=3.0)

    class Strategy:
        limit = 7

        def __init__(self, weight=1.0):
            self.weight = weight

        def score(self, x):
            return max(x, self.limit)

        def __call__(self, learner, X_pool, n_instances=1):
            return self.score(super().__hash__())

    class Child(Strategy):
        pass

    one, child, bound = Strategy(), Child(), Strategy().score

    class Net(nn.Module):
        def __init__(self, scale=2.0):
            super().__init__()
            self.scale = scale
            self.layer = nn.Linear(3, 2)
            nn.init.ones_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)

        def forward(self, x):
            return F.relu(self.layer(x) * self.scale)

    net = Net()
"""
NAMES = ["strategy", "closed", "fixed", "one", "child", "bound", "net"]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("RATE = 0.5", "RATE = 0.25", {"strategy", "fixed"}),
        ('"y", "z"}', '"y", "w"}', {"strategy", "fixed"}),
        ("return RATE * x", "return RATE / x", {"strategy", "fixed"}),
        ("temperature=2.0", "temperature=2.5", {"strategy", "fixed"}),
        ("made(3)", "made(4)", {"closed"}),
        ("x + width", "x - width", {"closed"}),
        ("temperature=3.0", "temperature=4.0", {"fixed"}),
        ("limit = 7", "limit = 8", {"one", "child", "bound"}),
        ("max(x, self.limit)", "min(x, self.limit)", {"one", "child", "bound"}),
        ("weight=1.0", "weight=2.0", {"one", "child", "bound"}),
        ("        pass", "        limit = 9", {"child"}),
        ("F.relu", "F.tanh", {"net"}),
        ("scale=2.0", "scale=3.0", {"net"}),
        ("ones_(self", "zeros_(self", {"net"}),
        ('"Picks."', '"Picks, as the paper does."', set()),
        ("    RATE = 0.5", "    import os\n    UNUSED = 3\n\n    RATE = 0.5", set()),
    ],
)
def test_a_change_of_the_users_code_is_noticed_where_it_matters(tmp_path, before, after, changed):
    (tmp_path / "other").mkdir()
    assert USER.count(before) == 1
    first = load(tmp_path, USER)
    again = load(tmp_path / "other", USER)
    second = load(tmp_path, USER.replace(before, after))
    for name in NAMES:
        print_ = fingerprint(getattr(first, name))
        assert fingerprint(getattr(again, name)) == print_, name
        assert (fingerprint(getattr(second, name)) != print_) == (name in changed), name


def test_another_process_and_another_order_of_sets_change_nothing(tmp_path):
    load(tmp_path, USER)
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import user_module, torch, numpy as np
from skal._fingerprint import fingerprint, fingerprint_params
from skal.query import adma_sampling, uherding_sampling
from sklearn.linear_model import LogisticRegression
from tests.conftest import TinyConvNet
from skal import FrozenPrefixClassifier
torch.manual_seed(0)
net = TinyConvNet()
net.register_forward_hook(lambda *args: None)
values = [getattr(user_module, name) for name in sys.argv[2].split()]
values += [adma_sampling, uherding_sampling, net]
values += [{"b", "a", 3, user_module.helper, user_module.Strategy}, np.random.RandomState(3), torch.nn.LazyLinear(3)]
print(*map(fingerprint, values), fingerprint_params(FrozenPrefixClassifier(net)))
"""
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), " ".join(NAMES)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].split()[: len(NAMES)] == [fingerprint(getattr(load(tmp_path, USER), name)) for name in NAMES]
    assert len(set(printed[0].split())) == len(NAMES) + 7


def test_globals_are_followed_through_functions(monkeypatch):
    before = fingerprint(calls_another), fingerprint(lambda x: calls_another(x))
    monkeypatch.setattr(sys.modules[__name__], "RATE", 2)
    assert fingerprint(calls_another) != before[0]
    assert fingerprint(lambda x: calls_another(x)) != before[1]


def test_a_wrapper_that_bears_the_name_of_a_library_function_is_not_taken_for_it():
    import functools

    def wrapped(factor):
        @functools.wraps(margin_sampling)
        def wrapper(*args, **kwargs):
            return margin_sampling(*args, **kwargs)[::factor]

        return wrapper

    assert len({fingerprint(margin_sampling), fingerprint(wrapped(1)), fingerprint(wrapped(-1))}) == 3


def test_a_class_that_bears_the_name_of_a_library_class_is_not_taken_for_it():
    fake = type("LogisticRegression", (LogisticRegression,), {"__module__": LogisticRegression.__module__})
    assert fingerprint_params(fake()) != fingerprint_params(LogisticRegression())
