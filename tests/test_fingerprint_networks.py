"""Fingerprints of networks, weights files and profiles."""

import copy
import os
from functools import partial

import pytest
import torch
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform, SourceProfile
from skal._fingerprint import fingerprint, fingerprint_params
from tests.conftest import SMALL


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_replaced_weights_file_is_noticed(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(b"first " * 1000)
    times = os.stat(file)
    forms = [
        lambda: fingerprint_params(FrozenPrefixClassifier("resnet18", weights=str(file))),
        lambda: fingerprint_params(FrozenPrefixClassifier("resnet18", weights=file)),
        lambda: fingerprint(partial(torch.load, str(file))),
        lambda: fingerprint(lambda: torch.load(file)),
    ]
    before = [form() for form in forms]
    content = bytearray(file.read_bytes())
    content[3000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not set(before) & {form() for form in forms}


def changed_weight(net):
    with torch.no_grad():
        net.fc.weight[0, 0] += 1e-6


def changed_statistics(net):
    net.bn1.running_mean[0] += 1e-6


def changed_activation(net):
    net.relu = nn.Tanh()


def changed_setting(net):
    net.conv1.padding = (0, 0)


def changed_attribute(net):
    net.temperature = 2.0


def added_hook(net):
    net.conv1.register_forward_hook(lambda module, args, output: output + 1)


def replaced_forward(net):
    net.forward = lambda x: x


def frozen_layer(net):
    net.conv1.weight.requires_grad_(False)


def changed_order(net):
    stem = list(net.stem)
    net.stem = nn.Sequential(stem[0], stem[2], stem[1], stem[3])


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_statistics,
        changed_activation,
        changed_setting,
        changed_attribute,
        added_hook,
        replaced_forward,
        frozen_layer,
        changed_order,
    ],
)
def test_a_change_of_a_network_is_noticed(convnet, change):
    before = fingerprint_params(FrozenPrefixClassifier(convnet))
    other = copy.deepcopy(convnet)
    assert fingerprint_params(FrozenPrefixClassifier(other.train())) == before
    change(other)
    assert fingerprint_params(FrozenPrefixClassifier(other)) != before


def test_a_followed_network_counts_by_its_code(mlp):
    traced = torch.fx.symbolic_trace(mlp)
    other = torch.fx.symbolic_trace(nn.Sequential(*[nn.Tanh() if isinstance(p, nn.ReLU) else p for p in mlp]))
    assert fingerprint(traced) == fingerprint(torch.fx.symbolic_trace(copy.deepcopy(mlp))) != fingerprint(other)


def test_a_preprocessing_and_a_profile_count(convnet, profile, source_images):
    nets = [FrozenPrefixClassifier(convnet, preprocess=t) for t in (SMALL, ImageTransform(16, 16, std=(1, 1, 1)))]
    assert fingerprint_params(nets[0]) != fingerprint_params(nets[1])
    before = fingerprint_params(FrozenPrefixClassifier(convnet, source=profile))
    profile.patterns(profile.layers_[0])  # computed on demand
    assert fingerprint_params(FrozenPrefixClassifier(convnet, source=profile)) == before
    other = SourceProfile(convnet, preprocess=SMALL).fit(source_images[0][::-1], source_images[1])
    assert fingerprint_params(FrozenPrefixClassifier(convnet, source=other)) != before


def test_a_loaded_profile_is_the_fitted_one(profile, tmp_path):
    profile.save(tmp_path / "profile.safetensors")
    assert fingerprint(SourceProfile.load(tmp_path / "profile.safetensors")) == fingerprint(profile)
