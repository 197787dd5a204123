"""
Write a strategy of your own
============================

A strategy is a function of a learner and a pool. The decorator declares what it needs and checks its keywords. The
context provides the inputs of a strategy and converts scores to positions.
"""

import matplotlib.pyplot as plt
import numpy as np
from modAL.models import ActiveLearner
from sklearn.datasets import load_digits

from skal import FrozenPrefixClassifier
from skal.plots import plot_queried
from skal.query import Context, strategy


@strategy({}, cost="pool", needs_labels=True, without_labels="chance")
def variance_sampling(learner, X_pool, n_instances=1, *, batch="herding", random_state=None):
    """Query the images whose class probabilities have the smallest variance."""
    context = Context(learner, X_pool, n_instances, random_state)
    return context.batch(-context.known_proba.var(axis=1), batch)


# %%
# Like every strategy, it starts from zero labels. Before the first fit all scores are equal, and the batch covers the
# pool.

digits = load_digits()
X_pool, y_pool = (digits.images[:600] * 15.9).astype(np.uint8), digits.target[:600]
net = FrozenPrefixClassifier("efficientnet_lite0", image_size=64, max_epochs=10, min_steps=20, random_state=0)
learner = ActiveLearner(net, query_strategy=variance_sampling)
queried = []
for _ in range(3):
    indices, images = learner.query(np.delete(X_pool, queried, axis=0), n_instances=10)
    indices = np.delete(np.arange(600), queried)[indices]
    learner.teach(images, y_pool[indices])
    queried.extend(indices)
print(f"{len(set(y_pool[queried]))} classes among {len(queried)} labels")

# %%
# The queried images in a two-dimensional projection of the features. With ``batch="top"`` they would be concentrated in
# one place.

(features,) = learner.estimator.activations(X_pool, [-2], pooled=True)
figure, ax = plt.subplots(figsize=(5, 5), layout="constrained")
plot_queried(features, y_pool, queried, ax=ax)
ax.set_title("600 digits, coloured by class; circles: the 30 queried", fontsize=10)
plt.show()
