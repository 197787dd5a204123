"""Gabor responses, histogram descriptors and symmetric KL divergence in plain float64 numpy, only from the papers.

Ge, Yu, "Borrowing treasures from the wealthy", CVPR 2017, section 3.2 and Eq. 1; Manjunath, Ma, IEEE TPAMI 18(8), 1996.
"""

from itertools import product

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

EPS = 2.220446049250313e-16


def plain_gabor(S=4, K=6, size=61, low=0.05, high=0.4):
    a = (high / low) ** (1 / (S - 1))
    su = (a - 1) * high / ((a + 1) * np.sqrt(2 * np.log(2)))
    L = 2 * np.log(2)
    sv = np.tan(np.pi / (2 * K)) * (high - L * su**2 / high) / np.sqrt(L - L**2 * su**2 / high**2)
    sx, sy = 1 / (2 * np.pi * su), 1 / (2 * np.pi * sv)
    bank = np.zeros((S * K, size, size), complex)
    c = size // 2
    for m, n in product(range(S), range(K)):
        t = n * np.pi / K
        y, x = np.mgrid[-c : size - c, -c : size - c].astype(float)
        xr = a**-m * (x * np.cos(t) + y * np.sin(t))
        yr = a**-m * (-x * np.sin(t) + y * np.cos(t))
        g = np.exp(-(xr**2 / sx**2 + yr**2 / sy**2) / 2 + 2j * np.pi * high * xr) / (2 * np.pi * sx * sy)
        bank[m * K + n] = a**-m * g
    return bank - bank.mean((1, 2), keepdims=True)


def gabor_responses(grey):
    """(n, 48, H * W) correlations of grey images (n, H, W), border replicated."""
    bank = plain_gabor()
    kernels = np.concatenate([bank.real, bank.imag]).reshape(48, -1)
    out = []
    for image in grey.astype(float):
        windows = sliding_window_view(np.pad(image, 30, mode="edge"), (61, 61))
        out.append(kernels @ windows.reshape(-1, 61 * 61).T)
    return np.array(out)


def plain_edges(values, n_bins):
    """Edges of one filter, from its responses to all fitted images."""
    low, high = values.min(), values.max()
    if low == high:
        return np.linspace(low, low + 1, n_bins + 1)
    counts, fine = np.histogram(values, bins=2000, range=(low, high))
    mass = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    edges = np.interp(np.arange(n_bins + 1) / n_bins, mass, fine)
    edges[0], edges[-1] = low, high
    return edges


def plain_descriptor(responses, edges):
    """(n, F * B) histograms of responses (n, F, P) with edges (F, B + 1)."""
    n, F, _ = responses.shape
    B = edges.shape[1] - 1
    out = np.zeros((n, F, B))
    for i, f in product(range(n), range(F)):
        for v in responses[i, f]:
            out[i, f, (edges[f, 1:-1] <= v).sum()] += 1
    return (out / out.sum(2, keepdims=True)).reshape(n, F * B)


def plain_distances(P, Q, weights=None, eps=EPS):
    P, Q = np.asarray(P, float), np.asarray(Q, float)
    w = np.ones(P.shape[1]) if weights is None else np.asarray(weights, float)
    D = np.zeros((len(P), len(Q)))
    for i, j in product(range(len(P)), range(len(Q))):
        D[i, j] = (w * (P[i] - Q[j]) * (np.log(P[i] + eps) - np.log(Q[j] + eps))).sum()
    return D


def plain_conv(x, layer, padding):
    weight, bias = (p.detach().numpy().astype(float) for p in (layer.weight, layer.bias))
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return np.einsum("nchwij,ocij->nohw", sliding_window_view(x, (3, 3), (2, 3)), weight) + bias[:, None, None]


def plain_maps(net, x, activation):
    raw1 = plain_conv(x.astype(float), net[0], 0)
    bn = net[1]
    mean, var, gain, shift = (
        v.detach().numpy().astype(float)[:, None, None] for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    one = np.maximum((raw1 - mean) / np.sqrt(var + bn.eps) * gain + shift, 0)
    raw2 = plain_conv(one, net[3], 1)
    maps = (one, np.maximum(raw2, 0)) if activation else (raw1, raw2)
    return [m.reshape(len(x), m.shape[1], -1) for m in maps]
