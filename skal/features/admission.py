"""Which rows a full cache gives up, and which it does not take.

A pool that is larger than the cache is gone through in the same order again and again. Were the least recently used
rows dropped for each new one, they would be dropped just before their turn, and nothing would ever be found. So rows of
networks in use stay: what does not fit is computed at each pass, and what fits is not. Rows of a network that was last
used before the new one appeared make room at once, least recently used first. Every eighth refusal replaces the least
recently used rows after all, so that another pool of the same network takes over within a few passes.
"""

from __future__ import annotations

from collections.abc import Sequence

_TURN = 8


class Admission:
    """Refusals of one cache: whose turn it is to be taken after all, and whether the bound costs computations."""

    def __init__(self) -> None:
        self._refusals = 0
        self._refused: dict[tuple[bytes, bytes], int] = {}  # rows and their bytes, until a warning was given
        self._warned = False

    def replaces(self) -> bool:
        """Whether rows that do not fit replace rows in use this time; counts the refusals."""
        self._refusals += 1
        return self._refusals % _TURN == 0

    def refuse(self, space: bytes, keys: Sequence[bytes], row_bytes: int) -> int:
        """Note rows that were not taken.

        Returns
        -------
        lacking : int
            Bytes of all rows refused so far, if one of these had been refused before, the first time that happens;
            else 0.
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
