"""The audit's rules, written plainly: what each quantity is, not how it is computed."""

import hashlib

from scipy.optimize import brentq
from scipy.stats import binom, norm


def wilson_interval(n_right, n, confidence=0.95):
    """Shares p that the score test does not reject: |n_right/n - p| <= z sqrt(p (1 - p) / n), between its roots."""
    z = norm.ppf((1 + confidence) / 2)

    def excess(p):
        return (n_right / n - p) ** 2 - z**2 * p * (1 - p) / n

    share = n_right / n
    low = 0.0 if share == 0 else brentq(excess, 1e-9, min(share, 1 - 1e-9), xtol=1e-14)
    high = 1.0 if share == 1 else brentq(excess, max(share, 1e-9), 1 - 1e-9, xtol=1e-14)
    return low, high


def lower_bound(n_right, n, alpha):
    """The share p at which n_right or more of n have the probability alpha."""
    if n_right == 0:
        return 0.0
    return brentq(lambda p: binom.sf(n_right - 1, n, p) - alpha, 1e-12, 1 - 1e-12, xtol=1e-13)


def looks(target, n_reserved, alpha=0.05):
    """The largest set of the last looks of which a perfect audit would pass every one."""
    sizes = sorted({n for n in (50, 100, 200, 400) if n < n_reserved} | {n_reserved})
    for first in range(len(sizes)):
        kept = sizes[first:]
        if all(lower_bound(n, n, alpha / len(kept)) >= target for n in kept):
            return tuple(kept)
    return ()


def kappa(first, second):
    """Cohen's: (observed - expected) / (1 - expected), by counting pairs."""
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    expected = sum(a == b for a in first for b in second) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def position(name, key):
    """BLAKE2b with a key, as a number of eight bytes."""
    digest = hashlib.blake2b(key=key, digest_size=8)
    digest.update(name)
    return int(digest.hexdigest(), 16)


def is_complete(reserved, answered):
    """The answered ones are the first of the reserved ones in order."""
    in_order = sorted(reserved)
    return in_order[: len(set(answered))] == sorted(set(answered))
