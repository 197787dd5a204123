"""ADMA against a plain oracle: Python loops, scipy's tau, forward hooks on a rebuilt network; written from the text."""

from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner, Committee
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kendalltau
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform
from skal.numerics.distances import euclidean_distances
from skal.numerics.kendall import kendall_tau_b
from skal.query.adma import (
    adma_sampling,
    distance_weights,
    distinctiveness,
    expected_pattern,
    pattern_variance,
    trade_off,
    transformation_pattern,
)
from skal.query.uncertainty import random_sampling, uncertainty
from skal.source import SourceProfile, class_centers

ONE, TWO = [(-4, -2)], [(-4, -2), (-5, -2)]
KINDS = ["gini", "entropy", "margin", "least_confident"]
PRECISIONS = [(np.float64, 1e-6), (np.float32, 1e-4)]
TIE = 1e-4  # scores nearer than this may come in either order


def indices_of(strategy):
    """The strategy called directly, giving indices alone also under modAL 0.4.2, which wants scores with them."""

    def call(*args, **kwargs):
        result = strategy(*args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    return call


adma, at_random = indices_of(adma_sampling), indices_of(random_sampling)


# The oracle ----------------------------------------------------------------------------------------------------------


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
    """The network of a fitted classifier: M0 with its trained layers and its new head put in."""
    state = estimator.net_.module_.state_dict()
    net = deepcopy(world.net)
    with torch.random.fork_rng():  # the project's tests leave the global generator alone
        head = nn.Linear(state["head.weight"].shape[1], state["head.weight"].shape[0])
    net.set_submodule(world.head, head)
    names = {name: world.head + name[4:] if name.startswith("head.") else name[5:] for name in state}
    unexpected = net.load_state_dict({names[name]: value for name, value in state.items()}, strict=False)[1]
    assert not unexpected
    return net


def tau(x, y, constant=0.0):
    return kendalltau(x, y).statistic if len(set(x)) > 1 and len(set(y)) > 1 else constant


def oracle_patterns(world, net, X, pair, alpha):
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


def oracle_uncertainty(proba, kind):
    out = []
    for p in proba.tolist():
        top = sorted(p, reverse=True)
        if kind == "gini":
            out.append(sum(q * (1 - q) for q in p))
        elif kind == "entropy":
            out.append(-sum(q * np.log(q) for q in p if q > 0) / np.log(len(p)) if len(p) > 1 else 0.0)
        elif kind == "margin":
            out.append(1 - (top[0] - top[1]) if len(p) > 1 else 0.0)
        else:
            out.append(1 - top[0])
    return np.array(out)


def oracle_scores(world, net, X, pairs=TWO, alpha="distance", aggregate="mean", kind=None, lam=0.01, t=1, proba=None):
    """Scores (n,), and which rows have two nearly tied pattern values, whose tau float32 may decide either way."""
    patterns = [oracle_patterns(world, net, X, pair, alpha) for pair in pairs]
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
        d = [(1 - w) * a + w * b for a, b in zip(d, oracle_uncertainty(p, kind), strict=True)]
    return np.array(d), fragile & (w < 1)


def assert_picks(picks, scores, fragile, n_instances):
    """The picks are distinct, in descending order of the oracle's scores, and nothing left out is better."""
    assert len(picks) == len(set(picks.tolist())) == n_instances
    left = np.setdiff1d(np.arange(len(scores)), picks)
    picked = scores[picks[~fragile[picks]]]
    if len(picked):
        lowest = np.minimum.accumulate(picked)
        assert (picked[1:] <= lowest[:-1] + TIE).all(), f"{picked} does not fall"
        assert (scores[left[~fragile[left]]] <= lowest[-1] + TIE).all()
    assert fragile.mean() < 0.2


# Networks, source images, pools --------------------------------------------------------------------------------------


def convnet():
    parts = {}
    for i, (before, after) in enumerate([(3, 6), (6, 8), (8, 10), (10, 12)], start=1):
        parts |= {f"conv{i}": nn.Conv2d(before, after, 3, padding=1, bias=i % 2 == 0)}
        parts |= {f"bn{i}": nn.BatchNorm2d(after), f"relu{i}": nn.ReLU(inplace=True)}
        if i % 2:
            parts |= {f"pool{i}": nn.MaxPool2d(2)}
    parts |= {"average": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(12, 11)}
    parts |= {"relu5": nn.ReLU(inplace=True), "drop": nn.Dropout(), "head": nn.Linear(11, 9)}
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    return net


def mlp():
    sizes = [5, 12, 10, 9, 8]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(8, 7))


