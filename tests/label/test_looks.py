"""Near-duplicates compared with an all-pairs search."""

import numpy as np

from skal.label.folder import NEAR_BITS, NEAR_LEVELS, Fingerprint
from skal.label.looks import Looks


def fingerprints(n, seed=0):
    """Images of which every third is similar to an earlier one, with differences near the allowed bits and levels."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2, size=(n, 256), dtype=np.uint8)
    greys = rng.integers(0, 250, size=(n, 64))
    for i in range(3, n, 3):
        like = rng.integers(0, i)
        hashes[i] = hashes[like]
        hashes[i, rng.choice(256, size=rng.integers(NEAR_BITS - 3, NEAR_BITS + 4), replace=False)] ^= 1
        greys[i] = greys[like] + rng.integers(1, 6)
    return hashes, greys.astype(np.uint8)


def test_what_looks_the_same_is_found():
    hashes, greys = fingerprints(700)
    looks, n_found = Looks(), 0
    for i, (bits, grey) in enumerate(zip(hashes, greys, strict=True)):
        found = looks.add(Fingerprint(str(i), np.packbits(bits).tobytes(), grey.tobytes()))
        n_bits = (hashes[:i] != bits).sum(axis=1)
        levels = np.abs(greys[:i].astype(int) - grey.astype(int)).mean(axis=1)
        assert found == np.flatnonzero((n_bits <= NEAR_BITS) & (levels <= NEAR_LEVELS)).tolist()
        n_found += len(found)
    assert 20 < n_found < 300
