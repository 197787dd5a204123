"""The matrix R of one image, entry by entry."""

import numpy as np


def plain_score(p, alpha, lam1, lam2, eps):
    """Sum of R over the patches (m, C) that agree most with the dominant class."""
    kept = max(1, int(np.floor(len(p) * alpha + 0.5)))
    dominant = p.mean(axis=0).argmax()
    p = p[sorted(range(len(p)), key=lambda j: (-p[j, dominant], j))[:kept]]
    R = np.zeros((kept, kept))
    for j in range(kept):
        for k in range(kept):
            if j == k:
                R[j, j] = lam1 * -(p[j] * np.log(p[j] + eps)).sum()
            else:
                R[j, k] = lam2 * ((p[j] - p[k]) * np.log((p[j] + eps) / (p[k] + eps))).sum()
    return R.sum()


ALTERNATIVES = {"aift": {"patches": [3], "alpha": [1.0], "lam1": [0.5], "lam2": [0.0], "eps": [1e-3], "omega": [2.0]}}
