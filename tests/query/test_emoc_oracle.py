"""EMOC against plain oracles: torch.func, loops of autograd, true SGD steps, closed forms; written from the text."""

from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from modAL.models import ActiveLearner, Committee
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from skal import FrozenPrefixClassifier
from skal import query as strategies
from skal._random import seeded
from skal.gradients.change import output_change
from skal.query.sets import random_sets

OUTPUTS, NORMS = ["logit", "probability"], ["l1", "l2"]


def indices_of(strategy):
    """The strategy called directly, giving indices alone also under modAL 0.4.2, which wants scores with them."""

    def call(*args, **kwargs):
        result = strategy(*args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    return call


emoc, emoc_sets, sets = map(
    indices_of, [strategies.emoc_sampling, strategies.emoc_set_sampling, strategies.set_sampling]
)


# The oracles ---------------------------------------------------------------------------------------------------------


def one_by_one(function, dims):
    """Like vmap, for what vmap cannot do or warns of."""

    def mapped(*arguments):
        n = next(len(a) for a, dim in zip(arguments, dims, strict=True) if dim == 0)
        rows = [
            function(*(a if dim is None else a[i] for a, dim in zip(arguments, dims, strict=True))) for i in range(n)
        ]
        if isinstance(rows[0], dict):
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return torch.stack(rows)

    return mapped


def rows_of_jacobian(function):
    """Like jacrev, by one backward pass for each output."""

    def jacobian(parameters, x):
        n = len(function(parameters, x))
        return one_by_one(lambda i: grad(lambda p: function(p, x)[int(i)])(parameters), (0,))(torch.arange(n))

    return jacobian


def changes(net, reference, X, output="logit", loops=False):
    """J(x) grad L(x', y') by torch.func, every gradient in full: (R, n, labels, outputs); and the posterior of X."""
    vectorized, jacobian = (one_by_one, rows_of_jacobian) if loops else (vmap, jacrev)
    net = deepcopy(net).eval()
    trained = {name: value.detach() for name, value in net.named_parameters() if value.requires_grad}
    fixed = {name: value.detach() for name, value in net.named_parameters() if not value.requires_grad}
    buffers = dict(net.named_buffers())

    def logits(parameters, x):
        return functional_call(net, (parameters, fixed, buffers), (x.clone()[None],))[0]

    def outputs(parameters, x):
        return logits(parameters, x).softmax(0) if output == "probability" else logits(parameters, x)

    def loss(parameters, x, label):
        return F.cross_entropy(logits(parameters, x), label)

    with torch.no_grad():
        proba = vectorized(logits, (None, 0))(trained, X).softmax(1)
    every = torch.arange(proba.shape[1])
    jacobians = vectorized(jacobian(outputs), (None, 0))(trained, reference)
    gradients = vectorized(vectorized(grad(loss), (None, None, 0)), (None, 0, None))(trained, X, every)
    change = sum(torch.einsum("rcp,nyp->rnyc", jacobians[k].flatten(2), gradients[k].flatten(2)) for k in trained)
    return change.numpy(), proba.numpy()


def scores_of(change, proba, labels="map", norm="l1"):
    """Norms over the outputs, mean over the references, then the labels asked for."""
    each = (np.abs(change).sum(3) if norm == "l1" else np.sqrt((change**2).sum(3))).mean(0)
    if isinstance(labels, str):
        return {"each": each, "posterior": (each * proba).sum(1), "map": each[np.arange(len(each)), proba.argmax(1)]}[
            labels
        ]
    return each[np.arange(len(each)), np.asarray(labels)]


def loop_scores(net, reference, X, labels, output="logit", norm="l1"):
    """The same by one backward pass for each output of each reference and each candidate."""
    net = deepcopy(net).eval()
    trained = [p for p in net.parameters() if p.requires_grad]

    def gradient(value):
        found = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(trained, found, strict=True)]
        )

    jacobians = []
    for i in range(len(reference)):
        out = net(reference[i : i + 1].clone())[0]
        out = out.softmax(0) if output == "probability" else out
        jacobians.append(torch.stack([gradient(value) for value in out]))
    scores = []
    for i, label in enumerate(labels):
        step = gradient(F.cross_entropy(net(X[i : i + 1].clone()), torch.tensor([int(label)])))
        scores.append(np.mean([float((J @ step).norm(p=1 if norm == "l1" else 2)) for J in jacobians]))
    return np.array(scores)


