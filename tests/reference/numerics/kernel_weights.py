"""The quadratic programme of the kernel weights, solved by enumeration."""

import itertools

import numpy as np

from tests.reference.numerics.mmd2 import ref_linear_terms


def ref_programme(X, Y, bandwidths, eps):
    """d and P = Q + εI of the quadratic programme."""
    terms = np.array([ref_linear_terms(X, Y, [s], [1.0]) for s in bandwidths])
    return terms.mean(1), np.atleast_2d(np.cov(terms, ddof=1)) + eps * np.eye(len(bandwidths))


def ref_kernel_weights(d, P):
    """The programme's solution by enumeration of the kernels that take part; the optimum is one of these points."""
    best, best_value = np.full(len(d), 1 / len(d)), np.inf
    if (d > 0).any():
        for size in range(1, len(d) + 1):
            for part in map(list, itertools.combinations(range(len(d)), size)):
                direction = np.linalg.solve(P[np.ix_(part, part)], d[part])
                beta = np.zeros(len(d))
                beta[part] = direction / (d[part] @ direction)
                if (beta >= -1e-12).all() and beta @ P @ beta < best_value:
                    best, best_value = beta.clip(0), beta @ P @ beta
    return best / best.sum()