def mobilenet():
    from torchvision.models import mobilenet_v2  # after skal, which gets along without torchvision's compiled operators

    return mobilenet_v2(num_classes=6)


def make_world(name):
    rng = np.random.default_rng(3)
    convs = {-5: "relu2", -4: "pool3", -2: "relu5"}  # a pool follows conv3, none conv2
    inverted = {-5: "features.17.conv.0", -4: "features.17.conv.1", -2: "classifier.0"}
    net, places, head, classes, shape, n_frozen = {
        "mlp": (mlp, {-5: "1", -4: "3", -2: "7"}, "8", range(7), (5,), 0),
        "convnet": (convnet, convs, "head", (0, 2, 3, 5, 7, 8), (3, 16, 16), 1),
        "convnet-maps": (convnet, convs, "head", (0, 2, 3, 5, 7, 8), (3, 16, 16), 1),
        "mobilenet": (mobilenet, inverted, "classifier.1", range(6), (3, 32, 32), 47),
    }[name]

    def images(n):
        draw = np.random.default_rng(n)
        contrast = draw.uniform(0.5, 2, size=(n,) + (1,) * len(shape))
        return np.float32(draw.normal(size=(n, *shape)) * contrast)

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        net = net()
        for module in net.modules():  # batch normalisation gets statistics of its own input, or the signal dies out
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        net.train()(torch.as_tensor(images(24)))
    w = SimpleNamespace(net=net, places=places, head=head, classes=list(classes), pooled=name != "convnet-maps")
    w.net.eval()
    w.before = deepcopy(w.net.state_dict())
    w.X_source, w.y_source = images(3 * len(classes)), rng.permutation(np.repeat(w.classes, 3))
    w.profile = SourceProfile(w.net, layers=TWO, pooled=w.pooled).fit(w.X_source, w.y_source)
    w.centers = []
    (z,), _ = activations(w.net, w.X_source, [places[-2]], True)  # the head's input
    for k in w.classes:
        members = np.flatnonzero(w.y_source == k)
        far = [np.linalg.norm(z[i] - sum(z[j] for j in members) / len(members)) for i in members]
        w.centers.append(members[int(np.argmin(far))])
    w.images, w.X, w.X_labelled, w.y_labelled = images, images(12), images(6), np.array([0, 1, 2, 0, 1, 2])
    w.blank = lambda **params: FrozenPrefixClassifier(
        w.net,
        **{
            "n_frozen": n_frozen,
            "source": w.profile,
            "lr": 0.02,
            "relative_lr": False,
            "normalize": False,
            "class_weight": None,
            "max_epochs": 3,
            "min_steps": 0,
            "batch_size": 3,
            "random_state": 0,
        }
        | params,
    )
    w.learner = ActiveLearner(w.blank(), adma_sampling, w.X_labelled, w.y_labelled)
    w.current = current_network(w, w.learner.estimator)
    return w


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads waiting for each other make these small nets 30 times slower
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["mlp", "convnet", "convnet-maps", "mobilenet"])
def world(request):
    return make_world(request.param)


@pytest.fixture(scope="module")
def toy():
    return make_world("mlp")


# Pure functions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
@pytest.mark.parametrize("K", [1, 2, 3, 8, 61])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_kendall_and_distinctiveness_against_scipy(K, levels, dtype, tol):
    rng = np.random.default_rng(K)
    x, y = (rng.integers(0, levels, size=(2, 25, K)) / 7).astype(dtype) - dtype(0.5)
    x[0], y[1] = x[0, 0], y[1, 0]  # constant rows
    x[2], y[3] = y[2], -x[3]
    want = np.array([tau(a, b, constant=np.nan) for a, b in zip(x, y, strict=True)])
    assert_allclose(kendall_tau_b(x, y), want, atol=tol)
    assert np.isnan(want[:2]).all()
    d = distinctiveness(x, y)
    assert_allclose(d, np.where(np.isnan(want), 0.5, (1 - want) / 2), atol=tol)
    assert ((d >= 0) & (d <= 1)).all()
    assert_allclose(distinctiveness(x, -y), 1 - d, atol=tol)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert_allclose(distinctiveness(np.arctan(x), 3 * y**3), d, atol=tol)  # only the order matters


