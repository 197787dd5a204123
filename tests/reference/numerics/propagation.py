"""Propagation by solving its linear system, and the estimation of class shares by many plain steps."""

import numpy as np


def plain_propagate(X, seeds, n_neighbors, alpha):
    n = len(X)
    Z = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = Z @ Z.T
    W = np.zeros((n, n))
    for i in range(n):
        others = [j for j in np.argsort(-cosines[i]) if j != i][:n_neighbors]
        for j in others:
            W[i, j] = W[j, i] = max(cosines[i, j], 0) ** 3
    D = W.sum(axis=1)
    S = np.array([[W[i, j] / np.sqrt(D[i] * D[j]) if W[i, j] else 0.0 for j in range(n)] for i in range(n)])
    return (1 - alpha) * np.linalg.solve(np.eye(n) - alpha * S, seeds)


def plain_align(proba, prior, n_prior):
    shares = np.array(prior)
    for _ in range(5000):
        rows = [p * shares / prior / (p * shares / prior).sum() for p in proba]
        shares = (np.sum(rows, axis=0) + n_prior * prior) / (len(proba) + n_prior)
    return np.array([p * shares / prior / (p * shares / prior).sum() for p in proba])
