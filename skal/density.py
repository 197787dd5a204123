"""How well an adapted classifier suits its target domain, told without a label of the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skal.adaptation import DANClassifier
from skal.images import as_data


def soft_neighborhood_density(proba: ArrayLike, *, temperature: float = 0.05) -> float:
    """How densely predictions lie together: the mean entropy of each one's similarities to the others.

    Parameters
    ----------
    proba : array-like of shape (n, n_classes)
        Class probabilities of images of the target.
    temperature : float, default=0.05

    Returns
    -------
    density : float
        Larger is better: neighbours in dense clusters of predictions.

    References
    ----------
    .. [1] Saito, Kim, Teterwak, Sclaroff, Darrell, Saenko. "Tune it the right way: unsupervised validation of domain
       adaptation via soft neighborhood density", ICCV 2021, Eq. 3-4.

    Examples
    --------
    >>> clustered, blurred = [[1, 0], [1, 0], [0, 1], [0, 1]], [[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0, 1]]
    >>> soft_neighborhood_density(clustered + clustered) > soft_neighborhood_density(blurred + blurred)
    True
    """
    p = torch.as_tensor(np.asarray(proba, dtype=np.float64))
    p = nn.functional.normalize(p)
    similarity = p @ p.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    near = similarity.softmax(dim=1)
    return float(-torch.special.xlogy(near, near).sum(1).mean())


def target_density(estimator: DANClassifier, X: Any = None, y: Any = None) -> float:
    """Score of a fitted :class:`DANClassifier` without a label of the target, for ``GridSearchCV(scoring=...)``.

    Parameters
    ----------
    estimator : DANClassifier
        Fitted with target images; the density of its predictions for them is taken (of 2,000 of them, equally spaced).
    X, y : ignored
        What a search holds out are source images.

    Returns
    -------
    density : float
        See :func:`soft_neighborhood_density`.

    Raises
    ------
    ValueError
        If the estimator has seen no target.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from torch import nn
    >>> from skal import DANClassifier
    >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> X, y = np.random.default_rng(0).normal(size=(40, 4)), np.arange(40) % 2  # not as many as of the target
    >>> search = GridSearchCV(DANClassifier(net, random_state=0), {"lam": [0.1, 1]}, scoring=target_density, cv=2)
    >>> search.fit(X, y, X_target=X[:30] + 1).best_params_["lam"] in (0.1, 1)
    True
    """
    check_is_fitted(estimator)
    X_target = getattr(estimator, "X_target_", None)
    if X_target is None:
        raise ValueError("the estimator has seen no target images: fit it with X_target or sample_domain")
    X_target = as_data(X_target)
    rows = np.linspace(0, len(X_target) - 1, min(len(X_target), 2000)).astype(int)
    return soft_neighborhood_density(estimator.predict_proba(_safe_indexing(X_target, rows)))