def close(actual, expected, rtol=1e-8):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert_allclose(actual, expected, rtol=rtol, atol=rtol * 1e-2 * np.abs(expected).max())


# Networks ------------------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """Parts by name and a forward function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def after(*convs, channels, n_classes=3):
    """Convolutions and tanh in turn, average, head."""
    body = [part for conv in convs for part in (conv, nn.Tanh())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, n_classes))


def frozen(net, keep):
    """Only parameters whose name `keep` accepts are trainable."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(keep(name))
    return net


def tied():
    net = Wrapped(
        lambda s, x: s.head(torch.tanh(s.second(torch.tanh(s.first(x))))),
        first=nn.Linear(5, 5),
        second=nn.Linear(5, 5),
        head=nn.Linear(5, 3),
    )
    net.second.weight = net.first.weight
    return net


def tied_transposed():
    """A decoder that reads the encoder's weight through the functional interface."""
    return Wrapped(
        lambda s, x: s.head(F.linear(torch.tanh(s.first(x)), s.first.weight.t(), s.bias)),
        first=nn.Linear(5, 4),
        bias=nn.Parameter(torch.randn(5)),
        head=nn.Linear(5, 3),
    )


def twice():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.conv(torch.tanh(s.conv(x)))).mean((2, 3))),
        conv=nn.Conv2d(3, 3, 3, padding=1),
        head=nn.Linear(3, 3),
    )


def attention(fused=False):
    return Wrapped(
        lambda s, x: s.head(s.norm(x + s.attend(x + s.place, x, x, need_weights=not fused)[0]).mean(1)),
        attend=nn.MultiheadAttention(4, 2, batch_first=True),
        place=nn.Parameter(torch.randn(1, 5, 4)),
        norm=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
    )


def class_token():
    """A learnt token before the others, and a hidden layer on all tokens."""
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(torch.cat([s.token.expand(len(x), -1, -1), x], 1)))[:, :2].flatten(1)),
        token=nn.Parameter(torch.randn(1, 1, 4)),
        mlp=nn.Linear(4, 6),
        head=nn.Linear(12, 3),
    )


def sequence_first():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(x.transpose(0, 1))).sum(0)), mlp=nn.Linear(4, 6), head=nn.Linear(6, 3)
    )


def folded_tokens():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(x.reshape(-1, 4))).view(len(x), -1, 6).mean(1)),
        mlp=nn.Linear(4, 6),
        head=nn.Linear(6, 3),
    )


def folded_maps():
    """Channels become images of their own, as frames of a film do."""
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.norm(s.conv(x.flatten(0, 1)[:, None]))).view(len(x), 3, 4, -1).mean((1, 3))),
        conv=nn.Conv2d(1, 4, 3),
        norm=nn.GroupNorm(2, 4),
        head=nn.Linear(4, 3),
    )


def residual():
    def run(s, x):
        out = s.relu(s.bn1(s.conv1(x)))
        out = s.bn2(s.conv2(out))
        out += s.shortcut(x)
        return s.head(s.relu(out).mean((2, 3)))

    return Wrapped(
        run,
        conv1=nn.Conv2d(3, 5, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(5),
        conv2=nn.Conv2d(5, 6, 3, 1, 1, bias=False),
        bn2=nn.BatchNorm2d(6),
        shortcut=nn.Conv2d(3, 6, 1, 2),
        relu=nn.ReLU(inplace=True),
        head=nn.Linear(6, 4),
    )


def unused():
    net = Wrapped(lambda s, x: s.head(torch.tanh(s.first(x))), first=nn.Linear(5, 4), head=nn.Linear(4, 3))
    net.spare = nn.Linear(7, 2)
    return net


def channels_last():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(s.norm(s.conv(x).permute(0, 2, 3, 1)))).mean((1, 2))),
        conv=nn.Conv2d(3, 4, 2, 2),
        norm=nn.LayerNorm(4),
        mlp=nn.Linear(4, 5),
        head=nn.Linear(5, 3),
    )