def test_kendall_edges():
    assert_allclose(kendall_tau_b([[0.0, -0.0, 1.0]], [[1.0, 1.0, 2.0]]), [1.0])  # the two zeros are one value
    assert_allclose(kendall_tau_b([[1, 2, 3]], [[-np.inf, 0.0, np.inf]]), [1.0])
    assert kendall_tau_b(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)
    big = np.arange(1500)[None]
    assert_allclose(kendall_tau_b(big, -big), [-1.0])
    shuffled = np.random.default_rng(0).permutation(1500)[None] // 3
    assert_allclose(kendall_tau_b(big[:, ::-1], shuffled), [kendalltau(big[0, ::-1], shuffled[0]).statistic], atol=1e-9)
    for bad in ([[1.0, np.nan]], [[1.0, 2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(ValueError):
            kendall_tau_b([[1.0, 2.0]], bad)


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_distances(offset, dtype, tol):
    rng = np.random.default_rng(0)
    X, Y = (rng.normal(size=(9, 30)) + offset).astype(dtype), (rng.normal(size=(6, 30)) + offset).astype(dtype)
    Y[0], Y[1] = X[3], X[4] + dtype(2.0**-10)
    want = [[np.linalg.norm(x.astype(float) - y.astype(float)) for y in Y] for x in X]
    assert_allclose(euclidean_distances(X, Y), want, rtol=tol)
    assert euclidean_distances(X, Y)[3, 0] == 0


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
def test_pattern_functions(dtype, tol):
    rng = np.random.default_rng(0)
    to_A, to_B = rng.uniform(0.1, 9, size=(2, 11, 6)).astype(dtype)
    to_A[4, 2] = 0
    source, patterns = rng.normal(size=(6, 6)).astype(dtype), rng.normal(size=(3, 11, 6)).astype(dtype)
    n, K, P = range(11), range(6), range(3)
    assert_allclose(transformation_pattern(to_A, to_B), [[to_A[i, k] - to_B[i, k] for k in K] for i in n], atol=tol)
    weights = distance_weights(to_A)
    want = [[(1 / to_A[i, k]) / sum(1 / to_A[i, j] for j in K) if i != 4 else float(k == 2) for k in K] for i in n]
    assert_allclose(weights, want, atol=tol)
    assert_array_equal(weights[4], np.eye(6)[2])
    want = [[sum(weights[i, j] * source[j, k] for j in K) for k in K] for i in n]
    assert_allclose(expected_pattern(weights, source), want, atol=tol)
    scaled = [[[patterns[p, i, k] / np.sqrt(sum(patterns[p, i] ** 2)) for p in P] for k in K] for i in n]
    variances = [[sum((s - sum(over_p) / 3) ** 2 for s in over_p) / 3 for over_p in scaled[i]] for i in n]
    want = [sum(variances[i]) / 6 for i in n]
    assert_allclose(pattern_variance(patterns), want, atol=tol)
    assert_allclose(pattern_variance(patterns * dtype(5)), want, atol=tol)


def test_degenerate_patterns_stay_finite():
    assert_allclose(distance_weights([[1e-310, 1.0]]), [[1.0, 0.0]], atol=1e-12)
    assert_allclose(distance_weights([[0.0, 0.0, 1.0]]).sum(1), 1.0)
    assert np.isfinite(pattern_variance([[[0.0, 0.0]], [[3.0, 4.0]]])).all()


@pytest.mark.parametrize(("dtype", "tol"), PRECISIONS)
@pytest.mark.parametrize("C", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_uncertainty(kind, C, dtype, tol):
    proba = np.random.default_rng(C).dirichlet(np.full(C, 0.4), size=30).astype(dtype)
    proba = np.concatenate([proba, np.eye(C, dtype=dtype), np.full((1, C), 1 / C, dtype)])
    u = uncertainty(proba, kind)
    assert_allclose(u, oracle_uncertainty(proba, kind), atol=tol)
    assert ((u >= 0) & (u <= 1 + tol / 10)).all()
    assert_allclose(u[30 : 30 + C], 0, atol=tol)
    assert u[-1] >= u.max() - tol


@pytest.mark.parametrize(("lam", "t"), [(0.01, 1), (0.1, 5), (0.5, 2), (0.5, 9), (0.0, 4), (1.0, 1), (7.0, 1)])
def test_trade_off(lam, t):
    rng = np.random.default_rng(t)
    d, u = rng.uniform(size=(2, 20))
    w = min(lam * t, 1)
    score = trade_off(d, u, lam, t)
    assert_allclose(score, [(1 - w) * a + w * b for a, b in zip(d, u, strict=True)], atol=1e-12)
    assert ((score >= 0) & (score <= 1)).all()


# Centres -------------------------------------------------------------------------------------------------------------


def test_centres_by_hand():
    # the mean of class 0 is (2, 0): the sample there belongs to class 1 and must not be its centre
    z = np.array([[2.0, 0.0], [0.0, 0.0], [5.0, 0.0], [1.0, 0.0], [2.0, 3.1], [2.0, 6.0], [7.0, 7.0]])
    assert_array_equal(class_centers(z, np.array([1, 0, 0, 0, 1, 1, 2])), [3, 4, 6])


def test_centres_against_oracle(world):
    assert_array_equal(world.profile.classes_, world.classes)
    assert_array_equal(world.profile.center_indices_, world.centers)
    assert_array_equal(world.y_source[world.profile.center_indices_], world.classes)
    for pair in TWO:
        rows, _ = activations(world.net, world.X_source[world.centers], [world.places[i] for i in pair], world.pooled)
        for layer, want in zip(pair, rows, strict=True):
            assert_allclose(world.profile.centers_[layer], want, rtol=1e-4, atol=1e-5)
        _, S_c = oracle_patterns(world, world.net, world.X_source[world.centers], pair, "distance")
        S, _ = oracle_patterns(world, world.net, world.X_source[world.centers], pair, "distance")
        assert_allclose(world.profile.patterns(pair), S, rtol=1e-4, atol=1e-4)
        assert_allclose(S_c, S, rtol=1e-4, atol=1e-3)  # a centre expects its own pattern


# The classifier's activations ----------------------------------------------------------------------------------------


def test_activations_against_hooks(world):
    layers = [-5, -4, -2]
    for pooled in (False, True):
        for estimator, net in [(world.blank(), world.net), (world.learner.estimator, world.current)]:
            want, _ = activations(net, world.X, [world.places[i] for i in layers], pooled)
            for got, rows in zip(estimator.activations(world.X, layers, pooled=pooled), want, strict=True):
                assert_allclose(got, rows, rtol=1e-4, atol=1e-5)
        got = world.learner.estimator.activations(world.X, layers, pooled=pooled, pretrained=True)
        for a, b in zip(got, world.blank().activations(world.X, layers, pooled=pooled), strict=True):
            assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    proba = activations(world.current, world.X, [], True)[1]
    assert_allclose(world.learner.predict_proba(world.X), proba, atol=1e-4)
    assert not np.allclose(want[1], activations(world.net, world.X, [world.places[-4]], True)[0], atol=1e-3), "A stood"
    for name, value in world.net.state_dict().items():
        assert torch.equal(value, world.before[name]), f"the given module was mutated in {name}"


def test_a_named_layer_is_not_overwritten_by_the_relu_in_place():
    w = make_world("convnet")
    for name in ("bn3", "conv2", "fc"):
        (want,), _ = activations(w.net, w.X, [name], False)
        assert (want < 0).any()
        assert_allclose(w.blank().activations(w.X, [name])[0], want, rtol=1e-4, atol=1e-5)


# The query -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "aggregate"), [(ONE, "mean"), (None, "mean"), (None, "variance")])
@pytest.mark.parametrize("alpha", ["distance", "predict"])
def test_picks_from_zero_labels(world, alpha, layers, aggregate):
    scores, fragile = oracle_scores(world, world.net, world.X, layers or TWO, alpha, aggregate)
    for learner in (world.blank(), ActiveLearner(world.blank(), query_strategy=adma_sampling)):
        picks = adma(learner, world.X, 12, alpha=alpha, layers=layers, aggregate=aggregate, lam=0.5, t=2)
        assert_picks(picks, scores, fragile, 12)
        if layers == ONE:  # tau takes few values: of equal scores the first in the pool wins
            for value in np.unique(scores[~fragile].round(9)):
                equal = [i for i in picks if not fragile[i] and abs(scores[i] - value) < 1e-8]
                assert equal == sorted(equal)


@pytest.mark.parametrize(
    ("alpha", "layers", "aggregate", "kind", "lam", "t"),
    [
        ("distance", ONE, "mean", "gini", 0.01, 1),
        ("predict", ONE, "mean", "entropy", 0.1, 3),
        ("distance", None, "mean", "margin", 0.5, 1),
        ("predict", None, "mean", "least_confident", 0.3, 2),
        ("distance", TWO, "variance", "gini", 0.1, 5),
        ("predict", None, "variance", "entropy", 0.2, 1),
        ("distance", [TWO[1]], "mean", "entropy", 0.0, 8),
        ("predict", ONE, "mean", "margin", 0.5, 7),
    ],
)
def test_picks_after_teaching(world, alpha, layers, aggregate, kind, lam, t):
    options = {"alpha": alpha, "layers": layers, "aggregate": aggregate, "uncertainty": kind, "lam": lam, "t": t}
    scores, fragile = oracle_scores(world, world.current, world.X, layers or TWO, alpha, aggregate, kind, lam, t)
    assert ((scores >= 0) & (scores <= 1)).all()
    every = adma(world.learner, world.X, 12, **options)
    assert_picks(every, scores, fragile, 12)
    for n_instances in (1, 2):
        picks, images = world.learner.query(world.X, n_instances=n_instances, **options)
        assert_array_equal(picks, every[:n_instances])
        assert_array_equal(images, world.X[picks])
    assert_array_equal(adma(world.learner.estimator, world.X, 12, **options), every)


def test_picks_among_uint8_images():
    w = make_world("mobilenet")
    preprocess = ImageTransform(32, 32)
    rng, mean, std = np.random.default_rng(0), np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    source, pool = (rng.integers(0, 256, size=(n, 32, 32, 3), dtype=np.uint8) for n in (6, 12))
    profile = SourceProfile(w.net, image_size=32, preprocess=preprocess).fit(source, np.arange(6))
    estimator = w.blank(source=profile, image_size=32, preprocess=preprocess)
    w.X_source, X = (((images / 255 - mean) / std).transpose(0, 3, 1, 2) for images in (source, pool))
    w.centers = range(6)
    scores, fragile = oracle_scores(w, w.net, X, ONE)
    assert_picks(adma(estimator, pool, 12), scores, fragile, 12)


def test_query_by_hand():
    # A = x, B = (x_1, 0); centres (0, 0), (3, 4), (0, 8) have patterns (0, 2, 8), (2, 0, 2), (8, 2, 0).
    # (3, 0): S = (0, 4, 5.5), expected ~ (1.44, 0.90, 3.17): one of three pairs is discordant, tau = 1/3, d = 1/3.
    # (6, 8): S = (4, 2, 0), expected ~ (1.73, 0.53, 1.20): the same. (3, 4) is a centre and (0, 1) agrees: d = 0.
    with torch.no_grad(), torch.random.fork_rng():
        net = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(2, 2), nn.ReLU())), nn.Linear(2, 3))
        for i, second in [(0, 1.0), (2, 1.0), (4, 0.0)]:
            net[i].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, second]]))
            net[i].bias.zero_()
    centres = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], dtype=np.float32)
    profile = SourceProfile(net).fit(centres, [0, 1, 2])
    assert profile.layers_ == ONE
    assert_allclose(profile.patterns((-4, -2)), [[0, 2, 8], [2, 0, 2], [8, 2, 0]], atol=1e-6)
    pool = np.array([[3.0, 4.0], [3.0, 0.0], [0.0, 1.0], [6.0, 8.0]], dtype=np.float32)
    assert_array_equal(adma(FrozenPrefixClassifier(net, source=profile), pool, 4), [1, 3, 0, 2])


