"""
Adapt to a domain without labels
================================

One domain is labelled, another has unlabelled images only. The recipe :class:`skal.DAN` trains on the labels and
also aligns the activations of the two domains.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from skal import DAN, FrozenPrefixClassifier, ImageTransform

# %%
# Source: digits. Target: other digit images, as from a camera that is out of focus, overexposed and noisy.

rng = np.random.default_rng(0)
digits = load_digits()
images = np.kron(digits.images / 16, np.ones((1, 2, 2)))
X_source, y_source = (255 * images[:900]).astype(np.uint8), digits.target[:900]
blurred = sum(np.roll(images[900:], (i, j), axis=(1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
target = (255 * (0.3 + 0.5 * blurred + rng.normal(0, 0.05, blurred.shape))).clip(0, 255).astype(np.uint8)
X_target, X_test, y_test = target[:600], target[600:], digits.target[1500:]

# %%
# A small network, trained on the source.

torch.manual_seed(0)
pixels = ImageTransform(16, 16, mean=(0, 0, 0), std=(1, 1, 1))
module = nn.Sequential(
    nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
x, y = torch.tensor(X_source / 255, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1), torch.tensor(y_source)
optimizer = torch.optim.Adam(module.parameters(), 2e-3)
for _ in range(150):
    rows = torch.randint(len(x), (128,))
    loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Both classifiers start from this network and use the same labels. DAN also uses the target images.
# ``labels="source"`` says that X, y are the source, since there are no target labels.

settings = {"n_frozen": 1, "preprocess": pixels, "max_epochs": 10, "batch_size": 64, "random_state": 0}
plain = FrozenPrefixClassifier(module, **settings).fit(X_source, y_source)
dan = FrozenPrefixClassifier(module, recipe=DAN(lam=1.0, labels="source"), **settings)
dan.fit(X_source, y_source, X_unlabeled=X_target)
scores = {"source only": plain.score(X_test, y_test), "DAN": dan.score(X_test, y_test)}
print(scores)

# %%
# Final representations of both domains, projected onto their first two principal components.


def plane(net):
    features = [net.transform(X[:300]) for X in (X_source, X_test)]
    centred = np.concatenate(features) - np.concatenate(features).mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    return np.split(centred @ axes.T, [300])


figure, panels = plt.subplots(1, 4, figsize=(11, 3), layout="constrained", width_ratios=[0.6, 0.6, 1, 1])
pair = X_source[3], X_test[y_test == y_source[3]][0]  # of the same class
for ax, image, title in zip(panels, pair, ("source", "target"), strict=False):
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(title)
for ax, (name, score), net in zip(panels[2:], scores.items(), (plain, dan), strict=True):
    for points, label in zip(plane(net), ("source", "target"), strict=True):
        ax.scatter(*points.T, s=5, label=label)
    ax.set_title(f"{name}: {score:.2f} on the target")
    ax.legend(fontsize=8)
for ax in panels:
    ax.set(xticks=[], yticks=[])
plt.show()
