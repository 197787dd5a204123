"""Query strategies in modAL's shape: ``strategy(learner, X_pool, n_instances=1, **options)`` gives indices."""

from skal.query._pool import score_pool
from skal.query._query import Query
from skal.query._registry import STRATEGIES, Strategy
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

__all__ = [
    "STRATEGIES",
    "Query",
    "Strategy",
    "adma_sampling",
    "aift_sampling",
    "badge_sampling",
    "coreset_sampling",
    "discrepancy_coreset_sampling",
    "emoc_sampling",
    "emoc_set_sampling",
    "entropy_sampling",
    "least_confident_sampling",
    "margin_sampling",
    "max_herding_sampling",
    "mmd_sampling",
    "most_confident_sampling",
    "probcover_sampling",
    "random_sampling",
    "score_pool",
    "set_sampling",
    "typiclust_sampling",
    "uherding_sampling",
]
