"""Activations cached in memory."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from skal.features.admission import Admission

_LEAST_BYTES = 2**30


class ActivationCache:
    """In-memory cache with a size limit.

    When it is full, rows of networks no longer in use are evicted, least recently used first. Of a pool larger than the
    limit, the part that fits is kept. One RuntimeWarning says how many bytes the whole pool would need.

    Rows that were stored together are evicted together: freeing them one by one would fragment the memory.

    Parameters
    ----------
    max_bytes : int or None, default=None
        Maximum size in bytes, over all networks and points. None is a quarter of the machine's memory, or of the memory
        limit of its container, and at least 1 GiB.
    warn : bool, default=True
        Whether to issue this warning.

    Examples
    --------
    >>> cache = ActivationCache()
    >>> cache.put(b"layer", [b"a", b"b"], torch.tensor([[1.0], [2.0]]))
    >>> cache.get(b"layer", [b"b", b"c"])
    {0: tensor([2.])}
    """

    def __init__(self, max_bytes: int | None = None, warn: bool = True):
        self.max_bytes = quarter_of_memory() if max_bytes is None else max_bytes
        self._warn = warn
        self._lock = Lock()
        self.clear()

    @property
    def n_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is cached."""
        return space in self._places

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """The cached rows, by their position in `keys`."""
        with self._lock:
            self._use(space)
            places = self._places.get(space, {})
            found = {i: places[key] for i, key in enumerate(keys) if key in places}
            for block in dict.fromkeys(block for block, _ in found.values()):
                self._blocks[block] = self._blocks.pop(block)
            return {i: self._blocks[block][2][row] for i, (block, row) in found.items()}

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Store rows that are not cached yet, as far as they fit."""
        with self._lock:
            self._use(space)
            self._begun.setdefault(space, self._clock)
            known = self._places.get(space, {})
            new = list({key: i for i, key in enumerate(keys) if key not in known}.values())
            if not new:
                return
            row_bytes = max(1, rows[0].nbytes)
            n_fit = self._make_room(space, len(new) * row_bytes) // row_bytes
            refused, new = new[n_fit:], new[:n_fit]
            if new:
                self._count += 1
                self._blocks[self._count] = (space, [keys[i] for i in new], rows[new])
                self._places.setdefault(space, {}).update({keys[i]: (self._count, row) for row, i in enumerate(new)})
                self._bytes += self._blocks[self._count][2].nbytes
            names = [keys[i] for i in refused] if self._warn else []
            lacking = self._admission.refuse(space, names, row_bytes)
            needed = self._bytes + lacking
        if lacking:
            warnings.warn(
                f"the cache in memory is limited to {_gib(self.max_bytes)}, but the images in use need {_gib(needed)}; "
                "activations that do not fit are recomputed at every pass. Set "
                f"skal.features.CACHE.max_bytes = {needed} (or that of your own cache), or pass a folder as cache",
                RuntimeWarning,
                stacklevel=2,
            )

    def clear(self) -> None:
        """Delete all rows."""
        with self._lock:
            self._blocks: dict[int, tuple[bytes, list[bytes], torch.Tensor]] = {}  # in order of last use
            self._places: dict[bytes, dict[bytes, tuple[int, int]]] = {}  # per space: key to block and row
            self._begun: dict[bytes, int] = {}  # per space: time of first use
            self._used: dict[bytes, int] = {}  # per space: time of last use
            self._admission = Admission()
            self._bytes = self._count = self._clock = 0

    def _use(self, space: bytes) -> None:
        self._clock += 1
        self._used[space] = self._clock

    def _make_room(self, space: bytes, n_bytes: int) -> int:
        """Evict rows to make room for `n_bytes` of a space. Returns how many bytes fit then."""
        while self._bytes > self.max_bytes:  # the bound was lowered
            self._drop(next(iter(self._blocks)))
        if self._bytes + n_bytes <= self.max_bytes:
            return n_bytes
        left = {other for other in self._places if self._used[other] < self._begun[space]}
        for block in [block for block, (other, _, _) in self._blocks.items() if other in left] if left else []:
            if self._bytes + n_bytes > self.max_bytes:
                self._drop(block)
        if self._bytes + n_bytes > self.max_bytes and self._admission.replaces():
            while self._blocks and self._bytes + n_bytes > self.max_bytes:
                self._drop(next(iter(self._blocks)))
        return min(n_bytes, self.max_bytes - self._bytes)

    def _drop(self, block: int) -> None:
        space, keys, rows = self._blocks.pop(block)
        self._bytes -= rows.nbytes
        for key in keys:
            del self._places[space][key]
        if not self._places[space]:
            del self._places[space]

    def __deepcopy__(self, memo: dict[int, Any]) -> ActivationCache:
        return self  # clones and copies of an estimator share its cache

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.max_bytes, self._warn)  # another process starts with an empty cache


def quarter_of_memory() -> int:
    """A quarter of the memory that the process may use, in bytes; at least 1 GiB."""
    return max(_LEAST_BYTES, memory_of_machine() // 4)


def memory_of_machine() -> int:
    """Physical memory in bytes, or the lower memory limit of the container or control group of the process."""
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # Windows
        return 0
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory/memory.limit_in_bytes"]
    try:
        group = Path("/proc/self/cgroup").read_text().split("::", 1)[1].splitlines()[0]
        own = root / group.lstrip("/")
        files += [folder / "memory.max" for folder in (own, *own.parents) if root in folder.parents]
    except (OSError, IndexError):
        pass
    for file in files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # no such file, or the limit is "max"
            continue
    return min(limits)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
