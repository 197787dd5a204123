"""MK-MMD² by double loops, and the median heuristic."""

from math import exp, sqrt

import numpy as np


def uniform(bandwidths):
    return [1 / len(bandwidths)] * len(bandwidths)


def ref_kernel(x, y, bandwidths, weights):
    d2 = sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))
    return sum(b * exp(-d2 / (2 * float(s) ** 2)) for b, s in zip(weights, bandwidths, strict=True))


def ref_gram(X, Y, bandwidths, weights=None):
    weights = uniform(bandwidths) if weights is None else weights
    return np.array([[ref_kernel(x, y, bandwidths, weights) for y in Y] for x in X])


def off_diagonal_mean(K):
    n = len(K)
    return sum(K[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


def ref_linear_terms(X, Y, bandwidths, weights):
    terms = []
    for i in range(min(len(X), len(Y)) // 2):
        x1, x2, y1, y2 = X[2 * i], X[2 * i + 1], Y[2 * i], Y[2 * i + 1]
        terms.append(
            ref_kernel(x1, x2, bandwidths, weights)
            + ref_kernel(y1, y2, bandwidths, weights)
            - ref_kernel(x1, y2, bandwidths, weights)
            - ref_kernel(x2, y1, bandwidths, weights)
        )
    return np.array(terms)


def ref_mmd2(X, Y, bandwidths, weights=None, estimator="unbiased"):
    weights = uniform(bandwidths) if weights is None else weights
    if estimator == "linear":
        return ref_linear_terms(X, Y, bandwidths, weights).mean()
    XX, YY, XY = (ref_gram(A, B, bandwidths, weights) for A, B in ((X, X), (Y, Y), (X, Y)))
    if estimator == "biased":
        return XX.mean() + YY.mean() - 2 * XY.mean()
    return off_diagonal_mean(XX) + off_diagonal_mean(YY) - 2 * XY.mean()


def ref_bandwidths(X, Y, n=5):
    Z = np.vstack([X, Y])
    squared = [((Z[i] - Z[j]) ** 2).sum() for i in range(len(Z)) for j in range(i)]
    return np.array([sqrt(2 ** (u - (n - 1) / 2) * np.median(squared) / 2) for u in range(n)])
