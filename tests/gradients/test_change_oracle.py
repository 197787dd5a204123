"""Output change against plain versions: torch.func, loops of autograd, true SGD steps, closed forms."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import nn

from skal._random import seeded
from skal.gradients.change import output_change
from tests.gradients.networks import LOOPS, NETS, Wrapped, close, make
from tests.reference.emoc import changes, loop_scores, scores_of

OUTPUTS, NORMS = ["logit", "probability"], ["l1", "l2"]


@pytest.mark.parametrize("name", NETS)
def test_every_gradient_in_full(name):
    net, reference, X = make(name)
    given = np.array([0, 1, 1, 0, 1, 0, 0])
    for output in OUTPUTS:
        change, proba = changes(net, reference, X, output, name in LOOPS)
        for norm in NORMS:
            for labels in ["map", "posterior", "each", given]:
                expected = scores_of(change, proba, labels, norm)
                close(output_change(net, reference, X, output=output, labels=labels, norm=norm), expected)


@pytest.mark.parametrize("name", ["mlp", "groups", "residual", "biases", "attention", "folded-maps", "conv1d", "tied"])
def test_single_precision(name):
    net, reference, X = make(name)
    single = deepcopy(net).float()
    for output in OUTPUTS:
        expected = scores_of(*changes(net, reference, X, output, name in LOOPS), "each")
        scores = output_change(single, reference.float(), X.float(), output=output, labels="each")
        assert np.abs(scores - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["mlp", "stride", "residual", "twice", "tied-transposed", "unused"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_loops_of_backward_passes(name, output):
    net, reference, X = make(name)
    with torch.no_grad():
        labels = deepcopy(net).eval()(X.clone()).argmax(1).tolist()
    for norm in NORMS:
        expected = loop_scores(net, reference, X, labels, output, norm)
        close(output_change(net, reference, X, output=output, norm=norm), expected)


@pytest.mark.parametrize("name", ["mlp", "conv", "group-norm", "attention"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_limit_of_a_true_step(name, output):
    net, reference, X = make(name, n=3)
    net.eval()
    scores = output_change(net, reference, X, output=output, labels="each")

    def outputs(module):
        with torch.no_grad():
            return module(reference).softmax(1) if output == "probability" else module(reference)

    def moved(x, label, lr):
        after = deepcopy(net)
        optimizer = torch.optim.SGD(after.parameters(), lr=lr)
        F.cross_entropy(after(x[None]), torch.tensor([label])).backward()
        optimizer.step()
        return float((outputs(after) - outputs(net)).abs().sum(1).mean()) / lr

    for label in range(scores.shape[1]):
        errors = [
            np.array([abs(moved(x, label, lr) / s[label] - 1) for x, s in zip(X, scores, strict=True)])
            for lr in (1e-4, 1e-6)
        ]
        assert errors[1].max() < 1e-4
        assert (errors[1] < 0.1 * errors[0] + 1e-7).all()  # first order: the error falls with the step


@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_closed_form_of_a_head(n_classes):
    with seeded(1):
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, n_classes)).double()
        reference, X = torch.randn(11, 6).double(), 3 * torch.randn(30, 6).double()
    net[0].requires_grad_(False)
    with torch.no_grad():
        products = (net[:2](X) @ net[:2](reference).T + 1).abs().mean(1).numpy()
        proba = net(X).softmax(1).numpy()
    close(output_change(net, reference, X), 2 * (1 - proba.max(1)) * products)
    close(output_change(net, reference, X, labels="each"), 2 * (1 - proba) * products[:, None])
    close(output_change(net, reference, X, labels="posterior"), 2 * (proba * (1 - proba)).sum(1) * products)
    error = proba.copy()
    error[np.arange(30), proba.argmax(1)] -= 1
    close(output_change(net, reference, X, norm="l2"), np.linalg.norm(error, axis=1) * products)


def test_the_label_is_that_of_the_candidate_and_the_posterior_that_of_evaluation():
    with seeded(0):
        net = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.9), nn.Linear(40, 4)).double().train()
        reference, X = torch.randn(4, 5).double(), 4 * torch.randn(20, 5).double()
    each, map_ = (output_change(net, reference, X, labels=labels) for labels in ("each", "map"))
    with torch.no_grad():
        p = deepcopy(net).eval()(X).softmax(1).numpy()
    assert len(set(p.argmax(1))) > 1
    close(map_, each[np.arange(20), p.argmax(1)])
    close(output_change(net, reference, X, labels=p.argmin(1)), each[np.arange(20), p.argmin(1)])
    close(output_change(net, reference, X, labels="posterior"), (each * p).sum(1))


@pytest.mark.parametrize(
    "name", ["circular", "reflect", "sequence-first", "folded-tokens", "folded-maps", "twice", "conv"]
)
@pytest.mark.parametrize("blank", [0.0, 1.0])
def test_blank_images_come_first(name, blank):
    """A check of the products on the first images alone would not see what differs."""
    net, reference, X = make(name, n_reference=9)
    reference[:6], X[:3] = blank, blank
    close(output_change(net, reference, X, labels="each"), scores_of(*changes(net, reference, X), "each"))


def test_unlucky_first_references_of_a_gated_layer():
    """A layer whose gradient is zero for the first references, and which is used in an unusual way."""

    def run(s, x):
        hidden = torch.tanh(s.mlp(x.transpose(0, 1))).transpose(0, 1)  # the batch is the second dimension
        return s.head(hidden.mean(1) * (x[:, 0, :1] > 0))

    with seeded(0):
        net = Wrapped(run, mlp=nn.Linear(4, 6), head=nn.Linear(6, 3)).double()
        reference, X = torch.randn(10, 5, 4).double(), torch.randn(6, 5, 4).double()
    reference[:5, 0, 0], reference[5:, 0, 0], X[:, 0, 0] = -1, 1, 1
    close(output_change(net, reference, X, labels="each"), scores_of(*changes(net, reference, X), "each"))


def test_arrays_tensors_and_lists_are_alike():
    net, reference, X = make("mlp", torch.float32)
    expected = output_change(net, reference, X)
    assert_allclose(output_change(net, reference.numpy(), X.numpy()), expected, rtol=1e-6)
    assert_allclose(output_change(net, reference.numpy(), X), expected, rtol=1e-6)
    assert isinstance(expected, np.ndarray)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    assert_allclose(
        output_change(net, reference, X, labels=labels), output_change(net, reference, X, labels=labels.tolist())
    )
