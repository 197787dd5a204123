"""Scores of predictions, probability by probability."""

import numpy as np


def highest(scores, n, generator):
    """The highest scores, with ties in random order."""
    order = generator.permutation(len(scores))
    return sorted(range(len(scores)), key=lambda i: (-scores[i], order[i]))[:n]


def plain_uncertainty(proba, kind):
    out = []
    for p in proba.tolist():
        top = sorted(p, reverse=True)
        if kind == "gini":
            out.append(sum(q * (1 - q) for q in p))
        elif kind == "entropy":
            out.append(-sum(q * np.log(q) for q in p if q > 0) / np.log(len(p)) if len(p) > 1 else 0.0)
        elif kind == "margin":
            out.append(1 - (top[0] - top[1]) if len(p) > 1 else 0.0)
        else:
            out.append(1 - top[0])
    return np.array(out)


def _by(query, kind, sign=1):
    scores = np.zeros(len(query.pool)) if query.proba is None else sign * plain_uncertainty(query.proba, kind)
    return highest(scores, query.n, query.generator)


def ref_least_confident(query):
    return _by(query, "least_confident")


def ref_margin(query):
    return _by(query, "margin")


def ref_entropy(query):
    return _by(query, "entropy")


def ref_most_confident(query):
    return _by(query, "least_confident", -1)


ALTERNATIVES = {name: {"batch": ["herding"]} for name in ("least_confident", "margin", "entropy", "most_confident")}