VECTOR, IMAGE, TOKENS, LINE = (5,), (3, 7, 6), (5, 4), (3, 9)
NETS = {
    "linear-2": (lambda: nn.Linear(5, 2), VECTOR),
    "linear-no-bias": (lambda: nn.Linear(5, 4, bias=False), VECTOR),
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 4)), VECTOR),
    "mlp-2": (lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(inplace=True), nn.Linear(7, 2)), VECTOR),
    "many-classes": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 17)), VECTOR),
    "conv": (lambda: after(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3), channels=5), IMAGE),
    "stride": (lambda: after(nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(0, 2)), channels=4), IMAGE),
    "dilation": (lambda: after(nn.Conv2d(3, 4, 2, dilation=(3, 2), padding=1), channels=4), IMAGE),
    "groups": (lambda: after(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 3, groups=2, padding=1), channels=4), IMAGE),
    "depthwise": (
        lambda: after(nn.Conv2d(3, 3, 3, groups=3, padding=1, bias=False), nn.Conv2d(3, 6, 1), channels=6),
        IMAGE,
    ),
    "same": (lambda: after(nn.Conv2d(3, 4, 3, padding="same", dilation=2), channels=4), IMAGE),
    "same-even": (lambda: after(nn.Conv2d(3, 4, (3, 5), padding="same"), channels=4, n_classes=2), IMAGE),
    "valid": (lambda: after(nn.Conv2d(3, 4, 3, padding="valid"), channels=4), IMAGE),
    "rectangular": (lambda: after(nn.Conv2d(3, 4, (1, 5), padding=(0, 1)), nn.Conv2d(4, 4, (3, 1)), channels=4), IMAGE),
    "pointwise-strided": (lambda: after(nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 5, 1), channels=5), IMAGE),
    "reflect": (lambda: after(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), channels=4), IMAGE),
    "circular": (lambda: after(nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), channels=4), IMAGE),
    "kernel-of-all": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, (7, 6)), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        IMAGE,
    ),
    "transposed": (lambda: after(nn.ConvTranspose2d(3, 4, 2, stride=2), channels=4), IMAGE),
    "batch-norm": (lambda: after(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), channels=4), IMAGE),
    "batch-norm-1d": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "group-norm": (lambda: after(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), channels=6), IMAGE),
    "layer-norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "layer-norm-maps": (lambda: after(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 5, 4)), channels=4), IMAGE),
    "instance-norm": (lambda: after(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), channels=4), IMAGE),
    "residual": (residual, IMAGE),
    "biases": (lambda: frozen(residual(), lambda name: name.endswith("bias")), IMAGE),
    "weights": (lambda: frozen(residual(), lambda name: name.endswith("weight")), IMAGE),
    "norms": (lambda: frozen(residual(), lambda name: name.startswith("bn")), IMAGE),
    "frozen-first": (lambda: frozen(residual(), lambda name: "2" in name or "head" in name), IMAGE),
    "frozen-last": (lambda: frozen(residual(), lambda name: name == "conv1.weight"), IMAGE),
    "head": (lambda: frozen(residual(), lambda name: "head" in name), IMAGE),
    "prelu": (lambda: nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 3)), VECTOR),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "twice": (twice, IMAGE),
    "tied": (tied, VECTOR),
    "tied-transposed": (tied_transposed, VECTOR),
    "attention": (attention, TOKENS),
    "attention-fused": (lambda: attention(fused=True), TOKENS),
    "class-token": (class_token, TOKENS),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)), TOKENS),
    "sequence-first": (sequence_first, TOKENS),
    "folded-tokens": (folded_tokens, TOKENS),
    "folded-maps": (folded_maps, IMAGE),
    "channels-last": (channels_last, IMAGE),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
        LINE,
    ),
    "unused": (unused, VECTOR),
    "weight-norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)),
        VECTOR,
    ),
}


LOOPS = {"attention-fused", "prelu", "weight-norm"}  # vmap fails or warns


def make(name, dtype=torch.float64, n_reference=5, n=7):
    """A network with weights large enough to be sure of some labels, references and candidates."""
    build, shape = NETS[name]
    with seeded(3), torch.no_grad():
        net = build().to(dtype)
        for part in net.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.3)
        return net, torch.randn(n_reference, *shape, dtype=dtype), 1.5 * torch.randn(n, *shape, dtype=dtype)


# The score -----------------------------------------------------------------------------------------------------------


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


