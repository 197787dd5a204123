"""Appearance of the images of a catalogue: near-duplicates of a new image are found without opening a file."""

from __future__ import annotations

import numpy as np

from skal.label.folder import NEAR_BITS, NEAR_LEVELS, Fingerprint

#: Number of 64-bit words in a hash.
_WORDS = 4


class Looks:
    """Hashes and small grey versions of images, in the order they were added.

    Examples
    --------
    >>> looks = Looks()
    >>> dark = Fingerprint("a", bytes(32), bytes(64))
    >>> bright = Fingerprint("b", bytes(32), bytes([200] * 64))
    >>> looks.add(dark), looks.add(bright), looks.add(dark)
    ([], [], [0])
    """

    def __init__(self) -> None:
        self._n = 0
        self._words = [np.zeros(256, dtype=np.uint64) for _ in range(_WORDS)]
        self._greys = np.zeros((256, 64), dtype=np.uint8)

    def add(self, fingerprint: Fingerprint) -> list[int]:
        """Store an image and return the positions of earlier ones that look the same."""
        close = self._close(np.frombuffer(fingerprint.hash, dtype=np.uint64))
        grey = np.frombuffer(fingerprint.grey, dtype=np.uint8)
        distance = np.abs(self._greys[close].astype(np.int16) - grey).mean(axis=1)
        self.put(fingerprint)
        return [int(i) for i in close[distance <= NEAR_LEVELS]]

    def put(self, fingerprint: Fingerprint) -> None:
        """Store an image without searching."""
        if self._n == len(self._greys):
            self._words = [np.concatenate([word, np.zeros_like(word)]) for word in self._words]
            self._greys = np.concatenate([self._greys, np.zeros_like(self._greys)])
        for word, own in zip(self._words, np.frombuffer(fingerprint.hash, dtype=np.uint64), strict=True):
            word[self._n] = own
        self._greys[self._n] = np.frombuffer(fingerprint.grey, dtype=np.uint8)
        self._n += 1

    def _close(self, words: np.ndarray) -> np.ndarray:
        """Positions whose hashes differ in few bits. One word rules out nearly all, so few are compared in full."""
        bits = np.bitwise_count(self._words[0][: self._n] ^ words[0])
        close = np.flatnonzero(bits <= NEAR_BITS)
        bits = bits[close].astype(np.int64)
        for word, own in zip(self._words[1:], words[1:], strict=True):
            bits += np.bitwise_count(word[close] ^ own)
        return close[bits <= NEAR_BITS]