def test_the_number_of_the_query_is_read_off_the_learner(toy):
    learner = ActiveLearner(toy.blank(), adma_sampling, toy.X_labelled[:5], toy.y_labelled[:5])
    for labels in (5, 7):
        firsts = set()
        for n_initial, n_instances in [(0, 4), (0, 2), (0, 1), (3, 1), (3, 2), (5, 1), (5, 2), (50, 2)]:
            t = 1 + max(0, labels - n_initial) // n_instances
            options = {"n_instances": n_instances, "lam": 0.12, "uncertainty": "margin"}
            picks = adma(learner, toy.X, n_initial=n_initial, **options)
            assert_array_equal(picks, adma(learner, toy.X, t=t, **options))
            firsts.add(picks[0])
        assert len(firsts) > 1, "the picks must depend on t, or this test tells nothing"
        learner.teach(toy.X_labelled[3:5], toy.y_labelled[3:5])


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mlp", {"n_frozen": 4}),  # the head alone is trained
        ("mlp", {"n_frozen": None, "cache": False}),
        ("mlp", {"n_frozen": 0, "warm_start": True}),
        ("convnet", {"n_frozen": 2, "train_batch_norm": True, "warm_start": True}),
        ("convnet", {"n_frozen": 3, "head_init": "random"}),
    ],
)
def test_rounds_from_zero_labels_on(name, params):
    w = make_world(name)
    learner, kind = ActiveLearner(w.blank(**params), query_strategy=adma_sampling), None
    for t in (1, 2, 3):  # 0, 12 and 24 labels
        net = w.net if t == 1 else current_network(w, learner.estimator)
        scores, fragile = oracle_scores(w, net, w.X, TWO, kind=kind, lam=0.2, t=t)
        picks, images = learner.query(w.X, n_instances=12, lam=0.2)
        assert_picks(picks, scores, fragile, 12)
        learner.teach(images, np.arange(12) % (t + 1))
        kind = "gini"


