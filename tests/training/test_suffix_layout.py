"""How the maps of a suffix lie in memory."""

import numpy as np
import pytest
import torch
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded


class Viewing(nn.Module):
    """Views its maps as they lie, in a method or in a module that is not looked into."""

    def forward(self, x):
        return x.view(x.size(0), -1)


def network(last):
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(3), last,
            nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 2),
        )  # fmt: skip


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(24, 16, 16, 3), dtype=np.uint8), np.arange(24) % 2


def fitted(last, X, y):
    net = FrozenPrefixClassifier(network(last), n_frozen=1, image_size=16, max_epochs=3, min_steps=0, random_state=0)
    return net.fit(X, y)


def test_a_network_that_views_its_maps_is_trained_as_one_that_flattens_them(images):
    viewing, flattening = fitted(Viewing(), *images), fitted(nn.Flatten(), *images)
    np.testing.assert_allclose(viewing.predict_proba(images[0]), flattening.predict_proba(images[0]), atol=1e-5)


def test_convolutions_have_their_channels_innermost_where_that_is_safe(images):
    for last, is_innermost in ((nn.Flatten(), True), (Viewing(), False)):
        body = fitted(last, *images).net_.module_.body
        kernel = next(weight for weight in body.parameters() if weight.ndim == 4)
        assert kernel.is_contiguous(memory_format=torch.channels_last) == is_innermost
