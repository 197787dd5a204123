"""
Write a recipe of your own
==========================

The training method is a parameter: ``FrozenPrefixClassifier(recipe=...)``. A recipe is a small estimator whose
``train`` method takes the problem and returns what was trained. Everything else (the cache, new classes, saving,
searches over ``recipe__name``) works without further code.

This example adds label smoothing. Part of each image's weight is spread over all classes, so the network is less
confident.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

from skal import FrozenPrefixClassifier
from skal.training import Recipe, SuffixNet, Trained


class SmoothedNet(SuffixNet):
    """skorch's net with another loss."""

    def __init__(self, *args, amount, **kwargs):
        super().__init__(*args, **kwargs)
        self.amount = amount

    def get_loss(self, y_pred, y_true, X=None, training=False):
        loss = super().get_loss(y_pred, y_true, X, training)
        return (1 - self.amount) * loss - self.amount * y_pred.log_softmax(dim=1).mean()


class LabelSmoothing(Recipe):
    """Fine-tuning with smoothed labels."""

    def __init__(self, amount=0.1):
        self.amount = amount

    def train(self, problem):
        start = problem.start()  # the trainable layers with the solved head
        net = problem.net(
            start.suffix, len(problem.y), penalty=start.penalty, net_class=partial(SmoothedNet, amount=self.amount)
        )
        net.fit(problem.rows(), None)
        start.settle(net.module_)  # averages the weights with those at the start
        return Trained(net, problem.classes)


# %%
# A parameter of the recipe is also a parameter of the classifier. ``wise_alpha=1`` uses the trained network without
# averaging it with the linear probe, to show the effect of the recipe alone.

digits = load_digits()
X, y = (digits.images * 15.9).astype(np.uint8), digits.target
train, test = slice(0, 100), slice(1000, 1500)
net = FrozenPrefixClassifier(
    "efficientnet_lite0", recipe=LabelSmoothing(), image_size=64, wise_alpha=1.0, random_state=0
)
amounts = [0, 0.1, 0.2, 0.4, 0.6]
confidence, loss = [], []
for amount in amounts:
    proba = net.set_params(recipe__amount=amount).fit(X[train], y[train]).predict_proba(X[test])
    confidence.append(proba.max(axis=1))
    loss.append(log_loss(y[test], proba, labels=net.classes_))
    print(f"amount {amount}: accuracy {np.mean(net.classes_[proba.argmax(axis=1)] == y[test]):.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.boxplot(confidence, tick_labels=amounts, showfliers=False)
left.set(xlabel="amount of smoothing", ylabel="largest probability per image")
right.plot(amounts, loss, marker="o")
right.set(xlabel="amount of smoothing", ylabel="log loss on test images")
plt.show()
