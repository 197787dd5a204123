"""The trainable layers: what moves, and the mean of two sets of weights."""

import pytest
import torch
from torch import nn

from skal._random import seeded
from skal.training.suffix import interpolate


@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_frozen_layers_and_statistics_do_not_move(classifier, convnet, pixels, train_batch_norm):
    X, y = pixels
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    classifier.set_params(train_batch_norm=train_batch_norm).fit(X, y)
    after = classifier.net_.module_.body.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # Two frozen layers: stem and conv1. The suffix begins before the block, so conv1 is in it, frozen.
    assert "conv1.weight" in after
    assert {name.split(".")[0] for name in moved} == {"conv2", "bn2", "shortcut", "conv3"}
    assert ("bn2.running_mean" in moved) is train_batch_norm
    assert not any(name.startswith(("conv1", "bn1")) for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())


def test_shared_weights_are_averaged_once():
    with seeded(0):
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    start, end = nn.Sequential(first, first), nn.Sequential(second, second)
    expected = (first.weight + second.weight) / 2
    interpolate(start, end, 0.5)
    torch.testing.assert_close(end[0].weight, expected)
