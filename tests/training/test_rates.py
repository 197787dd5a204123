"""Steps relative to the size of what they change, and training at every depth."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.training.rates import RelativeSteps, typical_sizes


@pytest.fixture
def uneven():
    """A depthwise convolution whose channels differ a thousandfold, normalised, and a linear layer."""
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
        with torch.no_grad():
            net[0].weight.copy_(torch.randn(3, 1, 3, 3) * torch.tensor([10.0, 1.0, 0.5]).view(3, 1, 1, 1))
            net[1].weight.copy_(torch.tensor([-2.0, 0.0, 1.0]))
            net[3].bias.copy_(torch.tensor([3.0, 4.0]))
    return net


def test_sizes_by_hand(uneven):
    sizes = typical_sizes(uneven)
    rows = uneven[0].weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(sizes["0.weight"].flatten(), rows)
    least = 0.01 * (5 / 3) ** 0.5  # a hundredth of the root mean square of (-2, 0, 1)
    for name in ("1.weight", "1.bias"):
        torch.testing.assert_close(sizes[name], torch.tensor([2.0, least, 1.0]))
    torch.testing.assert_close(sizes["3.bias"], torch.tensor(12.5**0.5))
    assert typical_sizes(uneven.requires_grad_(False)) == {}


def test_what_is_zero_has_a_least_size():
    layer = nn.utils.skip_init(nn.Linear, 4, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    sizes = typical_sizes(layer)
    torch.testing.assert_close(sizes["bias"], torch.tensor(1e-3))
    torch.testing.assert_close(sizes["weight"], torch.full((2, 1), 1e-5))


@pytest.mark.parametrize("n_warmup", [0, 4])
def test_every_channel_moves_by_the_same_share(uneven, n_warmup):
    """Adam's first step is the rate, whatever the gradient; the warm-up makes it a quarter."""
    before = [weight.detach().clone() for weight in uneven.parameters()]
    sizes = typical_sizes(uneven)
    optimizer = torch.optim.Adam(uneven.parameters(), lr=0.01)
    RelativeSteps(optimizer, uneven, n_warmup)
    with seeded(1):
        uneven(torch.randn(8, 3, 4, 4)).square().sum().backward()
    optimizer.step()
    for (name, weight), old in zip(uneven.named_parameters(), before, strict=True):
        moved = (weight.detach() - old).abs() / sizes[name]
        expected = 0.01 / 4 if n_warmup else 0.01
        has_gradient = weight.grad.abs() > 1e-6
        torch.testing.assert_close(
            moved[has_gradient], torch.full_like(moved, expected)[has_gradient], rtol=2e-2, atol=0
        )


@pytest.mark.parametrize(("size", "moved"), [(1.0, 1.0), (1e-3, 1e-3)])
def test_a_shift_moves_with_what_the_normalisation_is_given(size, moved):
    """Inputs of ±size under running statistics of mean 0 and variance 1; a scale of 1."""
    norm = nn.BatchNorm1d(1, eps=0).eval()
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.01)
    RelativeSteps(optimizer, norm)
    (norm(torch.tensor([[size], [-size]])) * torch.tensor([[1.0], [0.0]])).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(norm.bias.item(), -0.01 * moved, rtol=1e-5)
    np.testing.assert_allclose(norm.weight.item(), 1 - 0.01 * size, rtol=1e-5)


def test_the_warm_up_ends():
    layer = nn.utils.skip_init(nn.Linear, 1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    RelativeSteps(optimizer, layer, 2)
    values = [1.0]
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        values.append(layer.weight.item())
    np.testing.assert_allclose(values, [1.0, 0.95, 0.85, 0.75], rtol=1e-5)  # steps of 0.1: a half, then whole ones


@pytest.mark.parametrize(
    ("backbone", "depths"),
    [("mobilenet_v2", [0, 8, 20, 35, 45, 51]), pytest.param("resnet18", [0, 2, 7, 8, 16], marks=pytest.mark.slow)],
)
def test_a_search_over_depth_meets_no_cliff(backbone, depths):
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    base = rng.integers(60, 200, size=(3, 3))[y]
    X = (base[:, None, None] + rng.integers(-40, 40, (24, 33, 33, 3))).clip(0, 255).astype(np.uint8)
    net = FrozenPrefixClassifier(backbone, weights=None, image_size=33, min_steps=8, max_epochs=2, batch_size=16)
    net.set_params(random_state=0)
    search = GridSearchCV(net, {"n_frozen": depths}, cv=2, error_score="raise").fit(X, y)
    for fold in range(2):
        assert min(search.cv_results_[f"split{fold}_test_score"]) > 0.5  # a guess has a third
    for depth in depths:
        losses = net.set_params(n_frozen=depth).fit(X, y).net_.history[:, "train_loss"]
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]
