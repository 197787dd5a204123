"""Output change: memory and company do not matter, nothing is left changed, bad input is named."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from skal._random import seeded
from skal.gradients.change import output_change
from tests.gradients.networks import Wrapped, close, make
from tests.reference.emoc import changes, scores_of

OUTPUTS, NORMS = ["logit", "probability"], ["l1", "l2"]


@pytest.mark.parametrize("name", ["mlp", "groups", "residual", "attention", "folded-tokens"])
@pytest.mark.parametrize("labels", ["map", "each"])
def test_little_memory_gives_the_same(name, labels):
    net, reference, X = make(name, n_reference=6, n=8)
    for output in OUTPUTS:
        expected = output_change(net, reference, X, output=output, labels=labels)
        for max_memory in (1, 50_000):
            scores = output_change(net, reference, X, output=output, labels=labels, max_memory=max_memory)
            close(scores, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "sequence-first"])
def test_other_candidates_do_not_matter(name):
    net, reference, X = make(name, n_reference=6, n=9)
    order, back = np.random.default_rng(0).permutation(9), np.random.default_rng(1).permutation(6)
    scores = output_change(net, reference, X, labels="posterior")
    close(output_change(net, reference[back], X[order], labels="posterior"), scores[order], rtol=1e-10)
    for i in (0, 5):
        close(output_change(net, reference, X[i : i + 1], labels="posterior"), scores[i : i + 1], rtol=1e-10)
    single = [output_change(net, reference[i : i + 1], X, labels="posterior") for i in range(6)]
    close(np.mean(single, 0), scores, rtol=1e-10)
    close(output_change(net, torch.cat([reference, reference]), X, labels="posterior"), scores, rtol=1e-10)
    close(output_change(net, reference, torch.cat([X, X]), labels="posterior"), np.tile(scores, 2), rtol=1e-10)


@pytest.mark.parametrize("name", ["residual", "biases", "attention", "dropout", "tied", "mlp-2"])
def test_the_module_and_the_data_stay_as_they_were(name):
    net, reference, X = make(name)
    net.train()
    next(iter(net.children())).eval()
    with seeded(0):
        for i, parameter in enumerate(net.parameters()):
            parameter.grad = torch.randn_like(parameter) if i % 2 else None
    state, flags = deepcopy(net.state_dict()), [part.training for part in net.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    needs, names = [p.requires_grad for p in net.parameters()], [n for n, _ in net.named_parameters()]
    identities, keys = [id(p) for p in net.parameters()], [set(vars(part)) for part in net.modules()]
    data = reference.clone(), X.clone()

    def check():
        assert [part.training for part in net.modules()] == flags
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name])
        for parameter, before in zip(net.parameters(), grads, strict=True):
            assert (parameter.grad is None) if before is None else torch.equal(parameter.grad, before)
        assert [p.requires_grad for p in net.parameters()] == needs
        assert [n for n, _ in net.named_parameters()] == names
        assert [id(p) for p in net.parameters()] == identities
        assert [set(vars(part)) for part in net.modules()] == keys
        assert not any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in net.modules())
        assert torch.equal(reference, data[0])
        assert torch.equal(X, data[1])

    for labels in ("map", "each"):
        output_change(net, reference, X, labels=labels)
        check()
    with pytest.raises((ValueError, RuntimeError)):
        output_change(net, reference[:, :-1], X[:, :-1])  # the network fails on them
    check()
    with pytest.raises(ValueError):
        output_change(net, reference, X, labels=np.full(len(X), 99))
    check()


def test_inputs_changed_in_place_by_the_network():
    with seeded(0):
        net = Wrapped(lambda s, x: s.body(x.mul_(2)), body=nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
        net, reference, X = net.double(), torch.randn(4, 5).double(), torch.randn(6, 5).double()
    before = reference.clone(), X.clone()
    expected = scores_of(*changes(net, reference, X), "each")
    for few in (2**30, 1):
        close(output_change(net, reference, X, labels="each", max_memory=few), expected)
        close(output_change(net, reference.numpy(), X.numpy(), labels="each", max_memory=few), expected)
        assert torch.equal(reference, before[0])
        assert torch.equal(X, before[1])


def test_gradients_may_be_switched_off_around_it():
    net, reference, X = make("residual")
    expected = output_change(net, reference, X)
    with torch.no_grad():
        close(output_change(net, reference, X), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "logits"}, "logits"),
        ({"labels": "mean"}, "mean"),
        ({"norm": "l3"}, "l3"),
        ({"max_memory": 0}, "max_memory.*0"),
        ({"max_memory": -5}, "-5"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2])}, "6"),  # seven candidates
        ({"labels": np.array([0, 1, 2, 0, 1, 2, 4])}, "4"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2, -1])}, "-1"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2, 0.5])}, r"0\.5"),
    ],
)
def test_bad_options_are_named(options, message):
    net, reference, X = make("mlp")
    with pytest.raises(ValueError, match=message):
        output_change(net, reference, X, **options)


def test_impossible_calls():
    net, reference, X = make("mlp")
    with pytest.raises(ValueError):
        output_change(net, reference[:0], X)
    with pytest.raises(ValueError):
        output_change(net, reference, X[:0])
    with pytest.raises(ValueError, match="train"):
        output_change(deepcopy(net).requires_grad_(False), reference, X)
    with pytest.raises(ValueError, match="depend"):
        output_change(nn.Sequential(Wrapped(lambda s, x: x - x.mean(0)), deepcopy(net)), reference, X)
    with pytest.raises(ValueError, match="LogisticRegression"):
        output_change(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), [[0.0]], [[1.0]])
