"""
Borrow from a source
====================

The target task has few labels, and there is another labelled set with different classes. The recipe
:class:`skal.SelectiveJoint` trains on both tasks together. From the source it uses only the images that *look* like
the target's: nearest neighbours by histograms of filter responses.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform, SelectiveJoint
from skal.plots import contact_sheet
from skal.selective import FilterBankDescriptor

# %%
# Target: the digits 0 to 4, with one or five labels per class. Source: the digits 5 to 9. Half of them have inverted
# colours and should not be borrowed.

digits = load_digits()
images = np.kron((digits.images * 15.9).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
is_target = digits.target < 5
X_all, y_all = images[is_target], digits.target[is_target]
X_test, y_test = X_all[400:], y_all[400:]
X_source, y_source = images[~is_target], digits.target[~is_target]
is_inverted = np.arange(len(y_source)) % 2 == 1
X_source = np.where(is_inverted[:, None, None], 255 - X_source, X_source)

# %%
# A network is trained from scratch, all layers, with 30 neighbours per labelled image.

torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 5),
)  # fmt: skip
recipe = SelectiveJoint(30, n_iterations=1, descriptor=FilterBankDescriptor("gabor", image_size=24))
net = FrozenPrefixClassifier(
    module, recipe=recipe, n_frozen=0, preprocess=ImageTransform(24, 24), wise_alpha=1.0, lr=0.03, max_epochs=20,
    min_steps=300, random_state=0,
)  # fmt: skip
for n_labels in (5, 1):
    rows = np.concatenate([np.flatnonzero(y_all[:400] == label)[:n_labels] for label in range(5)])
    X, y = X_all[rows], y_all[rows]
    alone = net.fit(X, y).score(X_test, y_test)
    joint = net.fit(X, y, X_source=X_source, y_source=y_source).score(X_test, y_test)
    borrowed = net.borrowed_[-1]
    print(f"{n_labels} per class: accuracy {alone:.3f} alone, {joint:.3f} with {len(borrowed)} images borrowed, "
          f"of which {is_inverted[borrowed].mean():.0%} inverted")  # fmt: skip

# %%
# Borrowing helps with one label per class. With five it no longer does, so compare before relying on it. The
# measurements in :doc:`/selective` agree.
#
# The figure shows a labelled image of each class and its nearest source images.

shown, captions = [], []
for i in range(5):
    shown += [X[i], *X_source[net.neighbors_[i, :6]]]
    captions += [f"target {y[i]}", *(f"{k + 1}: a {y_source[row]}" for k, row in enumerate(net.neighbors_[i, :6]))]
contact_sheet(shown, captions, n_columns=7)
plt.show()
