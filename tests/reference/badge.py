"""k-means++ on gradients that are computed in full."""

import numpy as np

from tests.reference import pairwise


def ref_badge(query):
    gradients = query.pool
    if query.proba is not None:
        p = query.proba.copy()
        p[np.arange(len(p)), p.argmax(axis=1)] -= 1
        gradients = (p[:, :, None] * query.pool[:, None, :]).reshape(len(query.pool), -1)
    chosen = [int((gradients**2).sum(axis=1).argmax())]
    while len(chosen) < query.n:
        D2 = pairwise(gradients, gradients[chosen]).min(axis=1)
        D2[chosen] = 0
        draw = query.generator.random_sample() * D2.sum()
        chosen.append(int(np.searchsorted(np.cumsum(D2), draw, side="right")))
    return chosen


ALTERNATIVES = {"badge": {}}
