"""
Learn from the unlabelled pool
==============================

Unlabelled images cost nothing and show which images are similar. Passed to ``fit`` as ``X_unlabeled``, they improve
a classifier most where labels are few: :doc:`how it works </pool>`.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier

# %%
# A pool of 800 digits, with one to ten labels per class, and a test set.

digits = load_digits()
images = (digits.images * 15.9).astype(np.uint8)
X_pool, X_test, y_pool, y_test = train_test_split(images, digits.target, train_size=800, random_state=0)
rng = np.random.RandomState(0)
order = np.array([rng.permutation(np.flatnonzero(y_pool == digit)) for digit in range(10)], dtype=object)

# %%
# Three classifiers on the same ImageNet network: a logistic regression on its features, skal's head trained on the
# labels alone, and skal's head with the pool. ``max_epochs=0`` skips fine-tuning, so that a fit takes less than a
# second.

net = FrozenPrefixClassifier("efficientnet_lite0", image_size=64, max_epochs=0, random_state=0)
F_pool, F_test = (net.activations(X, [-2], pooled=True)[0] for X in (X_pool, X_test))
labels = [1, 2, 5, 10]
accuracy = {"logistic regression": [], "labels alone": [], "with the pool": []}
for k in labels:
    few = np.concatenate([own[:k] for own in order])
    regression = LogisticRegression(max_iter=1000).fit(F_pool[few], y_pool[few])
    accuracy["logistic regression"].append(regression.score(F_test, y_test))
    accuracy["labels alone"].append(net.fit(X_pool[few], y_pool[few]).score(X_test, y_test))
    taught = net.fit(X_pool[few], y_pool[few], X_unlabeled=X_pool)
    accuracy["with the pool"].append(taught.score(X_test, y_test))

# %%
# The gain from the pool is largest with few labels. In a labelling loop, pass the pool in every round.
# ``ActiveClassifier`` and ``run_experiment`` do this automatically; with modAL, use
# ``learner.teach(X, y, X_unlabeled=X_pool)``.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, scores in accuracy.items():
    ax.plot(labels, scores, marker="o", label=name)
ax.set(xscale="log", xticks=labels, xticklabels=labels, xlabel="labels per class", ylabel="test accuracy")
ax.legend()
plt.show()
