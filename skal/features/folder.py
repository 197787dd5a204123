"""Activations cached in a folder, shared by processes and later runs."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import xxhash

from skal._files import map_tensor, map_tensors, remove_stale, write_tensors
from skal._validation import check_count, check_options
from skal.features.disk_bound import DiskBound

_KIND = "activations"
_TOUCH_SECONDS = 60  # minimum interval between updates of a file's time of last use


class FolderCache:
    """Cache in a folder that processes and runs share; files are memory-mapped.

    Every :meth:`put` writes one file under a temporary name, flushes it to disk and then renames it. A reader therefore
    sees only complete files, even if other processes write or a process is killed. Each file has a checksum, which is
    verified when a process first reads it. A damaged file causes a RuntimeWarning that names it, and its rows are
    computed again. If the disk is full or the folder is not writable, one RuntimeWarning is issued and nothing is
    stored.

    Parameters
    ----------
    folder : path
        Created if it does not exist; ``~`` is expanded.
    max_bytes : int or None, default=None
        Maximum size in bytes. When it is exceeded, the least recently used files of networks no longer in use are
        deleted. Of a pool larger than this, the part that fits is kept, as in :class:`ActivationCache`. None is a tenth
        of the disk, at least 1 GiB.
    dtype : {"float32", "float16"}, default="float32"
        float16 halves the size; activations are then rounded to 11 bits. Rows of both precisions can share a folder and
        are stored separately.

    Raises
    ------
    ValueError
        If `max_bytes` or `dtype` is not allowed, or the path is empty.

    Examples
    --------
    >>> import tempfile
    >>> cache = FolderCache(tempfile.mkdtemp())
    >>> cache.put(b"layer", [b"a" * 16, b"b" * 16], torch.tensor([[1.0], [2.0]]))
    >>> FolderCache(cache.folder).get(b"layer", [b"b" * 16, b"c" * 16])
    {0: tensor([2.])}
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int | None = None, dtype: str = "float32"):
        check_options(dtype=(dtype, ("float32", "float16")))
        if max_bytes is not None:
            check_count("max_bytes", max_bytes)
        if not os.fspath(folder):
            raise ValueError(
                "cache='' is not a folder; pass the path of one, True for a cache in memory or False for none"
            )
        self.folder = Path(os.path.abspath(Path(folder).expanduser()))
        self.max_bytes = max_bytes
        self.dtype = dtype
        self._places: dict[bytes, dict[bytes, tuple[str, int]]] = {}  # per space: key to file and row
        self._read: dict[bytes, set[str]] = {}  # per space: files whose keys are in its places
        # For files with a verified checksum: time and size, and the dtype of their rows.
        self._verified: dict[str, tuple[tuple[int, int], torch.dtype]] = {}
        self._lock = Lock()
        self._refused = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            spaces = [entry.path for entry in os.scandir(self.folder) if entry.is_dir()]
        except OSError as error:
            self._warn_refused(error)
            spaces = []
        for space in spaces:
            remove_stale(space)
        self._bound = DiskBound(self.folder, max_bytes)

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is cached."""
        return os.path.isdir(self._of(space))

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """The cached rows, by their position in `keys`."""
        with self._lock:
            places = self._places.setdefault(space, {})
            if not all(key in places for key in keys):
                self._look(space)
            in_file: dict[str, list[tuple[int, int]]] = {}
            for i, key in enumerate(keys):
                if key in places:
                    name, row = places[key]
                    in_file.setdefault(name, []).append((i, row))
        found, folder = {}, self._of(space)
        for name, wanted in in_file.items():
            rows = self._rows(folder, name, [row for _, row in wanted])
            if rows is None:
                with self._lock:
                    self._read[space].discard(name)
                    for i, _ in wanted:
                        places.pop(keys[i], None)
                continue
            found.update({i: row for (i, _), row in zip(wanted, rows, strict=True)})
        return found

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Store rows that are not cached yet, as far as the size limit and the disk allow."""
        with self._lock:
            places = self._places.setdefault(space, {})
            new = list({key: i for i, key in enumerate(keys) if key not in places}.values())
        if not new:
            return
        stored = self._stored(rows[new])
        folder, new_keys = Path(self._of(space)), [keys[i] for i in new]
        if not self._bound.admit(folder, new_keys, stored.nbytes):
            return
        names = torch.frombuffer(bytearray(b"".join(new_keys)), dtype=torch.uint8).view(len(new), -1)
        name = _name(names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            described = {"space": folder.name, "dtype": str(rows.dtype).removeprefix("torch.")}
            write_tensors(folder / name, _KIND, {"keys": names, "rows": stored}, described)
        except OSError as error:
            self._warn_refused(error)
            return
        with self._lock:
            self._read.setdefault(space, set()).add(name)
            places.update({key: (name, row) for row, key in enumerate(new_keys)})

    def _of(self, space: bytes) -> str:
        """Folder of a space."""
        name = xxhash.xxh3_128(b"skal 2 " + self.dtype.encode() + space).hexdigest()
        return os.path.join(self.folder, name)

    def _stored(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows in the precision of this cache; unchanged if float16 would overflow."""
        if self.dtype == "float16" and rows.is_floating_point():
            half = rows.half()
            if torch.isfinite(half).all() or not torch.isfinite(rows).all():
                return half
        return rows.contiguous()

    def _look(self, space: bytes) -> None:
        """Read the keys of files that other processes have written since the last call."""
        read, places, folder = self._read.setdefault(space, set()), self._places[space], self._of(space)
        try:
            names = {entry.name for entry in os.scandir(folder) if entry.name.endswith(".safetensors")}
        except OSError:
            return
        for name in names - read:
            path = os.path.join(folder, name)
            try:
                keys = map_tensor(path, _KIND, "keys")
                if _name(keys) != name:
                    raise ValueError(f"{path!r} is damaged: its name does not match its keys")
            except OSError:  # deleted in the meantime, or not readable
                continue
            except ValueError as error:
                self._discard(path, error)
                continue
            read.add(name)
            places.update({key.tobytes(): (name, row) for row, key in enumerate(keys.numpy())})

    def _rows(self, folder: str, name: str, wanted: list[int]) -> torch.Tensor | None:
        """Copies of rows of a file; None if missing or damaged. The checksum is verified once per file version."""
        path = os.path.join(folder, name)
        try:
            info = os.stat(path)
            version = (info.st_mtime_ns, info.st_size)
            known, dtype = self._verified.get(path, (None, torch.float32))
            if version == known:
                rows = map_tensor(path, _KIND, "rows")
            else:
                tensors, described = map_tensors(path, _KIND)
                if described["space"] != os.path.basename(folder):
                    raise ValueError(f"{path!r} is damaged: it belongs to another network")
                rows, dtype = tensors["rows"], getattr(torch, described["dtype"])
                self._verified[path] = version, dtype
        except OSError:  # deleted in the meantime, or not readable: treated as missing
            return None
        except ValueError as error:
            self._discard(path, error)
            return None
        if time.time() - info.st_atime > _TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path, ns=(time.time_ns(), info.st_mtime_ns))
        return rows[wanted].to(dtype)

    def _discard(self, path: str, error: Exception) -> None:
        self._verified.pop(path, None)
        with suppress(OSError):
            os.unlink(path)
        warnings.warn(f"{error}; its rows will be recomputed", RuntimeWarning, stacklevel=4)

    def _warn_refused(self, error: OSError) -> None:
        """Warn once that nothing can be stored in the folder."""
        if not self._refused:
            self._refused = True
            message = f"cannot store activations in {str(self.folder)!r}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)

    def __deepcopy__(self, memo: dict[int, Any]) -> FolderCache:
        return self  # clones and copies of an estimator share its cache

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.max_bytes, self.dtype)


def _name(keys: torch.Tensor) -> str:
    """Name of the file that holds the rows of these keys (n, length)."""
    return f"{xxhash.xxh3_128(keys.numpy().data).hexdigest()}.safetensors"
