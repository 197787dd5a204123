"""The strategies by name, with what each needs: what loops over all of them reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from skal.query.adma import adma_sampling
from skal.query.aift import aift_sampling
from skal.query.discrepancy import discrepancy_coreset_sampling, mmd_sampling
from skal.query.diversity import badge_sampling, coreset_sampling, probcover_sampling, typiclust_sampling
from skal.query.emoc import emoc_sampling
from skal.query.herding import max_herding_sampling, uherding_sampling
from skal.query.sets import emoc_set_sampling, set_sampling
from skal.query.uncertainty import (
    entropy_sampling,
    least_confident_sampling,
    margin_sampling,
    most_confident_sampling,
    random_sampling,
)


class Strategy(NamedTuple):
    """What a strategy needs and costs.

    Parameters
    ----------
    function : callable
        ``function(learner, X_pool, n_instances=1, **keywords)``.
    needs_labels : bool
        Whether its rule asks a classifier, which takes labels of two classes; all strategies start without any.
    without_labels : str
        What decides in the first query, when there are none.
    needs_gradients : bool
        Whether the classifier must have them (:meth:`skal.FrozenPrefixClassifier.output_change`).
    needs_source : bool
        Whether it needs a :class:`skal.SourceProfile` or source images.
    batch : str
        How a batch is put together: "together" (its images are chosen in view of each other), "one by one", or
        "either", by the keyword ``batch``.
    cost : str
        What the time of a query grows with, beside a pass of the pool through the network.
    """

    function: Callable[..., Any]
    needs_labels: bool
    without_labels: str
    needs_gradients: bool
    needs_source: bool
    batch: str
    cost: str


#: Every query strategy by name.
STRATEGIES = {
    "random": Strategy(random_sampling, False, "chance", False, False, "one by one", "nothing"),
    "least_confident": Strategy(least_confident_sampling, True, "chance", False, False, "either", "pool"),
    "margin": Strategy(margin_sampling, True, "chance", False, False, "either", "pool"),
    "entropy": Strategy(entropy_sampling, True, "chance", False, False, "either", "pool"),
    "most_confident": Strategy(most_confident_sampling, True, "chance", False, False, "either", "pool"),
    "aift": Strategy(aift_sampling, True, "chance", False, False, "one by one", "pool x patches, through the network"),
    "adma": Strategy(adma_sampling, True, "distinctiveness", False, True, "either", "pool x source classes"),
    "emoc": Strategy(emoc_sampling, True, "chance", True, False, "either", "pool x references x trainable layers"),
    "coreset": Strategy(coreset_sampling, False, "its rule", False, False, "together", "pool x (labels + batch)"),
    "badge": Strategy(badge_sampling, True, "features", False, False, "together", "pool x batch"),
    "typiclust": Strategy(typiclust_sampling, False, "its rule", False, False, "together", "pool x clusters"),
    "probcover": Strategy(probcover_sampling, False, "its rule", False, False, "together", "pool squared"),
    "max_herding": Strategy(max_herding_sampling, False, "its rule", False, False, "together", "pool squared"),
    "uherding": Strategy(
        uherding_sampling, True, "max_herding", False, False, "together", "pool squared, and three fits"
    ),
    "mmd": Strategy(mmd_sampling, False, "its rule", False, True, "together", "pool squared"),
    "discrepancy_coreset": Strategy(
        discrepancy_coreset_sampling, False, "its rule", False, True, "together", "pool squared"
    ),
    "set": Strategy(set_sampling, True, "chance", False, False, "together", "pool"),
    "emoc_set": Strategy(
        emoc_set_sampling, True, "chance", True, False, "together", "pool x references x trainable layers"
    ),
}