def test_committee_averages_distinctiveness(toy):
    sets = [(toy.X_labelled, toy.y_labelled), (toy.images(5), [0, 1, 0, 1, 1])]  # the second knows two classes
    members = [ActiveLearner(toy.blank(n_frozen=2 * i, random_state=i), adma_sampling, *sets[i]) for i in range(2)]
    committee = Committee(members, query_strategy=adma_sampling)
    nets = [current_network(toy, member.estimator) for member in members]
    cases = [("distance", "gini", 0.2, 2), ("predict", "entropy", 0.9, 1), ("distance", "margin", 2, 2)]
    for alpha, kind, lam, t in cases:
        per_member = [oracle_scores(toy, net, toy.X, TWO, alpha) for net in nets]
        w = min(lam * t, 1)
        known = [activations(net, toy.X, [], True)[1] for net in nets]
        proba = sum(np.pad(p, ((0, 0), (0, 3 - p.shape[1]))) for p in known) / 2
        assert_allclose(committee.predict_proba(toy.X), proba, atol=1e-4)
        scores = (1 - w) * sum(s for s, _ in per_member) / 2 + w * oracle_uncertainty(proba, kind)
        fragile = (per_member[0][1] | per_member[1][1]) & (w < 1)
        picks, _ = committee.query(toy.X, n_instances=12, alpha=alpha, uncertainty=kind, lam=lam, t=t)
        assert_picks(picks, scores, fragile, 12)
    cold = Committee([ActiveLearner(toy.blank(random_state=i)) for i in range(2)], query_strategy=adma_sampling)
    scores, fragile = oracle_scores(toy, toy.net, toy.X)
    assert_picks(cold.query(toy.X, n_instances=12)[0], scores, fragile, 12)


