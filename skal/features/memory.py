"""Activations cached in memory."""

from __future__ import annotations

from threading import Lock

import torch


class ActivationCache:
    """Rows in memory, within a bound of bytes; the least recently used go first.

    Rows that were put together stay and go together: freed one by one they would leave the memory in pieces.

    Parameters
    ----------
    max_bytes : int, default=2**30
        Most bytes held, over all networks and points.

    Examples
    --------
    >>> cache = ActivationCache()
    >>> cache.put(b"layer", [b"a", b"b"], torch.tensor([[1.0], [2.0]]))
    >>> cache.get(b"layer", [b"b", b"c"])
    {0: tensor([2.])}
    """

    def __init__(self, max_bytes: int = 2**30):
        self.max_bytes = max_bytes
        self._blocks: dict[int, tuple[bytes, list[bytes], torch.Tensor]] = {}  # in order of last use
        self._places: dict[bytes, dict[bytes, tuple[int, int]]] = {}  # of each space: key to block and row
        self._bytes = 0
        self._count = 0
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is known."""
        return space in self._places

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """Positions among `keys` that are known, with their rows."""
        with self._lock:
            places = self._places.get(space, {})
            found = {i: places[key] for i, key in enumerate(keys) if key in places}
            for block in dict.fromkeys(block for block, _ in found.values()):
                self._blocks[block] = self._blocks.pop(block)
            return {i: self._blocks[block][2][row] for i, (block, row) in found.items()}

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Keep rows, and drop the least recently used ones beyond the bound."""
        with self._lock:
            known = self._places.get(space, {})
            new = list({key: i for i, key in enumerate(keys) if key not in known}.values())
            new = new[: self.max_bytes // rows[0].nbytes]
            if not new:
                return
            self._count += 1
            self._blocks[self._count] = (space, [keys[i] for i in new], rows[new])
            self._places.setdefault(space, {}).update({keys[i]: (self._count, row) for row, i in enumerate(new)})
            self._bytes += self._blocks[self._count][2].nbytes
            while self._bytes > self.max_bytes:
                self._drop(next(iter(self._blocks)))

    def _drop(self, block: int) -> None:
        space, keys, rows = self._blocks.pop(block)
        self._bytes -= rows.nbytes
        for key in keys:
            del self._places[space][key]
        if not self._places[space]:
            del self._places[space]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self._places.clear()
            self._bytes = 0
