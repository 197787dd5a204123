"""Fixtures: toy networks, toy images and toy source profiles that need no data of ours."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"  # else scikit-learn skips its check of array API input; read when scipy is imported

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform, SourceProfile
from skal._random import seeded
from skal.features.cache import CACHE

SMALL = ImageTransform(16, 16)

torch.set_num_threads(1)  # toy networks gain nothing from threads, and beside other work they wait for each other


class TinyConvNet(nn.Module):
    """Two residual stages with an in-place ReLU after each sum, a shortcut and batch normalisation."""

    def __init__(self, n_classes: int = 5):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.conv1 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.relu = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(8, 10, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(10, n_classes)

    def forward(self, x):
        x = self.stem(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        out = self.relu(out)
        out = self.relu(self.conv3(out))
        out = out.mean((2, 3)).view(x.size(0), -1)
        return self.fc(self.dropout(out))


def with_statistics(net: nn.Module) -> nn.Module:
    """Give batch normalisation statistics that are not those of a fresh module."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return net.eval()


def pytest_collection_modifyitems(items):
    if not os.environ.get("SKAL_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="a long run; SKAL_SLOW=1 runs it"))


@pytest.fixture
def convnet():
    with seeded(0):
        return with_statistics(TinyConvNet())


@pytest.fixture
def mlp():
    with seeded(0):
        return nn.Sequential(
            nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4)
        )


@pytest.fixture
def pixels():
    """40 uint8 images of 4 classes that differ in colour, with noise."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    base = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])[y]
    noise = rng.integers(-40, 40, size=(40, 16, 16, 3))
    return (base[:, None, None, :] + noise).clip(0, 255).astype(np.uint8), np.array(["r", "g", "b", "y"])[y]


@pytest.fixture
def files(pixels, tmp_path):
    """The same images as PNG files."""
    paths = []
    for i, image in enumerate(pixels[0]):
        paths.append(str(tmp_path / f"{i:02d}.png"))
        Image.fromarray(image).save(paths[-1])
    return np.array(paths), pixels[1]


@pytest.fixture
def source_images():
    rng = np.random.default_rng(1)
    return rng.integers(0, 255, size=(15, 16, 16, 3), dtype=np.uint8), np.arange(15) % 5


@pytest.fixture
def profile(convnet, source_images):
    return SourceProfile(convnet, preprocess=SMALL).fit(*source_images)


@pytest.fixture
def classifier(convnet, profile):
    return FrozenPrefixClassifier(
        convnet,
        preprocess=SMALL,
        n_frozen=2,
        source=profile,
        max_epochs=5,
        min_steps=0,
        lr=5e-3,
        relative_lr=False,
        wise_alpha=1,
        random_state=0,
    )


@pytest.fixture(autouse=True)
def _fresh_cache():
    CACHE.clear()
    yield
    CACHE.clear()


@pytest.fixture(autouse=True)
def _global_generators_untouched():
    """Randomness comes from random_state alone: no test may see the global generators move."""
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    yield
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_before)
