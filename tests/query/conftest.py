"""Settings for tests of ADMA: networks, source images and pools, with the inputs of the plain version."""

from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner
from torch import nn

from skal import FrozenPrefixClassifier, Query, SourceProfile, adma_sampling
from tests.reference.adma import TWO, activations, current_network


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
    from torchvision.models import mobilenet_v2  # after skal, which works without torchvision's compiled operators

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
        for module in net.modules():  # batch normalisation needs statistics of its own input, or the signal vanishes
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
    w.learner = ActiveLearner(w.blank(), Query(adma_sampling, batch="top"), w.X_labelled, w.y_labelled)
    w.current = current_network(w, w.learner.estimator)
    return w


@pytest.fixture(scope="module", params=["mlp", "convnet", "convnet-maps", "mobilenet"])
def world(request):
    return make_world(request.param)


@pytest.fixture(scope="module")
def toy():
    return make_world("mlp")
