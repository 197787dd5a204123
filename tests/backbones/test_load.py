"""Names, modules, factories, weights and pre-processing of pre-trained networks."""

import copy
import gc
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.backbones.load import load_backbone
from skal.images.transform import ImageTransform
from tests.conftest import SMALL, TinyConvNet


def test_import_works_beside_a_cpu_torch():
    code = (
        "import skal, torch, torchvision; "
        "print(torchvision.models.resnet18(weights=None)(torch.rand(1, 3, 64, 64)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([1, 1000])", done.stderr


def test_import_of_the_classifier_does_not_wait_for_torchvision():
    code = "import sys, skal; skal.FrozenPrefixClassifier; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path, convnet, suffix):
    path = tmp_path / f"weights{suffix}"
    save = torch.save if suffix == ".pth" else save_file
    save(convnet.state_dict(), path)
    loaded = load_backbone(TinyConvNet, path, preprocess=SMALL)
    assert loaded.fingerprint == load_backbone(convnet, preprocess=SMALL).fingerprint


def test_a_torchvision_name_takes_its_own_transform_and_a_size():
    weights = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    own = load_backbone("squeezenet1_1", None).inputs.transform
    assert (own.resize, own.crop) == (weights.resize_size[0], weights.crop_size[0])
    assert load_backbone("squeezenet1_1", None, image_size=65).inputs.transform == ImageTransform(65, 65)


def test_names_of_torchvision_weights_are_looked_up(monkeypatch):
    asked = []

    def from_disk(url, *args, **kwargs):
        asked.append(url)
        return models.get_model("squeezenet1_1", weights=None).state_dict()

    monkeypatch.setattr(models._api, "load_state_dict_from_url", from_disk)
    load_backbone("squeezenet1_1", "DEFAULT")
    load_backbone("squeezenet1_1", "IMAGENET1K_V1")
    assert asked == [models.SqueezeNet1_1_Weights.DEFAULT.url] * 2


def test_untrained_weights_depend_on_the_seed_alone():
    first = load_backbone(TinyConvNet, preprocess=SMALL, seed=3)
    assert load_backbone(lambda: TinyConvNet(), preprocess=SMALL, seed=3).fingerprint == first.fingerprint
    assert load_backbone(TinyConvNet, preprocess=SMALL, seed=4).fingerprint != first.fingerprint


def test_one_network_is_loaded_once_until_it_changes(convnet):
    first = load_backbone(convnet, preprocess=SMALL)
    assert load_backbone(convnet, preprocess=SMALL) is first
    with torch.no_grad():
        convnet.fc.weight.mul_(2)
    assert load_backbone(convnet, preprocess=SMALL).fingerprint != first.fingerprint


def test_a_network_that_is_gone_leaves_nothing_behind():
    from skal.backbones.load import _of_modules

    with seeded(0):
        net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    load_backbone(net)
    before = len(_of_modules)
    del net
    gc.collect()
    assert len(_of_modules) < before


def test_equal_weights_have_equal_fingerprints_and_survive_pickling(convnet):
    backbone = load_backbone(convnet, preprocess=SMALL)
    assert load_backbone(copy.deepcopy(convnet), preprocess=SMALL).fingerprint == backbone.fingerprint
    again = pickle.loads(pickle.dumps(backbone))
    assert (again.fingerprint, again.space) == (backbone.fingerprint, backbone.space)


def test_channels_come_from_the_first_layer():
    with seeded(0):
        grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        grey(torch.zeros(1, 1, 224, 224))
    assert load_backbone(grey).inputs.transform.channels == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": 3}, "backbone=3 must be the name"),
        ({"backbone": "resnet18", "weights": "BEST"}, r"unknown weights 'BEST'.*'DEFAULT', 'IMAGENET1K_V1'"),
        ({"backbone": TinyConvNet, "weights": "DEFAULT"}, "'DEFAULT' is not a file"),
        ({"backbone": TinyConvNet, "weights": "nowhere.pth"}, "'nowhere.pth' does not exist"),
        ({"backbone": TinyConvNet, "image_size": 0}, "image_size=0 is not an integer of at least 1"),
        ({"backbone": TinyConvNet, "preprocess": ImageTransform(8, 8, (0.5,), (0.5,))}, "1 channels.*takes 3"),
        ({"backbone": lambda: "net"}, "returned str, not an nn.Module"),
        ({"backbone": nn.Linear(2, 2), "image_size": 8}, "starts with a linear layer"),
        ({"backbone": nn.Sequential(nn.LazyLinear(2))}, "lazy layers requires 2-D data"),
    ],
)
def test_bad_backbones_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(**arguments)


class Attention(nn.Module):
    def __init__(self, n_heads, factor):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, n_heads, batch_first=True)
        self.register_buffer("factor", torch.tensor(factor), persistent=False)

    def forward(self, x):
        x = self.first(x).view(-1, 1, 8)
        return self.last(self.attention(x, x, x)[0].mean(1) * self.factor)


def test_what_no_state_dict_tells_still_tells_networks_apart():
    spaces = set()
    for n_heads, factor in ((2, 1.0), (4, 1.0), (2, 5.0)):
        with seeded(0):
            spaces.add(load_backbone(Attention(n_heads, factor)).space)
    assert len(spaces) == 3


def test_a_change_behind_a_modules_back_is_seen(convnet):
    spaces = {load_backbone(convnet, preprocess=SMALL).space}
    convnet.fc.weight.data.mul_(2)  # no version counter moves
    spaces.add(load_backbone(convnet, preprocess=SMALL).space)
    convnet.dropout = nn.Tanh()  # no tensor changes
    spaces.add(load_backbone(convnet, preprocess=SMALL).space)
    assert len(spaces) == 3


def test_threads_load_train_and_predict_side_by_side(pixels):
    """Tracing replaces methods of nn.Module for the whole process; other threads must not notice."""
    X, y = pixels

    def fit(seed):
        with seeded(seed):
            backbone = TinyConvNet()  # one of its own, so that every thread traces
        classifier = FrozenPrefixClassifier(backbone, preprocess=SMALL, max_epochs=2, min_steps=0, random_state=seed)
        return classifier.fit(X, y).predict_proba(X)

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(fit, range(8)))
    for seed, proba in enumerate(together):
        np.testing.assert_allclose(proba, fit(seed), atol=1e-5)