# The classifier and the strategies -----------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A fitted classifier of vectors rebuilt in double precision: the whole network, its frozen part and head."""

    def __init__(self, body, estimator):
        super().__init__()
        self.body, self.normalize = deepcopy(body)[:-1], estimator.normalize
        state = estimator.net_.module_.state_dict()
        rows, columns = state["head.weight"].shape
        with seeded(0):
            self.head = nn.Linear(columns, rows)
        kept = {name[5:]: value for name, value in state.items() if name.startswith("body.")}
        assert not self.body.load_state_dict(kept, strict=False)[1]
        self.head.load_state_dict({name: state[f"head.{name}"] for name in ("weight", "bias")})
        linear = [part for part in self.body if isinstance(part, nn.Linear)]
        for part in linear[: estimator.n_frozen_]:
            part.requires_grad_(False)
        self.double()

    def forward(self, x):
        z = self.body(x)
        return self.head(z / z.norm(dim=1, keepdim=True) * z.shape[1] ** 0.5 if self.normalize else z)


def body():
    with seeded(5):
        return nn.Sequential(
            nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.Tanh(), nn.Linear(9, 4)
        )


def vectors(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


def blank(**options):
    return FrozenPrefixClassifier(
        body(), **{"n_frozen": 1, "max_epochs": 3, "min_steps": 0, "lr": 0.02, "random_state": 0} | options
    )


CLASSES = np.array(["dog", "ant", "cat"])


@pytest.fixture(scope="module")
def fitted():
    return blank().fit(vectors(24, 0), CLASSES[np.arange(24) % 3])


REFERENCE, POOL = vectors(6, 1), 2 * vectors(20, 2)


def oracle_each(estimator, output="logit", reference=REFERENCE, pool=POOL):
    net = Adapted(body(), estimator)
    return changes(net, torch.as_tensor(reference).double(), torch.as_tensor(pool).double(), output)


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"n_frozen": 0}, {"n_frozen": 3}, {"n_frozen": 2}])
def test_classifier(options):
    estimator = blank(**options).fit(vectors(24, 0), CLASSES[np.arange(24) % 3])
    given = CLASSES[np.arange(20) % 3]
    for output in OUTPUTS:
        change, proba = oracle_each(estimator, output)
        assert_allclose(estimator.predict_proba(POOL), proba, atol=1e-5)
        for labels in ["map", "posterior", "each", given]:
            numbers = labels if isinstance(labels, str) else np.searchsorted(estimator.classes_, labels)
            for norm in NORMS:
                asked = {"output": output, "labels": labels, "norm": norm}
                expected, scores = (
                    scores_of(change, proba, numbers, norm),
                    estimator.output_change(REFERENCE, POOL, **asked),
                )
                close(scores, expected, rtol=1e-3)
        assert_allclose(output_change(estimator, REFERENCE, POOL, **asked), scores, rtol=1e-6)
        learner = ActiveLearner(estimator)
        assert_allclose(output_change(learner, REFERENCE, POOL, **asked), scores, rtol=1e-6)