@pytest.mark.parametrize("aggregate", ["mean", "variance"])
def test_a_pool_larger_than_a_block_scores_as_its_pieces(toy, aggregate):
    X = toy.images(1100)
    options = {"aggregate": aggregate, "lam": 0.4, "t": 1}
    scores, fragile = oracle_scores(toy, toy.current, X, TWO, "distance", aggregate, "gini", 0.4, 1)
    picks = adma(toy.learner, X, 1100, **options)
    assert_picks(picks, scores, fragile, 1100)
    if aggregate == "mean":  # the variance is rescaled over its pool, so its pieces have another scale
        for piece in (np.arange(500), np.arange(500, 1030), np.arange(1030, 1100)):
            alone = piece[adma(toy.learner, X[piece], len(piece), **options)]
            assert_allclose(scores[alone], scores[picks[np.isin(picks, piece)]], atol=TIE)


def test_permuting_the_pool_permutes_the_picks(world):
    options = {"lam": 0.3, "t": 1}
    scores, fragile = oracle_scores(world, world.current, world.X, kind="gini", **options)
    pool = world.X.copy()
    picks = adma(world.learner, pool, 12, **options)
    order = np.random.default_rng(1).permutation(12)
    pool[:] = pool[order]  # in place, so that activations cached by identity would be wrong
    permuted = adma(world.learner, pool, 12, **options)
    assert_picks(order[permuted], scores, fragile, 12)
    assert_allclose(scores[order[permuted]], scores[picks], atol=TIE)
    assert_array_equal(adma(world.learner, np.asfortranarray(pool, np.float64), 12, **options), permuted)


