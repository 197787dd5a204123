"""
Search the trade-off of a strategy and the frozen depth
=======================================================

Active learning leaves two choices open: the parameters of the strategy, and how much of the network to train.
:class:`skal.ActiveClassifier` runs the labelling loop inside ``fit``, so scikit-learn's searches can tune both
at once. This example searches ADMA's λ, which shifts the weight from distinctive to uncertain images, and
``n_frozen``.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV

from skal import ActiveClassifier, FrozenPrefixClassifier, Query, SourceProfile, adma_sampling

# %%
# Fashion-MNIST, and the profile of the source task: the activations of one ImageNet image per class.

folder = next(path for path in (Path("data"), Path("examples/data")) if path.exists())
with np.load(folder / "fashion_mnist.npz") as data:
    X, y = data["X_pool"][:300], data["class_names"][data["y_pool"][:300]]
profile = SourceProfile.load(folder / "efficientnet_lite0_imagenet_96px.safetensors")

# %%
# Each cell of the grid runs a whole labelling loop in every fold: 3 rounds of 10 labels. The activations of the frozen
# layers are computed once for all cells, since depths share the cache.

net = FrozenPrefixClassifier(
    "efficientnet_lite0", image_size=96, source=profile, max_epochs=5, min_steps=10, random_state=0
)
active = ActiveClassifier(net, Query(adma_sampling), n_queries=3, batch_size=10, random_state=0)
grid = {"query__lam": [0, 0.1, 1], "estimator__n_frozen": [-6, -3, -1]}
search = GridSearchCV(active, grid, cv=2).fit(X, y)
print(search.best_params_, round(search.best_score_, 3))

# %%
table = pd.DataFrame(search.cv_results_).pivot(
    index="param_estimator__n_frozen", columns="param_query__lam", values="mean_test_score"
)
figure, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
picture = ax.imshow(table, cmap="viridis")
for (row, column), score in np.ndenumerate(table.to_numpy()):
    shade = "black" if score > table.to_numpy().mean() else "white"
    ax.text(column, row, f"{score:.3f}", ha="center", va="center", color=shade)
ax.set(xlabel="λ", ylabel="n_frozen", xticks=range(3), yticks=range(3))
ax.set_xticklabels(table.columns)
ax.set_yticklabels(table.index)
figure.colorbar(picture, label="accuracy after 30 labels")
plt.show()
