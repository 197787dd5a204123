"""Random labelling."""


def ref_random(query):
    return query.generator.permutation(len(query.pool))[: query.n]


ALTERNATIVES = {"random": {}}