def test_duplicates_in_the_pool_tie_and_the_first_wins(toy):
    X = np.concatenate([toy.X, toy.X])
    for learner in (toy.blank(), toy.learner):
        place = np.argsort(adma(learner, X, 24, lam=0.2, t=1))
        assert (place[:12] < place[12:]).all()


def test_a_query_changes_nothing(world):
    estimator = world.learner.estimator
    state = {name: value.clone() for name, value in estimator.net_.module_.state_dict().items()}
    training = [module.training for module in estimator.net_.module_.modules()]
    proba, generator = world.learner.predict_proba(world.X), torch.get_rng_state()
    X = world.X.copy()
    first = adma(world.learner, X, 3, lam=0.3, alpha="predict")
    assert_array_equal(adma(world.learner, X, 3, lam=0.3, alpha="predict"), first)
    assert_array_equal(X, world.X)
    assert_array_equal(world.learner.predict_proba(world.X), proba)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in estimator.net_.module_.modules()] == training
    assert estimator.net_.module_.state_dict().keys() == state.keys()
    for name, value in estimator.net_.module_.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_same_seed_same_result(toy):
    a, b = (toy.blank(random_state=7).fit(toy.X_labelled, toy.y_labelled) for _ in range(2))
    assert_array_equal(a.predict_proba(toy.X), b.predict_proba(toy.X))
    assert_array_equal(adma(a, toy.X, 12, lam=0.5, t=1), adma(b, toy.X, 12, lam=0.5, t=1))
    c = toy.blank(random_state=8).fit(toy.X_labelled, toy.y_labelled)
    assert not np.array_equal(a.predict_proba(toy.X), c.predict_proba(toy.X))
    picks = at_random(toy.learner, toy.X, 12, random_state=0)
    assert_array_equal(np.sort(picks), np.arange(12))
    assert_array_equal(picks, at_random(toy.learner, toy.X, 12, random_state=0))


def test_a_centre_in_the_pool_is_not_distinctive(world):
    X = np.concatenate([world.X_source[world.centers], world.X])
    K, (scores, fragile) = len(world.classes), oracle_scores(world, world.net, X, ONE)
    picks = adma(world.blank(), X, len(X), layers=ONE)
    sure = ~fragile[:K]
    assert_allclose(scores[:K][sure], 0, atol=1e-9)
    assert_picks(picks, scores, fragile, len(X))


def test_named_layers_source_argument_and_pipeline(toy):
    scores, fragile = oracle_scores(toy, toy.net, 2 * toy.X, ONE)
    profile = SourceProfile(toy.net, layers=[("3", "7")], pooled=False).fit(toy.X_source, toy.y_source)
    assert_picks(adma(toy.blank(source=None), 2 * toy.X, 12, source=profile), scores, fragile, 12)
    doubled = make_pipeline(FunctionTransformer(lambda X: 2 * X), toy.blank(max_epochs=1))
    doubled.fit(toy.X_labelled, toy.y_labelled)
    options = {"layers": ONE, "lam": 0.5, "t": 1}
    scores, fragile = oracle_scores(toy, current_network(toy, doubled[-1]), 2 * toy.X, ONE, kind="gini", lam=0.5)
    assert_picks(adma(doubled, toy.X, 12, **options), scores, fragile, 12)
