"""Admission policy of a full cache: which rows are evicted, and which are refused.

A pool larger than the cache is read in the same order at every pass. If the least recently used rows were evicted for
each new row, they would be evicted just before they are needed, and nothing would ever be found. Rows of networks in
use are therefore kept. Rows that do not fit are computed at every pass, and rows that fit are not. Rows of a network
that was last used before the new one appeared are evicted at once, least recently used first. Every eighth refusal
evicts the least recently used rows anyway, so that another pool of the same network takes over within a few passes.
"""

from __future__ import annotations

from collections.abc import Sequence

_TURN = 8


class Admission:
    """Refusals of one cache: when a refusal becomes an admission, and whether the bound causes recomputation."""

    def __init__(self) -> None:
        self._refusals = 0
        self._refused: dict[tuple[bytes, bytes], int] = {}  # refused rows and their bytes, until a warning was issued
        self._warned = False

    def replaces(self) -> bool:
        """Whether rows that do not fit replace rows in use this time. Counts the refusals."""
        self._refusals += 1
        return self._refusals % _TURN == 0

    def refuse(self, space: bytes, keys: Sequence[bytes], row_bytes: int) -> int:
        """Record refused rows.

        Returns
        -------
        lacking : int
            Bytes of all rows refused so far, the first time that a row is refused again; else 0.
        """
        if self._warned:
            return 0
        again = any((space, key) in self._refused for key in keys)
        self._refused.update(((space, key), row_bytes) for key in keys)
        if not again:
            return 0
        lacking = sum(self._refused.values())
        self._warned = True
        self._refused.clear()
        return lacking
