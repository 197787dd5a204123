"""The most typical row of each of the largest clusters without a label."""

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from tests.reference import pairwise, read_from_mean


def ref_typiclust(query):
    X = np.concatenate(read_from_mean(query.pool, query.labelled))
    n_clusters = len(query.labelled) + query.n
    kind = MiniBatchKMeans if n_clusters > 50 else KMeans  # the same calls, otherwise the clusters would differ
    clusters = kind(n_clusters, n_init=1, random_state=query.generator).fit_predict(X)
    is_labelled = np.arange(len(X)) >= len(query.pool)
    empty = [c for c in range(n_clusters) if (clusters == c).any() and not (is_labelled & (clusters == c)).any()]
    picks = []
    for cluster in sorted(empty, key=lambda c: -(clusters == c).sum())[: query.n]:
        members = np.flatnonzero(clusters == cluster)
        k = max(1, min(20, len(members) // 2))
        nearest = np.sort(np.sqrt(pairwise(X[members], X[members])), axis=1)[:, 1 : k + 1]
        picks.append(members[nearest.mean(axis=1).argmin()] if len(members) > 1 else members[0])
    return picks


ALTERNATIVES = {"typiclust": {"max_clusters": [3], "n_neighbors": [2]}}
