"""k-centre greedy with all distances."""

import numpy as np

from tests.reference import pairwise


def ref_coreset(query):
    chosen = [] if len(query.labelled) else [int(query.generator.randint(len(query.pool)))]
    while len(chosen) < query.n:
        distance = pairwise(query.pool, np.concatenate([query.labelled, query.pool[chosen]])).min(axis=1)
        distance[chosen] = -1
        chosen.append(distance.argmax())
    return chosen


ALTERNATIVES = {"coreset": {}}
