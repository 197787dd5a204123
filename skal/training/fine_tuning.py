"""Fine-tuning: the default recipe."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skal.backbones.backbone import Backbone
from skal.features.prefix import default_depth
from skal.training.batches import replay_shares
from skal.training.problem import Problem
from skal.training.recipe import Recipe, Trained
from skal.training.unlabelled import refit_head, sampled, start_with_pool

#: Number of labels from which all layers are trained and images are cropped.
_MANY = 500
#: Default share of frozen layers, by the number of labels from which it applies.
_FROZEN = {0: 7 / 8, 20: 2 / 3, _MANY: 0.0}


class FineTuning(Recipe):
    """Fine-tune the trainable layers and the head on labelled images.

    Parameters
    ----------
    replay : float or "misclassified", default=0.9
        Share of images seen before in each training step when a fit continues from the last one (`warm_start`,
        `partial_fit`). New images make up the rest [1]_. "misclassified" trains on new images and on those seen before
        that the last fit misclassifies, all with equal probability [2]_.

    max_unlabeled : int, default=5000
        Maximum number of unlabelled images to learn from. If more are given, a random sample is used.

    Notes
    -----
    Unlabelled images (``X_unlabeled`` of ``fit``, ``partial_fit`` and ``teach``) receive pseudo-labels, which combine
    the linear probe with a nearest-neighbour graph (:func:`skal.training.pseudo_labels`). All features are then centred
    by the mean of labelled and pool images before the head. The head is fitted on labelled and pseudo-labelled images.
    From there, the head and the trainable layers are fine-tuned on the labelled images only. Finally the pseudo-labels
    are computed again from the trained features and the head is fitted once more. Labelled images in the pool are
    ignored. The pool is not used if the fit solves for new classes only or all labels are of one class. It is also not
    used, with a warning, if its images are of a different kind than the labelled ones. Under a time limit
    (`max_seconds`) the first solution takes at most half of the time, with as many pool images as that allows, and the
    second is omitted if it would take as long.

    References
    ----------
    .. [1] Käding, Rodner, Freytag, Denzler. "Active and continuous exploration with deep neural networks and expected
       model output changes", 2016, section 4 (0.9 old, 0.1 new).
    .. [2] Zhou, Shin, Gurudu, Gotway, Liang. "Active, continual fine tuning of convolutional neural networks for
       reducing annotation efforts", Medical Image Analysis 2021, section 3.3.

    Examples
    --------
    >>> from torch import nn
    >>> from skal import FrozenPrefixClassifier
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> classifier = FrozenPrefixClassifier(net, recipe=FineTuning(replay=0.5), random_state=0)
    >>> X, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2
    >>> classifier.fit(X[:10], y[:10]).partial_fit(X[10:], y[10:]).predict(X).shape
    (20,)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "replay": [Interval(Real, 0, 1, closed="neither"), StrOptions({"misclassified"})],
        "max_unlabeled": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, replay: float | str = 0.9, max_unlabeled: int = 5000):
        self.replay = replay
        self.max_unlabeled = max_unlabeled

    def default_depth(self, backbone: Backbone, n_labels: int) -> int:
        """Seven eighths of the layers; two thirds from 20 labels, where a fit takes about twice as long.

        From 500 labels nothing is frozen, which takes longer by another factor of three. All classes share these
        layers, so the total number of labels decides.
        """
        share = next(share for least, share in reversed(_FROZEN.items()) if n_labels >= least)
        return min(default_depth(backbone), int(share * len(backbone.layers.weight_layers)))

    def train(self, problem: Problem, *, X_unlabeled: Any = None) -> Trained:
        """Solve the head, train the trainable layers and the head, and average the weights with the initial ones."""
        start, with_pool = problem.start(), None
        if X_unlabeled is not None and problem.solves_all:
            pool = sampled(problem, X_unlabeled, self.max_unlabeled)
            with_pool = start_with_pool(pool, problem, start) if len(pool) else None
            start = start if with_pool is None else with_pool.start
        again = with_pool if with_pool is not None and 2 * with_pool.seconds < problem.seconds_left else None
        shares, chosen = None, np.arange(len(problem.y))
        if self.replay == "misclassified":
            chosen = np.flatnonzero(~(problem.is_old & _is_right(problem)))
        else:
            shares = replay_shares(problem.is_old, float(self.replay))
        if problem.is_single_class and len(problem.absent):
            chosen = chosen[:0]  # training on one class would forget the others; only its row of the head is solved
        net = problem.net(
            start.suffix,
            len(chosen),
            penalty=start.penalty,
            share_of=shares if len(chosen) else None,
            reserved=0.0 if again is None else again.seconds,
        )
        if len(chosen):
            net.fit(problem.rows(chosen, crops=len(problem.y) >= _MANY), None)
        else:
            net.initialize()
        start.settle(net.module_)
        if again is not None and len(net.history):
            refit_head(again.pool, problem, net.module_)
        return Trained(net, problem.classes)


def _is_right(problem: Problem) -> np.ndarray:
    """Whether the last fit classifies each image correctly; all False if there is no last fit."""
    if problem.last is None or not problem.is_old.any():
        return np.zeros(len(problem.y), dtype=bool)
    logits = problem.logits(problem.last.suffix)
    return problem.last.classes[logits.argmax(dim=1).numpy()] == problem.y
