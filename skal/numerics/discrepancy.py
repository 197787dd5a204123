"""Maximum mean discrepancy of two samples with one or several Gaussian kernels, for training and for queries.

A bandwidth is sigma in exp(-||x - y||^2 / (2 sigma^2)). For arrays the results are numbers, for tensors they are
tensors with gradients.

References
----------
.. [1] Gretton, Borgwardt, Rasch, Schölkopf, Smola. "A kernel two-sample test", JMLR 2012.
.. [2] Gretton et al. "Optimal kernel choice for large-scale two-sample tests", NIPS 2012.
.. [3] Long, Cao, Wang, Jordan. "Learning transferable features with deep adaptation networks", ICML 2015.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from skal._validation import check_count
from skal.numerics.greedy import squared_distances, squared_norms
from skal.numerics.points import tensor_of

ESTIMATORS = ("biased", "unbiased", "linear")
_ROWS = 1024  # rows in a block of pairs
_MEDIAN_ROWS = 4000  # maximum number of rows whose pairs determine the median


def median_bandwidths(X: Any, Y: Any, n: int = 5) -> np.ndarray:
    """A family of bandwidths around the median distance in the joint sample.

    Parameters
    ----------
    X : array-like or Tensor of shape (n_X, D)
    Y : array-like or Tensor of shape (n_Y, D)
        If X and Y together have more than 4,000 rows, that many equally spaced rows are used.
    n : int, default=5

    Returns
    -------
    bandwidths : ndarray of shape (n,)
        Ascending, with 2 sigma_u^2 = 2^u median. Here median is that of the squared distances of all pairs, and
        u = ..., -1, 0, 1, ... is symmetric around 0.

    Raises
    ------
    ValueError
        If n is not positive, or most rows coincide.

    Examples
    --------
    >>> median_bandwidths([[0.0], [2.0]], [[4.0]], 3).round(3)
    array([1.   , 1.414, 2.   ])
    """
    check_count("n", n)
    X, Y = _checked(X, Y)
    n_rows = len(X) + len(Y)
    looked_at = torch.linspace(0, n_rows - 1, min(n_rows, _MEDIAN_ROWS)).long()
    of_X = looked_at < len(X)
    joint = torch.cat([X[looked_at[of_X]], Y[looked_at[~of_X] - len(X)]]).detach()
    joint = joint - joint.mean(0)
    above = torch.ones(len(joint), len(joint), dtype=torch.bool, device=joint.device).triu(1)
    squared = squared_distances(joint, joint)[above].cpu().numpy()
    median = float(np.median(squared)) if len(squared) else 0.0
    if not median > 1e-12 * float((joint * joint).sum(1).max()):
        raise ValueError(
            "the median distance of all pairs is 0 because most rows coincide, so the bandwidths are undefined"
        )
    return np.sqrt(median * 2.0 ** (np.arange(n) - (n - 1) / 2) / 2)


def mmd2(
    X: Any, Y: Any, *, bandwidths: ArrayLike, weights: ArrayLike | None = None, estimator: str = "unbiased"
) -> Any:
    """Squared maximum mean discrepancy of two samples.

    Parameters
    ----------
    X : array-like or Tensor of shape (n_X, D)
    Y : array-like or Tensor of shape (n_Y, D)
    bandwidths : array-like of shape (n_kernels,)
    weights : array-like of shape (n_kernels,), default=None
        Weights of the kernels in their sum (beta). None is 1 / n_kernels for each.
    estimator : {"unbiased", "biased", "linear"}, default="unbiased"
        "biased" is the squared distance of the two means, at least 0. "unbiased" omits the pairs of a row with itself.
        "linear" uses only disjoint quadruples, at linear cost. The last two may be negative, which is correct.

    Returns
    -------
    mmd2 : float, or Tensor of shape () where X or Y is one
        Exact, computed in blocks of rows.

    Raises
    ------
    ValueError
        If the estimator is unknown, the numbers of columns differ, there are too few rows, a bandwidth is not positive
        or a weight is negative.

    References
    ----------
    .. [1] Gretton, Borgwardt, Rasch, Schölkopf, Smola. "A kernel two-sample test", JMLR 2012, Eq. 3 (unbiased), 5
       (biased) and Lemma 14 (linear).
    .. [2] Long, Cao, Wang, Jordan. "Learning transferable features with deep adaptation networks", ICML 2015, Eq. 3.

    Examples
    --------
    >>> round(mmd2([[0.0], [1.0]], [[0.0], [2.0]], bandwidths=[1.0], estimator="biased"), 4)
    0.1967
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r} is not one of {ESTIMATORS}")
    is_tensor = isinstance(X, torch.Tensor) or isinstance(Y, torch.Tensor)
    X, Y = _centred(*_checked(X, Y))
    sigmas, beta = check_kernels(bandwidths, weights)
    least = 1 if estimator == "biased" else 2
    for name, sample in (("X", X), ("Y", Y)):
        if len(sample) < least:
            raise ValueError(f"{name} has {len(sample)} rows, but the {estimator} estimator needs at least {least}")
    if estimator == "linear":
        value = (quadruple_terms(X, Y, sigmas) * torch.as_tensor(beta).to(X)).sum(1).mean()
    else:
        n, m = len(X), len(Y)
        within = [kernel_sum(sample, sample, sigmas, beta) for sample in (X, Y)]
        if estimator == "biased":
            parts = within[0] / n**2 + within[1] / m**2
        else:
            own = float(beta.sum())  # k(x, x)
            parts = (within[0] - n * own) / (n * (n - 1)) + (within[1] - m * own) / (m * (m - 1))
        value = parts - 2 * kernel_sum(X, Y, sigmas, beta) / (n * m)
        if estimator == "biased":
            value = value.clamp(min=0)
    return value if is_tensor else float(value)


