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


class Scaled(nn.Linear):
    """A layer whose settings are in a dict and in a function."""

    def __init__(self, gain, act=torch.relu):
        with seeded(0):
            super().__init__(6, 6)
        self.settings = {"gain": gain}
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x)) * self.settings["gain"]


def scaled(gain, **keywords):
    with seeded(0):
        return nn.Sequential(Scaled(gain, **keywords), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def test_settings_of_any_kind_hooks_and_code_distinguish_networks():
    def doubled(module, args, output):
        return 2 * output

    hooked = scaled(1)
    hooked[2].register_forward_hook(doubled)
    networks = [scaled(1), scaled(10), scaled(1, act=torch.tanh), hooked]
    assert len({load_backbone(net).space for net in networks}) == 4
    assert load_backbone(scaled(1)).space == load_backbone(scaled(1)).space


def test_changes_of_a_network_after_it_was_loaded_are_seen():
    X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    net = scaled(1)

    def first():
        return FrozenPrefixClassifier(net, n_frozen=1).activations(X, ["0"])[0]

    before = first()
    net[0].settings["gain"] = 3
    np.testing.assert_allclose(first(), 3 * before, rtol=1e-6)
    net[0].register_forward_hook(lambda module, args, output: 2 * output)
    np.testing.assert_allclose(first(), 6 * before, rtol=1e-6)


def test_a_factory_whose_closure_changes_makes_another_network():
    width = 8

    def factory():
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))

    before = load_backbone(factory)
    assert load_backbone(factory) is before
    width = 12
    assert load_backbone(factory).layers.module[0].out_features == 12


def test_networks_that_mix_the_images_of_a_batch_are_refused():
    with seeded(0):
        images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 3))
    with pytest.raises(ValueError, match="for a sample depend on the others of its batch"):
        load_backbone(images, image_size=16)


def test_a_head_called_with_a_keyword_is_found():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.fc(input=torch.relu(self.body(x)))

    with seeded(0):
        named = Named()
    assert load_backbone(named).layers.head == "fc"
