"""Query strategies in modAL's shape: ``strategy(learner, X_pool, n_instances=1, **options)`` gives indices."""

from skal.query._query import Query
from skal.query.adma import adma_sampling
from skal.query.uncertainty import random_sampling

__all__ = ["Query", "adma_sampling", "random_sampling"]