def kernel_weights(X: Any, Y: Any, *, bandwidths: ArrayLike, eps: float = 1e-3) -> np.ndarray:
    """Kernel weights that maximise the power of the test for a difference between two samples (MK-MMD).

    Let d_u be the linear-time estimate of kernel u, and Q the covariance of its terms over the quadruples. Then beta
    minimises beta' (Q + eps I) beta subject to d' beta = 1 and beta >= 0, and is divided by its sum.

    Parameters
    ----------
    X, Y : array-like or Tensor of shape (n, D)
    bandwidths : array-like of shape (n_kernels,)
    eps : float, default=1e-3

    Returns
    -------
    weights : ndarray of shape (n_kernels,)
        Non-negative, with sum 1; all equal if no kernel distinguishes the samples.

    Raises
    ------
    ValueError
        If the numbers of columns differ, a bandwidth is not positive, or there are fewer than 4 rows (two quadruples).

    References
    ----------
    .. [1] Gretton et al. "Optimal kernel choice for large-scale two-sample tests", NIPS 2012, Eq. 11.
    .. [2] Long, Cao, Wang, Jordan. "Learning transferable features with deep adaptation networks", ICML 2015, Eq. 8.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + [1, 0]
    >>> kernel_weights(X, Y, bandwidths=[0.1, 1.0, 10.0]).round(2)
    array([0.13, 0.12, 0.74])
    """
    X, Y = (sample.detach().double() for sample in _centred(*_checked(X, Y)))
    sigmas, _ = check_kernels(bandwidths, None)
    if min(len(X), len(Y)) < 4:
        raise ValueError(f"X and Y have {len(X)} and {len(Y)} rows, but at least 4 of each are required")
    terms = quadruple_terms(X, Y, sigmas).cpu().numpy()
    d, covariance = terms.mean(axis=0), np.atleast_2d(np.cov(terms, rowvar=False))
    if not (d > 0).any():
        return np.full(len(sigmas), 1 / len(sigmas))
    # Up to scale, this is the solution of min beta' A beta / 2 - d' beta over beta >= 0, a least-squares problem.
    lower = np.linalg.cholesky(covariance + eps * np.eye(len(sigmas)))
    beta, _ = nnls(lower.T, np.linalg.solve(lower, d))
    return beta / beta.sum()


