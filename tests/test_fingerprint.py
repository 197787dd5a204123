"""Fingerprints of estimators and values: every kind of state counts, and unreadable state is named."""

import copy
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skal import FrozenPrefixClassifier
from skal._fingerprint import fingerprint, fingerprint_params
from skal._random import seeded
from skal.query import margin_sampling


def test_estimators_count_by_what_clone_copies():
    X, y = np.random.default_rng(0).normal(size=(20, 8)), np.arange(20) % 2
    model = make_pipeline(StandardScaler(), LogisticRegression())
    before = fingerprint_params(model)
    assert fingerprint_params(copy.deepcopy(model).fit(X, y)) == before
    assert fingerprint_params(make_pipeline(StandardScaler(), LogisticRegression(C=2))) != before
    assert fingerprint_params(make_pipeline(StandardScaler(), LogisticRegression(verbose=1))) == before
    frozen = [FrozenEstimator(StandardScaler().fit(part)) for part in (X, X, X[::2])]
    first, same, other = (fingerprint_params(make_pipeline(f, LogisticRegression())) for f in frozen)
    assert first == same != other  # learned state is not lost in a clone
    # A strategy is not cloned, so the learned state of its estimator counts.
    first, same, other = (fingerprint(partial(margin_sampling, scaler=StandardScaler().fit(p))) for p in (X, X, X[::2]))
    assert first == same != other


def test_what_changes_no_record_is_left_out(tmp_path, convnet):
    net = convnet
    options = [{}, {"cache": False}, {"cache": str(tmp_path)}, {"verbose": True}]
    assert len({fingerprint_params(FrozenPrefixClassifier(net, **option)) for option in options}) == 1
    assert fingerprint_params(FrozenPrefixClassifier(net, device="cuda")) != fingerprint_params(
        FrozenPrefixClassifier(net)
    )


def test_random_generators_count_by_their_state():
    for make, draw in [
        (np.random.RandomState, lambda g: g.rand()),
        (np.random.default_rng, lambda g: g.random()),
        (lambda seed: torch.Generator().manual_seed(seed), lambda g: torch.rand(1, generator=g)),
    ]:
        first, second = make(0), make(0)
        assert fingerprint(first) == fingerprint(second) != fingerprint(make(1))
        draw(second)
        assert fingerprint(first) != fingerprint(second)


class Hiding:
    """Its pickle hides the state it computes with."""

    def __init__(self, weight):
        self.weight = weight

    def __getstate__(self):
        return {}


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight):
        self.weight = weight


@pytest.mark.parametrize("kind", [Hiding, Slotted, lambda weight: type("Local", (), {"weight": weight})()])
def test_every_kind_of_attribute_counts(kind):
    assert fingerprint(kind(1)) == fingerprint(kind(1)) != fingerprint(kind(2))


def test_values_that_resemble_each_other_are_told_apart():
    values = [1, 1.5, "1", True, None, (1,), [1], {1}, {1: 1}, b"1", [[1]], [1, 1], [], (), {}, "", np.array([1]), len]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(np.float64(0.5)) == fingerprint(0.5)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_values_that_hold_themselves_end():
    def looped(n):
        values = [n]
        values.append(values)
        return values

    assert fingerprint(looped(1)) == fingerprint(looped(1)) != fingerprint(looped(2))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # still met in users' networks
def test_what_cannot_be_read_is_named(tmp_path):
    scripted = torch.jit.script(nn.ReLU())
    with (
        open(tmp_path / "log", "w") as log,
        pytest.raises(ValueError, match=r"^query strategy\.log is a _io\.Text"),
    ):
        fingerprint(partial(lambda: log), "query strategy")
    with pytest.raises(ValueError, match=r"estimator is a torch\.jit"):
        fingerprint(scripted, "estimator")
    lock = threading.Lock()
    assert fingerprint(lambda: lock)  # contains nothing used in computations


class Own(BaseEstimator):
    def __init__(self, net=None):
        self.net = net


def test_parameters_of_ones_own_estimator():
    with seeded(0):
        nets = nn.Linear(2, 2), nn.Linear(2, 2)
    assert fingerprint_params(Own(nets[0])) == fingerprint_params(Own(copy.deepcopy(nets[0])))
    assert fingerprint_params(Own(nets[0])) != fingerprint_params(Own(nets[1]))
