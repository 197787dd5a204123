"""
Use your own network
====================

``backbone`` is the name of a torchvision network, ``"timm:NAME"``, or any ``nn.Module``. Your own module needs no
registration: skal traces its forward pass, finds the points where it can be cut, and counts its weight layers.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform
from skal.backbones import load_backbone


class Residual(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.first(x))))


torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Residual(32), nn.MaxPool2d(2), Residual(32),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
)  # fmt: skip

# %%
# Train it on the digits 0 to 4. This is the source task.

digits = load_digits()
images = (digits.images * 15.9).astype(np.uint8)
is_source = digits.target < 5
x = torch.tensor(images[is_source] / 255, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
target = torch.tensor(digits.target[is_source])
optimizer = torch.optim.Adam(module.parameters(), 3e-3)
for _ in range(100):
    rows = torch.randint(len(x), (128,))
    loss = nn.functional.cross_entropy(module(x[rows]), target[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss on the source: {loss.item():.3f}")

# %%
# The layers that ``n_frozen`` counts. ``preprocess`` describes the input of the module: 8 pixels, in [0, 1].

pixels = ImageTransform(8, 8, mean=(0, 0, 0), std=(1, 1, 1))
print(load_backbone(module, preprocess=pixels).layers.weight_layers)

# %%
# Adapt it to the digits 5 to 9 with few labels, at several depths. The module is copied and never modified.

X, y = images[~is_source], digits.target[~is_source]
n_labels = [10, 25, 50, 100]
accuracy = {}
for n_frozen in (5, 3, 0):
    net = FrozenPrefixClassifier(module, n_frozen=n_frozen, preprocess=pixels, random_state=0)
    accuracy[f"n_frozen={n_frozen}"] = [net.fit(X[:n], y[:n]).score(X[400:], y[400:]) for n in n_labels]

# %%
# A network of timm is cut in the same way. It comes pre-trained; here its weights are random, so that this page
# downloads nothing.

net = FrozenPrefixClassifier("timm:test_resnet", weights=None, image_size=64, random_state=0)
accuracy["timm, random weights"] = [net.fit(X[:n], y[:n]).score(X[400:], y[400:]) for n in n_labels]
print(net.backbone_.layers.weight_layers)

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, scores in accuracy.items():
    ax.plot(n_labels, scores, marker="o", label=name)
ax.set(xlabel="labels", ylabel="accuracy", title="Digits 5 to 9, from a network of the digits 0 to 4")
ax.legend()
plt.show()