def quadruple_terms(X: torch.Tensor, Y: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    """Terms (n_quadruples, n_kernels) of the linear-time estimator, from rows 2i and 2i + 1 of both samples."""
    m = min(len(X), len(Y)) // 2 * 2
    x, x_next, y, y_next = X[0:m:2], X[1:m:2], Y[0:m:2], Y[1:m:2]
    scales = torch.as_tensor(-0.5 / sigmas**2).to(X)

    def kernels(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (((a - b) ** 2).sum(1, keepdim=True) * scales).exp()

    return kernels(x, x_next) + kernels(y, y_next) - kernels(x, y_next) - kernels(x_next, y)


def gaussian(squared: torch.Tensor, sigmas: np.ndarray, beta: np.ndarray) -> torch.Tensor:
    """Weighted sum of the kernels at squared distances."""
    total = torch.zeros_like(squared)
    for sigma, weight in zip(sigmas, beta, strict=True):
        if weight:
            total = total + float(weight) * (squared * (-0.5 / float(sigma) ** 2)).exp()
    return total


def kernel_sum(X: torch.Tensor, Y: torch.Tensor, sigmas: np.ndarray, beta: np.ndarray) -> torch.Tensor:
    """Sum of the kernel over all pairs of rows, in double precision; within one sample each pair is computed once."""
    total = torch.zeros((), dtype=torch.float64, device=X.device)
    same = X is Y
    for i in range(0, len(X), _ROWS):
        for j in range(i if same else 0, len(Y), _ROWS):
            sums = gaussian(squared_distances(X[i : i + _ROWS], Y[j : j + _ROWS]), sigmas, beta).double().sum()
            total = total + (2 * sums if same and j > i else sums)
    return total


def row_sums(X: torch.Tensor, Y: torch.Tensor, sigmas: np.ndarray, beta: np.ndarray) -> torch.Tensor:
    """Sum of the kernel over the rows of `Y` for each row of `X`, (n_X,) in double precision."""
    total = torch.zeros(len(X), dtype=torch.float64, device=X.device)
    same = X is Y
    X_norms, Y_norms = squared_norms(X), squared_norms(Y)
    for i in range(0, len(X), _ROWS):
        own = slice(i, i + _ROWS)
        for j in range(i if same else 0, len(Y), _ROWS):
            other = slice(j, j + _ROWS)
            values = gaussian(squared_distances(X[own], Y[other], X_norms[own], Y_norms[other]), sigmas, beta)
            total[own] += values.sum(1)
            if same and j > i:
                total[other] += values.sum(0)
    return total


def fourier_features(X: torch.Tensor, sigmas: np.ndarray, beta: np.ndarray, frequencies: torch.Tensor) -> torch.Tensor:
    """Random features (n, 2 n_kernels F) whose inner products equal the kernel in expectation.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    sigmas, beta : ndarray of shape (n_kernels,)
    frequencies : Tensor of shape (D, F)
        Standard normal; divided by each bandwidth.

    References
    ----------
    .. [1] Rahimi, Recht. "Random features for large-scale kernel machines", NIPS 2007, section 3.
    """
    projected = X @ frequencies
    parts = [
        float(np.sqrt(weight / frequencies.shape[1])) * part
        for sigma, weight in zip(sigmas, beta, strict=True)
        for angle in (projected / float(sigma),)
        for part in (angle.cos(), angle.sin())
    ]
    return torch.cat(parts, dim=1)


def _checked(X: Any, Y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples as floating-point tensors of one dtype."""
    tensors = []
    for name, sample in (("X", X), ("Y", Y)):
        tensor = sample if isinstance(sample, torch.Tensor) else tensor_of(np.ascontiguousarray(sample))
        if tensor.ndim != 2 or len(tensor) == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but must have shape (n, D) with n of at least 1")
        tensors.append(tensor if tensor.is_floating_point() else tensor.double())
    if tensors[0].shape[1] != tensors[1].shape[1]:
        raise ValueError(f"X has {tensors[0].shape[1]} columns, but Y has {tensors[1].shape[1]}")
    dtype = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
    return tensors[0].to(dtype), tensors[1].to(dtype)


def _centred(X: torch.Tensor, Y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both samples shifted to the origin, where distances lose no digits."""
    mean = X.detach().mean(0)
    return X - mean, Y - mean


def check_kernels(bandwidths: ArrayLike, weights: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Bandwidths and weights as arrays. Raises a ValueError that names invalid ones."""
    sigmas = np.asarray(bandwidths, dtype=np.float64)
    if sigmas.ndim != 1 or len(sigmas) == 0 or not (sigmas > 0).all() or not np.isfinite(sigmas).all():
        raise ValueError(f"bandwidths={bandwidths!r} must be positive numbers")
    if weights is None:
        return sigmas, np.full(len(sigmas), 1 / len(sigmas))
    beta = np.asarray(weights, dtype=np.float64)
    if beta.shape != sigmas.shape or not (beta >= 0).all() or not np.isfinite(beta).all():
        raise ValueError(f"weights={weights!r} must be {len(sigmas)} numbers of at least 0, one per bandwidth")
    return sigmas, beta
