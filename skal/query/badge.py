"""BADGE: diverse gradients of the last layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skal.numerics.greedy import d2_sampling
from skal.query._context import Context
from skal.query._registry import strategy


@strategy(cost="pool x batch", needs_labels=True, without_labels="features")
def badge_sampling(
    learner: Any, X_pool: Any, n_instances: int = 1, *, random_state: int | np.random.RandomState | None = None
) -> Any:
    """Query diverse, uncertain images: k-means++ on the gradients of the last layer under the predicted label.

    A gradient is (p - e) ⊗ h, with p the probabilities, e the predicted class and h the features. The outer product is
    never computed: inner products of gradients are products of inner products.

    Parameters
    ----------
    learner : ActiveLearner, Committee or estimator
        Any probabilistic classifier; features as in :func:`skal.query.coreset_sampling`. Before its first fit, only the
        features are used.
    X_pool : array-like of length n
    n_instances : int, default=1
    random_state : int, RandomState or None, default=None

    Returns
    -------
    indices : ndarray of shape (n_instances,)
        Distinct positions in the pool, in the order they were chosen. modAL 0.4.2 and later also gets zeros as scores.

    Raises
    ------
    ValueError
        If the pool is empty or smaller than `n_instances`.

    References
    ----------
    .. [1] Ash, Zhang, Krishnamurthy, Langford, Agarwal. "Deep batch active learning by diverse, uncertain gradient
       lower bounds", ICLR 2020, Algorithm 1.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> sorted(badge_sampling(model, np.array([[0.5], [0.6], [-4.0], [4.0]]), 2, random_state=0).tolist())
    [1, 3]
    """
    context = Context(learner, X_pool, n_instances, random_state)
    h = context.features().pool
    norms = h.norms()
    q = norms.new_ones(len(h), 1)
    if context.proba is not None:
        q = torch.tensor(context.proba).to(norms)
        q[torch.arange(len(q)), q.argmax(1)] -= 1
    norms *= (q * q).sum(1)
    picks = d2_sampling(lambda i: (q @ q[i]) * h.inner(h[[i]][0]), norms, n_instances, context.generator)
    return context.result(picks)
