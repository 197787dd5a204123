"""Plots of records and images on matplotlib axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from skal._validation import check_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning_curves(
    records: pd.DataFrame, metric: str = "accuracy", *, ceiling: float | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the mean of a metric against the number of labels, one line per strategy, with a ±1 standard deviation band.

    Parameters
    ----------
    records : DataFrame
        Columns ``strategy``, ``seed``, ``n_labels`` and `metric`.
    metric : str, default="accuracy"
    ceiling : float, default=None
        Value of the network trained on all labels, drawn as a horizontal line.
    ax : Axes, default=None

    Returns
    -------
    ax : Axes
    """
    import matplotlib.pyplot as plt

    ax = ax if ax is not None else plt.gca()
    for strategy, of_strategy in records.groupby("strategy", sort=False):
        curve = of_strategy.groupby("n_labels")[metric].agg(["mean", "std"])
        (line,) = ax.plot(curve.index, curve["mean"], marker="o", markersize=3, label=strategy)
        low, high = curve["mean"] - curve["std"], curve["mean"] + curve["std"]
        ax.fill_between(curve.index, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    if ceiling is not None:
        ax.axhline(ceiling, color="0.4", linestyle="--", linewidth=1, label="all labels")
    ax.set(xlabel="labels", ylabel=metric.replace("_", " "))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax


def plot_queried(
    features: np.ndarray,
    y: ArrayLike,
    queried: ArrayLike,
    *,
    random_state: int | np.random.RandomState | None = 0,
    ax: Axes | None = None,
) -> Axes:
    """Plot the images of a pool by t-SNE, coloured by class, with the queried ones marked (ADMA's Fig. 6).

    Parameters
    ----------
    features : ndarray of shape (n, D)
        Features of the pool, such as those of layer B: ``net.activations(X, [-2], pooled=True)[0]``.
    y : array-like of shape (n,)
        Classes, for the colours.
    queried : array-like of int
        Positions of the queried images.
    random_state : int, RandomState or None, default=0
        Seeds t-SNE.
    ax : Axes, default=None

    Returns
    -------
    ax : Axes

    References
    ----------
    .. [1] Huang, Zhao, Liu. "Cost-effective training of deep CNNs with active model adaptation", KDD 2018, Fig. 6.
    """
    import matplotlib.pyplot as plt
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    ax = ax if ax is not None else plt.gca()
    n, width = features.shape
    reduced = PCA(min(50, n, width), random_state=random_state).fit_transform(features)
    plane = TSNE(perplexity=min(30, (n - 1) / 3), random_state=random_state).fit_transform(reduced)
    _, members = np.unique(np.asarray(y), return_inverse=True)
    marked = plane[np.asarray(queried)]
    ax.scatter(plane[:, 0], plane[:, 1], c=members, cmap="tab20", s=6, alpha=0.5, linewidths=0)
    ax.scatter(marked[:, 0], marked[:, 1], s=24, facecolors="none", edgecolors="black", linewidths=0.8)
    ax.set(xticks=[], yticks=[])
    return ax


def contact_sheet(images: Sequence[Any], captions: Sequence[str], *, n_columns: int = 10) -> Figure:
    """Plot images in a grid, each above its caption.

    Parameters
    ----------
    images : sequence of arrays (H, W, 3), (H, W) or (H, W, 1), or of paths
    captions : sequence of str
    n_columns : int, default=10

    Returns
    -------
    figure : Figure

    Raises
    ------
    ValueError
        If there are no images, or not as many captions as images.
    """
    import matplotlib.pyplot as plt

    from skal.images import decode

    if len(images) == 0 or len(images) != len(captions):
        raise ValueError(
            f"images and captions have lengths {len(images)} and {len(captions)}, but need equal ones above 0"
        )
    check_count("n_columns", n_columns)
    n_rows = -(-len(images) // n_columns)
    n_lines = max((caption.count("\n") + 1 for caption in captions if caption), default=0)
    size = 1.3 * n_columns, (1.3 + 0.15 * n_lines) * n_rows
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        pixels = np.asarray(image) if hasattr(image, "shape") and np.ndim(image) else decode(image).numpy()
        pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        limits = {"vmin": 0, "vmax": 255} if pixels.dtype == np.uint8 else {}
        ax.imshow(pixels, cmap="gray", **limits)
        ax.set_title(caption, fontsize=8, y=-0.03, pad=0, va="top")
    return figure
