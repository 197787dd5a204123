"""How the maps of a network lie in memory."""

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


@pytest.mark.parametrize(("last", "is_innermost"), [(nn.Flatten(), True), (Viewing(), False)])
def test_convolutions_have_their_channels_innermost_where_that_is_safe(images, last, is_innermost):
    net = fitted(last, *images)
    for module in (net.backbone_.layers.module, net.net_.module_.body):
        kernels = [weight for weight in module.parameters() if weight.ndim == 4]
        assert kernels
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) == is_innermost for kernel in kernels)


def test_the_layout_of_what_a_user_gives_is_left_alone(images):
    given = network(nn.Flatten())
    fitted_net = FrozenPrefixClassifier(given, n_frozen=1, image_size=16, max_epochs=1, min_steps=0, random_state=0)
    fitted_net.fit(*images)
    assert given[0].weight.is_contiguous()
