"""What ADMA needs from a profile and a network: centres and activations, compared with forward hooks."""

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skal.source import class_centers
from tests.query.conftest import make_world
from tests.reference.adma import TWO, activations, plain_patterns


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
            assert_allclose(world.profile.centers_[layer], want, rtol=1e-3, atol=1e-4)
        _, S_c = plain_patterns(world, world.net, world.X_source[world.centers], pair, "distance")
        S, _ = plain_patterns(world, world.net, world.X_source[world.centers], pair, "distance")
        assert_allclose(world.profile.patterns(pair), S, rtol=1e-4, atol=1e-4)
        assert_allclose(S_c, S, rtol=1e-4, atol=1e-3)  # a centre expects its own pattern


def test_activations_against_hooks(world):
    layers = [-5, -4, -2]
    for pooled in (False, True):
        for estimator, net in [(world.blank(), world.net), (world.learner.estimator, world.current)]:
            want, _ = activations(net, world.X, [world.places[i] for i in layers], pooled)
            for got, rows in zip(estimator.activations(world.X, layers, pooled=pooled), want, strict=True):
                assert_allclose(got, rows, rtol=1e-3, atol=1e-4)
        got = world.learner.estimator.activations(world.X, layers, pooled=pooled, pretrained=True)
        for a, b in zip(got, world.blank().activations(world.X, layers, pooled=pooled), strict=True):
            assert_allclose(a, b, rtol=1e-3, atol=1e-4)
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
        assert_allclose(w.blank().activations(w.X, [name])[0], want, rtol=1e-3, atol=1e-4)
