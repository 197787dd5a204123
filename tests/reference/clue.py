"""Weighted k-means, and the row nearest to each centre."""

import numpy as np
from sklearn.cluster import KMeans

from tests.reference.uncertainty import plain_uncertainty


def ref_clue(query):
    weights = None if query.proba is None else plain_uncertainty(query.proba, "entropy")
    centers = KMeans(query.n, n_init=1, random_state=query.generator).fit(query.pool, sample_weight=weights)
    picks = []
    for center in centers.cluster_centers_:
        nearest = np.argsort([np.linalg.norm(row - center) for row in query.pool])
        picks.append(next(row for row in nearest if row not in picks))
    return picks


ALTERNATIVES = {"clue": {"temperature": [0.1]}}
