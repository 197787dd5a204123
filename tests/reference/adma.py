"""ADMA by loops, scipy's tau and forward hooks on a rebuilt network."""

from copy import deepcopy

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from tests.reference import Given
from tests.reference.uncertainty import plain_uncertainty

ONE, TWO = [(-4, -2)], [(-4, -2), (-5, -2)]
TIE = 1e-4  # scores nearer than this may come in either order


def activations(net, X, places, pooled):
    """Output of each named module and the logits, as float64 arrays; cloned, since the next ReLU works in place."""
    seen = {}

    def keep(place):
        return lambda module, inputs, output: seen.update({place: output.clone()})

    hooks = [net.get_submodule(place).register_forward_hook(keep(place)) for place in places]
    with torch.no_grad():
        logits = net.eval()(torch.as_tensor(X, dtype=torch.float32))
    for hook in hooks:
        hook.remove()
    rows = [seen[place].mean((2, 3)) if pooled and seen[place].ndim == 4 else seen[place] for place in places]
    return [row.flatten(1).double().numpy() for row in rows], logits.double().softmax(1).numpy()


def current_network(world, estimator):
    """The network of a fitted classifier: M0 with its trained layers and new head inserted."""
    state = estimator.net_.module_.state_dict()
    net = deepcopy(world.net)
    with torch.random.fork_rng():  # tests must not change the global generator
        head = nn.Linear(state["head.weight"].shape[1], state["head.weight"].shape[0])
    net.set_submodule(world.head, head)
    names = {name: world.head + name[4:] if name.startswith("head.") else name[5:] for name in state}
    unexpected = net.load_state_dict({names[name]: value for name, value in state.items()}, strict=False)[1]
    assert not unexpected
    return net


def tau(x, y, constant=0.0):
    return kendalltau(x, y).statistic if len(set(x)) > 1 and len(set(y)) > 1 else constant


def plain_patterns(world, net, X, pair, alpha):
    """Observed and expected patterns (Eq. 3-8), a list of lists each, by loops."""
    places = [world.places[layer] for layer in pair]
    (c_A, c_B), _ = activations(world.net, world.X_source[world.centers], places, world.pooled)
    (x_A, x_B), _ = activations(net, X, places, world.pooled)
    (old_A, _), p_source = activations(world.net, X, places, world.pooled)
    K, norm = len(c_A), np.linalg.norm
    S_c = [[norm(c_A[j] - c_A[k]) - norm(c_B[j] - c_B[k]) for k in range(K)] for j in range(K)]
    observed, expected = [], []
    for i in range(len(X)):
        observed.append([norm(x_A[i] - c_A[k]) - norm(x_B[i] - c_B[k]) for k in range(K)])
        if alpha == "predict":
            weights = [p_source[i, column] for column in world.classes]
        else:
            distances = [norm(old_A[i] - c_A[k]) for k in range(K)]
            weights = [1.0 / d for d in distances] if min(distances) > 0 else [float(d == 0) for d in distances]
            weights = [w / sum(weights) for w in weights]
        expected.append([sum(weights[j] * S_c[j][k] for j in range(K)) for k in range(K)])
    return observed, expected


def plain_scores(world, net, X, pairs=TWO, alpha="distance", aggregate="mean", kind=None, lam=0.01, t=1, proba=None):
    """Scores (n,), and the rows with two nearly tied pattern values, whose tau may differ in float32."""
    patterns = [plain_patterns(world, net, X, pair, alpha) for pair in pairs]
    values = np.array([side for pattern in patterns for side in pattern])  # (2 P, n, K)
    gaps = np.diff(np.sort(values, axis=2), axis=2) / np.abs(values).max(axis=2, keepdims=True)
    fragile = gaps.min(axis=(0, 2)) < 1e-5
    n = len(X)
    if aggregate == "mean":
        d = [np.mean([(1 - tau(S[i], hat[i])) / 2 for S, hat in patterns]) for i in range(n)]
    else:
        v = [np.mean(np.var([np.array(S[i]) / np.linalg.norm(S[i]) for S, _ in patterns], axis=0)) for i in range(n)]
        d, fragile = [(x - min(v)) / (max(v) - min(v)) for x in v], np.zeros(n, bool)
    w = 0.0
    if kind is not None:
        w = min(lam * t, 1.0)
        p = activations(net, X, [], world.pooled)[1] if proba is None else proba
        d = [(1 - w) * a + w * b for a, b in zip(d, plain_uncertainty(p, kind), strict=True)]
    return np.array(d), fragile & (w < 1)


def assert_picks(picks, scores, fragile, n_instances):
    """The picks are distinct, in descending order of the oracle's scores, and no other image is better."""
    assert len(picks) == len(set(picks.tolist())) == n_instances
    left = np.setdiff1d(np.arange(len(scores)), picks)
    picked = scores[picks[~fragile[picks]]]
    if len(picked):
        lowest = np.minimum.accumulate(picked)
        assert (picked[1:] <= lowest[:-1] + TIE).all(), f"{picked} does not fall"
        assert (scores[left[~fragile[left]]] <= lowest[-1] + TIE).all()
    assert fragile.mean() < 0.2


ALTERNATIVES = {
    "adma": {
        "lam": [0.5],
        "t": [7],
        "alpha": ["predict"],
        "uncertainty": ["entropy", "margin", "least_confident"],
        "layers": [ONE],
        "aggregate": ["variance"],
        "batch": ["top"],
        "source": [Given("profile")],
        "n_initial": [3],
        "verbose": [True],
    }
}
