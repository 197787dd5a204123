"""Toy networks, images, tables, profiles and strategies that need no external data, and the available devices."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"  # otherwise scikit-learn skips its array API check; read when scipy is imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads of several processes wait for each other; read with numpy

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils.data import Dataset

from skal import ActiveClassifier, FrozenPrefixClassifier, ImageTransform, Query, SourceProfile, adma_sampling
from skal._random import seeded
from skal.features.cache import CACHE

SMALL = ImageTransform(16, 16)

torch.set_num_threads(1)  # toy networks gain nothing from threads


def pytest_collection_modifyitems(items):
    """Slow tests run if the environment variable SKAL_SLOW is set: all of them with 1, every n-th with n."""
    every = int(os.environ.get("SKAL_SLOW") or 0)
    slow = [item for item in items if item.get_closest_marker("slow")]
    for i, item in enumerate(slow):
        if not every or i % every:
            item.add_marker(pytest.mark.skip(reason="a long run; SKAL_SLOW=1 runs it"))


class Images(Dataset):
    """A data set of the given items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


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
    """Give batch normalisation statistics that differ from those of a new module."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return net.eval()


def toy_mlp(n_in=6, seed=0):
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(n_in, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4)
        )


def toy_cnn(seed=0):
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 7, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(7, 3),
        )


def on_features(**keywords):
    """A classifier of 2-D features that is fitted quickly."""
    settings = {"n_frozen": 2, "random_state": 0, "max_epochs": 2, "min_steps": 3} | keywords
    return FrozenPrefixClassifier(settings.pop("net", None) or toy_mlp(), **settings)


def on_pixels(**keywords):
    """A classifier of images that is fitted quickly."""
    settings = {"n_frozen": 2, "random_state": 0, "max_epochs": 2, "min_steps": 3, "preprocess": SMALL} | keywords
    return FrozenPrefixClassifier(settings.pop("net", None) or toy_cnn(), **settings)


def logistic():
    return LogisticRegression(max_iter=2000)


def blobs(n=90, n_classes=3, seed=0, n_features=6):
    """Features of overlapping classes, with names as labels."""
    X, y = make_classification(
        n, n_features, n_informative=4, n_redundant=0, n_classes=n_classes, class_sep=1.0, random_state=seed
    )
    return X, np.array(["ant", "bee", "cat", "dog"])[y]


def two_samples(n=12, m=9, n_features=4, shift=0.7, seed=0):
    """Two normal samples, the second of which is wider and shifted."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_features)), rng.normal(shift, 1.3, size=(m, n_features))


def first_rows(learner, X_pool, n_instances=1):
    """A strategy with picks that are known by hand: the first remaining rows."""
    return np.arange(n_instances)


def greatest(learner, X_pool, n_instances=1, *, sign=1.0):
    """A strategy with picks that are known by hand: the rows with the largest first feature."""
    return np.argsort(-sign * np.asarray(X_pool)[:, 0], kind="stable")[:n_instances]


def indices_of(answer):
    """The indices: modAL 0.4.1 expects only these, 0.4.2 indices and scores."""
    return np.asarray(answer[0] if isinstance(answer, tuple) else answer)


def adma_grid(cache, **keywords):
    """A search over ActiveClassifier with ADMA on a toy network that has a source profile."""
    net = toy_cnn()
    rng = np.random.default_rng(1)
    source = SourceProfile(net, preprocess=SMALL, layers=[(-3, -2)]).fit(
        rng.integers(0, 255, size=(9, 16, 16, 3), dtype=np.uint8), np.arange(9) % 3
    )
    classifier = on_pixels(net=net, source=source, cache=cache)
    active = ActiveClassifier(classifier, Query(adma_sampling, lam=0.1), n_queries=2, batch_size=4, random_state=0)
    return GridSearchCV(active, {"query__lam": [1], "estimator__n_frozen": [1, 2]}, cv=2, **keywords)


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    """Where a test runs: on the CPU, and also on a GPU if there is one."""
    if request.param == "cpu":
        yield request.param
    else:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else convolutions keep 10 bits of a float32
            yield request.param


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
    """40 noisy uint8 images of 4 classes that differ in colour."""
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
    """All randomness comes from random_state: no test may change the state of the global generators."""
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    yield
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_before)
