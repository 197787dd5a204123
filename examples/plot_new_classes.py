"""
Add new classes
===============

A labelling campaign rarely starts with all classes. ``partial_fit`` takes new images only. New classes add rows to
the head, and the images seen before are replayed to prevent forgetting.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier

digits = load_digits()
X, X_test, y, y_test = train_test_split(
    (digits.images * 15.9).astype(np.uint8), digits.target, test_size=500, random_state=0, stratify=digits.target
)

# %%
# Start with two classes and add two at a time, with 15 images per class. Old images are never passed again.

net = FrozenPrefixClassifier("efficientnet_lite0", image_size=64, random_state=0)
rows = []
for newest in range(1, 10, 2):
    new = np.concatenate([np.flatnonzero(y == label)[:15] for label in (newest - 1, newest)])
    net.partial_fit(X[new], y[new])
    predicted = net.predict(X_test)
    known = y_test <= newest
    rows.append([np.mean(predicted[y_test == label] == label) for label in range(10)])
    print(f"classes {net.classes_}: accuracy {np.mean(predicted[known] == y_test[known]):.3f} on those known")

# %%
# Recall of each class after each step. White classes are not known yet. A forgotten class would turn dark.

recall = np.ma.masked_array(rows, [[label > newest for label in range(10)] for newest in range(1, 10, 2)])
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
picture = ax.imshow(recall, vmin=0, vmax=1, cmap="viridis")
for (row, column), value in np.ndenumerate(recall):
    if value is not np.ma.masked:
        ax.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="black" if value > 0.6 else "w"
        )
ax.set(xlabel="class", ylabel="classes known", xticks=range(10), yticks=range(5))
ax.set_yticklabels([2, 4, 6, 8, 10])
figure.colorbar(picture, label="recall")
plt.show()
