"""Expected model output change by torch.func and by autograd loops, with every gradient in full."""

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jacrev, vmap

from tests.reference import Given


def one_by_one(function, dims):
    """Like vmap, for operations that vmap does not support or warns about."""

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
    """Like jacrev, with one backward pass per output."""

    def jacobian(parameters, x):
        n = len(function(parameters, x))
        return one_by_one(lambda i: grad(lambda p: function(p, x)[int(i)])(parameters), (0,))(torch.arange(n))

    return jacobian


def changes(net, reference, X, output="logit", loops=False):
    """J(x) grad L(x', y') by torch.func with full gradients, (R, n, labels, outputs), and the posterior of X."""
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
    """Norms over the outputs, mean over the references, then the requested labels."""
    each = (np.abs(change).sum(3) if norm == "l1" else np.sqrt((change**2).sum(3))).mean(0)
    if isinstance(labels, str):
        return {"each": each, "posterior": (each * proba).sum(1), "map": each[np.arange(len(each)), proba.argmax(1)]}[
            labels
        ]
    return each[np.arange(len(each)), np.asarray(labels)]


def loop_scores(net, reference, X, labels, output="logit", norm="l1"):
    """The same, with one backward pass for each output of each reference and for each candidate."""
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


ALTERNATIVES = {
    "emoc": {
        "X_reference": [Given("X_reference")],
        "n_reference": [5],
        "output": ["probability"],
        "labels": ["posterior"],
        "batch": ["top"],
    }
}
