"""Options, data and networks shared by the studies. Those that the quickstart also uses are imported from it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded

sys.path.append(str(Path(__file__).parent.parent))
from quickstart import (
    DATA,
    add_images_option,
    add_network_options,
    add_profile_option,
    class_folders,
    draw,
    load_profile,
    load_task,
    nearest_centers,
    network,
    table,
    with_all_labels,
)

__all__ = [
    "DATA",
    "add_images_option",
    "add_network_options",
    "add_profile_option",
    "class_folders",
    "draw",
    "equally",
    "lenet",
    "load_digits",
    "load_profile",
    "load_task",
    "nearest_centers",
    "network",
    "pixels",
    "table",
    "trained_lenet",
    "unit",
    "with_all_labels",
]


def equally(y: np.ndarray, k: int, rng: np.random.RandomState) -> np.ndarray:
    """Positions of k images of each class."""
    return np.concatenate([rng.permutation(np.flatnonzero(y == label))[:k] for label in np.unique(y)])


def unit(F: np.ndarray) -> np.ndarray:
    """Rows normalised to length 1."""
    return F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)


def pixels(paths: np.ndarray, size: int) -> np.ndarray:
    """Load image files as one array."""
    images = [ImageOps.fit(Image.open(path).convert("RGB"), (size, size)) for path in paths]
    return np.stack([np.asarray(image) for image in images])


def lenet() -> nn.Module:
    """LeNet, as in the digit experiments of the adaptation literature."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def load_digits(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images (n, 1, 28, 28) in [-1, 1] and labels, from arrays X_train, y_train, X_test, y_test."""
    with np.load(file) as data:
        X, y, X_test, y_test = (data[name] for name in ("X_train", "y_train", "X_test", "y_test"))
    return _at_28_pixels(X), y, _at_28_pixels(X_test), y_test


def _at_28_pixels(X: np.ndarray) -> np.ndarray:
    """Resize to 28 pixels. USPS digits fill their 16 x 16 pixels and stay larger than MNIST's, as part of the shift."""
    images = torch.from_numpy(X).float()[:, None] / 127.5 - 1
    return F.interpolate(images, size=28, mode="bilinear").numpy()


def trained_lenet(X: np.ndarray, y: np.ndarray, file: Path, *, epochs: int = 3) -> nn.Module:
    """LeNet trained on all images of one domain. The weights are stored in a file."""
    with seeded(0):
        net = lenet()
    if not file.exists():
        classifier = FrozenPrefixClassifier(
            net, n_frozen=0, image_size=28, head_init="random", normalize=False, relative_lr=False, lr=1e-3,
            batch_size=64, max_epochs=epochs, min_steps=0, cache=False, random_state=0,
        ).fit(X, y)  # fmt: skip
        weights = {name: value.contiguous() for name, value in classifier.net_.module_.body.state_dict().items()}
        weights |= {f"9.{name}": value for name, value in classifier.net_.module_.head.state_dict().items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, file, metadata={"trained": f"{len(X)} images, {epochs} epochs"})
    net.load_state_dict(load_file(file))
    return net