def test_classifier_names_bad_options(fitted):
    for options, message in [
        ({"output": "x"}, "'x'"),
        ({"labels": "x"}, "'x'"),
        ({"norm": 2}, "2"),
        ({"labels": np.full(20, "cow")}, "cow"),
        ({"labels": CLASSES}, "3"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.output_change(REFERENCE, POOL, **options)
    with pytest.raises(ValueError):
        fitted.output_change(REFERENCE[:0], POOL)
    with pytest.raises(ValueError):
        fitted.output_change(REFERENCE, POOL[:0])


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("labels", ["map", "posterior"])
def test_emoc_sampling_takes_the_highest(fitted, output, labels):
    scores = scores_of(*oracle_each(fitted, output), labels)
    options = {"X_reference": REFERENCE, "output": output, "labels": labels, "random_state": 0}
    for n_instances in (1, 5, 20):
        expected = np.argsort(-scores)[:n_instances]
        assert_array_equal(emoc(fitted, POOL, n_instances, **options), expected)
        learner = ActiveLearner(fitted, query_strategy=strategies.emoc_sampling)
        indices, rows = learner.query(POOL, n_instances=n_instances, **options)
        assert_array_equal(indices, expected)
        assert_array_equal(rows, POOL[expected])


def test_emoc_sampling_draws_its_references(fitted):
    every = emoc(fitted, POOL, 20, n_reference=1000, random_state=0)  # no more than there are: all of the pool
    assert_array_equal(every, np.argsort(-scores_of(*oracle_each(fitted, reference=POOL))))
    learner = ActiveLearner(fitted, X_training=vectors(24, 0), y_training=CLASSES[np.arange(24) % 3])
    both = np.concatenate([POOL, vectors(24, 0)])
    expected = np.argsort(-scores_of(*oracle_each(learner.estimator, reference=both)))
    assert_array_equal(emoc(learner, POOL, 20, n_reference=44, random_state=0), expected)
    few = [emoc(fitted, POOL, 20, n_reference=1, random_state=seed).tolist() for seed in (0, 0, 1, 2, 3, 4)]
    assert few[0] == few[1]
    assert len({tuple(picks) for picks in few}) > 1


@pytest.mark.parametrize("strategy", [strategies.emoc_sampling, strategies.emoc_set_sampling, strategies.set_sampling])
def test_strategies_say_what_is_wrong(fitted, strategy):
    for n_instances in (0, 21, -1, 2.5):
        with pytest.raises(ValueError, match=f"n_instances={n_instances}"):
            strategy(fitted, POOL, n_instances, random_state=0)
    with pytest.raises(ValueError, match="empty"):
        strategy(fitted, POOL[:0], 1, random_state=0)
    bad = {
        "emoc_sampling": {"output": "x", "labels": "each", "n_reference": 0},
        "emoc_set_sampling": {"output": "x", "groups": "class", "n_reference": -3, "n_sets": 0},
        "set_sampling": {"score": "min", "groups": "class", "n_sets": 0},
    }
    for option, value in bad[strategy.__name__].items():
        with pytest.raises(ValueError, match=f"{option}.*{value}|{value}.*{option}"):
            strategy(fitted, POOL, 2, **{option: value, "random_state": 0})
    if "set" in strategy.__name__:
        with pytest.raises(ValueError, match="y_pool"):
            strategy(fitted, POOL, 2, groups="truth", random_state=0)
        with pytest.raises(ValueError):
            strategy(fitted, POOL, 2, groups="truth", y_pool=np.zeros(19), random_state=0)


@pytest.mark.parametrize("strategy", [strategies.emoc_sampling, strategies.emoc_set_sampling])
def test_estimators_without_gradients(strategy):
    model = LogisticRegression().fit(POOL[:6], np.arange(6) % 3)
    for learner in (model, ActiveLearner(model), make_pipeline(StandardScaler(), LogisticRegression())):
        if not hasattr(learner, "predict_proba") or isinstance(learner, ActiveLearner | LogisticRegression):
            with pytest.raises(ValueError, match="LogisticRegression"):
                strategy(learner, POOL, 2, random_state=0)
        else:
            learner.fit(POOL[:6], np.arange(6) % 3)
            with pytest.raises(ValueError, match="LogisticRegression"):
                strategy(learner, POOL, 2, random_state=0)


@pytest.mark.parametrize("strategy", [emoc, emoc_sets, sets])
def test_unfitted_learners_query_at_random(strategy):
    draws = []
    for seed in (0, 0, 1, 2):
        for learner in (blank(), ActiveLearner(blank())):
            picks = strategy(learner, POOL, 6, random_state=seed)
            assert len(set(picks.tolist())) == 6
            assert set(picks.tolist()) <= set(range(20))
            draws.append(picks.tolist())
    assert draws[0] == draws[1] == draws[2]
    assert len({tuple(picks) for picks in draws}) > 1


@pytest.mark.parametrize("strategy", [emoc, emoc_sets, sets])
def test_seeds(fitted, strategy):
    options = {} if strategy is sets else {"n_reference": 3}
    once, again = (strategy(fitted, POOL, 4, random_state=7, **options) for _ in range(2))
    assert_array_equal(once, again)
    state = np.random.RandomState(7)
    assert_array_equal(strategy(fitted, POOL, 4, random_state=state, **options), once)
    assert len(set(once.tolist())) == 4


def test_pipelines(fitted):
    scaler = StandardScaler().fit(3 + 2 * vectors(40, 9))
    pipeline = make_pipeline(scaler, fitted)
    reference, pool = scaler.transform(REFERENCE), scaler.transform(POOL)
    expected = np.argsort(-scores_of(*oracle_each(fitted, "logit", reference, pool)))
    assert_array_equal(emoc(pipeline, POOL, 20, X_reference=REFERENCE, random_state=0), expected)
    assert_array_equal(emoc(ActiveLearner(pipeline), POOL, 20, X_reference=REFERENCE, random_state=0), expected)
    scores = output_change(pipeline, REFERENCE, POOL)
    assert_allclose(scores, fitted.output_change(reference, pool), rtol=1e-5)
    assert_array_equal(
        emoc_sets(pipeline, POOL, 3, X_reference=REFERENCE, random_state=0),
        emoc_sets(fitted, pool, 3, X_reference=reference, random_state=0),
    )
    unfitted = make_pipeline(StandardScaler(), blank())
    assert len(set(emoc(unfitted, POOL, 5, random_state=0).tolist())) == 5
    assert len(set(emoc_sets(unfitted, POOL, 5, random_state=0).tolist())) == 5


def test_committees_average():
    y = CLASSES[np.arange(24) % 3]
    learners = [
        ActiveLearner(blank(random_state=seed, n_frozen=seed), X_training=vectors(24, 0), y_training=y)
        for seed in (0, 2)
    ]
    committee = Committee(learners)
    scores = np.mean([scores_of(*oracle_each(learner.estimator)) for learner in learners], 0)
    assert_array_equal(emoc(committee, POOL, 20, X_reference=REFERENCE, random_state=0), np.argsort(-scores))


def test_a_new_class_has_scores_too(fitted):
    grown = deepcopy(fitted).partial_fit(5 + vectors(4, 11), np.repeat("eel", 4))
    assert grown.output_change(REFERENCE, POOL, labels="each").shape == (20, 4)
    close(grown.output_change(REFERENCE, POOL), scores_of(*oracle_each(grown)), rtol=1e-3)


# Sets ----------------------------------------------------------------------------------------------------------------


def set_score(each, proba, members):
    """Eq. 5: the set has one label, that of its mean posterior, and every member is scored with it."""
    return each[members, proba[members].mean(0).argmax()].sum()


@pytest.mark.parametrize("output", OUTPUTS)
def test_members_are_scored_with_the_label_of_their_set(fitted, output):
    change, proba = oracle_each(fitted, output)
    each, own = scores_of(change, proba, "each"), scores_of(change, proba)
    rng, told_apart = np.random.default_rng(0), 0
    for trial in range(30):
        truth = rng.permutation(np.arange(20) % 4)
        groups = [np.flatnonzero(truth == k) for k in range(4)]
        values = np.array([set_score(each, proba, members) for members in groups])
        best = groups[values.argmax()]
        told_apart += values.argmax() != np.argmax([own[members].sum() for members in groups])
        options = {"groups": "truth", "y_pool": truth, "n_sets": 60, "X_reference": REFERENCE, "output": output}
        picks = emoc_sets(fitted, POOL, 5, random_state=trial, **options)
        assert_array_equal(np.sort(picks), best)
        if trial == 0:
            learner = ActiveLearner(fitted, query_strategy=strategies.emoc_set_sampling)
            indices, rows = learner.query(POOL, n_instances=5, random_state=trial, **options)
            assert_array_equal(np.sort(indices), best)
            assert_array_equal(rows, POOL[indices])
    assert told_apart  # own labels would have picked other sets


def same_prediction(proba, K):
    """All sets of K images with one prediction."""
    label = proba.argmax(1)
    return [list(s) for s in combinations(range(len(proba)), K) if len(set(label[list(s)])) == 1]


@pytest.mark.parametrize("K", [1, 2])
def test_the_best_of_all_sets(fitted, K):
    pool = POOL[:9]
    change, proba = oracle_each(fitted, pool=pool)
    each = scores_of(change, proba, "each")
    possible = same_prediction(proba, K)
    assert len(possible) > 3
    best = max(possible, key=lambda members: set_score(each, proba, members))
    picks = emoc_sets(fitted, pool, K, X_reference=REFERENCE, n_sets=2000, random_state=0)
    assert sorted(picks.tolist()) == best
    top = np.sort(proba, 1)[:, ::-1]
    scores = {
        "least_confident": -top[:, 0],
        "margin": top[:, 1] - top[:, 0],
        "entropy": -(proba * np.log(proba)).sum(1),
        "gini": (proba * (1 - proba)).sum(1),
        "most_confident": top[:, 0],
        "callable": pool[:, 2],
    }
    for kind, values in scores.items():
        score = (lambda learner, X: X[:, 2]) if kind == "callable" else kind
        best = max(possible, key=lambda members: values[members].mean())
        picks = sets(fitted, pool, K, score=score, n_sets=2000, random_state=1)
        assert sorted(picks.tolist()) == best, kind


def test_sets_of_any_probabilistic_classifier():
    model = LogisticRegression().fit(POOL[:6], np.arange(6) % 2)
    proba = model.predict_proba(POOL[:8])
    for kind, sign in [("least_confident", -1), ("most_confident", 1)]:
        best = max(same_prediction(proba, 2), key=lambda members: sign * proba[members].max(1).mean())
        learner = ActiveLearner(model, query_strategy=strategies.set_sampling)
        for one in (model, learner):
            picks = sets(one, POOL[:8], 2, score=kind, random_state=0)
            assert sorted(picks.tolist()) == best
        indices, rows = learner.query(POOL[:8], n_instances=2, score=kind, random_state=0)
        assert sorted(indices.tolist()) == best
        assert_array_equal(rows, POOL[indices])


def test_random_sets_are_drawn_evenly(fitted):
    label = fitted.predict(POOL)
    seen = np.zeros(20)
    for seed in range(40):
        picks = sets(fitted, POOL, 2, score="random", n_sets=20, random_state=seed)
        assert len(set(label[picks])) == 1
        assert len(set(picks.tolist())) == 2
        seen[picks] += 1
    assert (seen[[(label == one).sum() >= 2 for one in label]] > 0).mean() > 0.9


@pytest.mark.parametrize("strategy", [emoc_sets, sets])
def test_clusters_keep_together(fitted, strategy):
    centres = 2 * vectors(3, 8)
    pool = np.repeat(centres, 20, axis=0) + 1e-3 * vectors(60, 4)
    features = fitted.transform(pool).reshape(3, 20, -1)
    apart = np.linalg.norm(features.mean(1)[:, None] - features.mean(1), axis=2)[np.triu_indices(3, 1)].min()
    assert features.std(1).max() < 0.01 * apart
    picks = strategy(fitted, pool, 4, groups="cluster", n_sets=50, random_state=0)
    assert len(set(picks.tolist())) == 4
    assert len(set(picks // 20)) == 1


def test_truth_may_be_words(fitted):
    truth = np.array(["a", "b"])[np.arange(20) % 2]
    for strategy in (emoc_sets, sets):
        picks = strategy(fitted, POOL, 10, groups="truth", y_pool=truth, random_state=0)
        assert len(set(truth[picks])) == 1
        assert len(set(picks.tolist())) == 10


def test_random_sets():
    groups = np.array(["a"] * 40 + ["b"] * 5 + ["c"] * 4)
    drawn = random_sets(groups, 5, 3000, random_state=0)
    assert drawn.shape == (3000, 5)
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    names = groups[drawn]
    assert (names == names[:, :1]).all()
    assert set(names[:, 0]) == {"a", "b"}  # there are too few of c
    assert 0.45 < (names[:, 0] == "a").mean() < 0.55  # the class is drawn, not the image
    counts = np.bincount(drawn[names[:, 0] == "a"].ravel(), minlength=40)[:40]
    assert counts.min() > 0.7 * counts.mean()
    assert counts.max() < 1.3 * counts.mean()
    assert_array_equal(random_sets(groups, 5, 3000, random_state=0), drawn)
    assert not np.array_equal(random_sets(groups, 5, 3000, random_state=1), drawn)
    assert random_sets(groups, 1, random_state=2).shape == (1000, 1)
    mixed = random_sets(groups, 49, 3, random_state=0)  # no class is as large: of all images
    assert all(sorted(row) == list(range(49)) for row in mixed.tolist())


@pytest.mark.parametrize(("set_size", "n_sets"), [(0, 5), (-1, 5), (4, 5), (2, 0), (2, -1), (1.5, 2)])
def test_impossible_random_sets(set_size, n_sets):
    with pytest.raises(ValueError):
        random_sets([0, 0, 1], set_size, n_sets, random_state=0)
