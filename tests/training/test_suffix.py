"""The trainable layers: what moves, and the mean of two sets of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from skal._random import seeded
from skal.backbones import load_backbone
from skal.training.suffix import Suffix, head_for, interpolate
from tests.conftest import SMALL


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


def test_a_head_for_other_classes_keeps_the_rows_of_those_that_stay():
    with seeded(0):
        head = nn.Linear(3, 3)
        other = head_for(head, np.array(["b", "c", "e"]), np.array(["a", "b", "d", "e"]))
    assert other.out_features == 4
    for old, new in ((0, 1), (2, 3)):  # b and e
        torch.testing.assert_close(other.weight[new], head.weight[old], rtol=0, atol=0)
        torch.testing.assert_close(other.bias[new], head.bias[old], rtol=0, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_a_suffix_ends_as_the_network_does(convnet, pixels, normalize, train_batch_norm):
    """Its features are the head's input of the network; scaled, a feature has a mean square of 1 in every image."""
    layers = load_backbone(convnet, preprocess=SMALL).layers
    x = SMALL(torch.from_numpy(pixels[0][:6]))
    with seeded(0):
        suffix = Suffix(layers, 2, 3, 10, train_batch_norm, normalize).eval()
    kept = []
    convnet.fc.register_forward_hook(lambda module, args, out: kept.append(args[0]))
    with torch.no_grad():
        convnet(x)
        (at_cut,) = layers.segment(layers.input, [layers.cut(2)]).eval()(x)
        torch.testing.assert_close(suffix.features(at_cut), kept[0])
        read = suffix.head_input(at_cut)
        torch.testing.assert_close(suffix(at_cut), suffix.head(read))
    if normalize:
        torch.testing.assert_close(read.square().mean(dim=1), torch.ones(6))
        torch.testing.assert_close(nn.functional.cosine_similarity(read, kept[0]), torch.ones(6))
    else:
        torch.testing.assert_close(read, kept[0])
    suffix.train()
    modes = {name: part.training for name, part in suffix.body.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert modes["bn2"] is train_batch_norm
    assert modes["bn1"] is False
    assert {name for name, p in suffix.body.named_parameters() if not p.requires_grad} == {
        "conv1.weight", "bn1.weight", "bn1.bias"
    }  # fmt: skip
