"""
Choose a query strategy
=======================

Which images should be labelled first? :func:`skal.experiment.run_experiment` answers this for your own task. It
runs the labelling loop with every strategy and seed, using the known labels as the oracle, and returns one row per
round.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skal import FrozenPrefixClassifier
from skal.experiment import Task, run_experiment
from skal.metrics import area_under_curve
from skal.plots import plot_learning_curves
from skal.query import margin_sampling, max_herding_sampling, random_sampling, uherding_sampling

# %%
# The task: a pool whose labels are revealed ten at a time, and a test set.

digits = load_digits()
images = (digits.images * 15.9).astype(np.uint8)
X_pool, X_test, y_pool, y_test = train_test_split(images, digits.target, test_size=500, random_state=0)
task = Task(X_pool[:800], y_pool[:800], X_test, y_test)

# %%
# An ImageNet network at 64 pixels. Only its last layers are trained. The activations of the frozen layers are computed
# once and cached for all strategies and seeds. ``max_epochs=10`` keeps this example short.

net = FrozenPrefixClassifier("efficientnet_lite0", image_size=64, max_epochs=10, min_steps=20)
strategies = {
    "random": random_sampling,
    "margin": margin_sampling,
    "MaxHerding": max_herding_sampling,
    "UHerding": uherding_sampling,
}
records = run_experiment(net, strategies, {"digits": task}, n_queries=5, batch_size=10, seeds=[0, 1])

# %%
# The mean accuracy over the curve ranks the strategies. ``folder=`` would make the experiment resumable.
# Strategies that cover the pool lead while labels are few, and margin sampling catches up later: :doc:`which
# strategy when </strategies>`.

print(area_under_curve(records).round(3))

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
plot_learning_curves(records, ax=ax)
plt.show()
