"""Activations cached in a folder that processes and later runs share."""

from __future__ import annotations

import os
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from threading import Lock

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_STALE_SECONDS = 3600  # a temporary file of this age belongs to a process that was killed


class FolderCache:
    """Rows in a folder that processes and runs share; read through memory maps.

    Every :meth:`put` writes one file under a temporary name, flushes it to the disk and then renames it. A reader thus
    sees whole files or none, whoever else writes and whenever a process is killed. To free the space, delete the
    folder.

    Parameters
    ----------
    folder : path
        Made if it does not exist.

    Examples
    --------
    >>> import tempfile
    >>> cache = FolderCache(tempfile.mkdtemp())
    >>> cache.put(b"layer", [b"a" * 16, b"b" * 16], torch.tensor([[1.0], [2.0]]))
    >>> FolderCache(cache.folder).get(b"layer", [b"b" * 16, b"c" * 16])
    {0: tensor([2.])}
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[bytes, dict[bytes, tuple[str, int]]] = {}  # of each space: key to file and row
        self._read: dict[bytes, set[str]] = {}
        self._lock = Lock()
        for left in self.folder.glob("*/*.tmp"):
            with suppress(FileNotFoundError):  # its writer has just renamed it
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    left.unlink()

    def holds(self, space: bytes) -> bool:
        """Whether any row of this space is known."""
        return self._of(space).is_dir()

    def get(self, space: bytes, keys: list[bytes]) -> dict[int, torch.Tensor]:
        """Positions among `keys` that are known, with their rows."""
        with self._lock:
            places = self._places.setdefault(space, {})
            if not all(key in places for key in keys):
                self._look(space)
            in_file: dict[str, list[tuple[int, int]]] = {}
            for i, key in enumerate(keys):
                if key in places:
                    name, row = places[key]
                    in_file.setdefault(name, []).append((i, row))
        found = {}
        for name, wanted in in_file.items():
            try:
                with safe_open(self._of(space) / name, framework="pt") as file:
                    rows = file.get_tensor("rows")  # a memory map, copied below
            except (OSError, SafetensorError):  # deleted meanwhile: as if it had never been there
                with self._lock:
                    for i, _ in wanted:
                        places.pop(keys[i], None)
                continue
            copies = rows[[row for _, row in wanted]]
            found.update({i: copy for (i, _), copy in zip(wanted, copies, strict=True)})
        return found

    def put(self, space: bytes, keys: list[bytes], rows: torch.Tensor) -> None:
        """Keep rows that are not known yet; if the disk refuses, warn and go on without."""
        with self._lock:
            places = self._places.setdefault(space, {})
            new = list({key: i for i, key in enumerate(keys) if key not in places}.values())
        if not new:
            return
        names = torch.frombuffer(bytearray(b"".join(keys[i] for i in new)), dtype=torch.uint8).view(len(new), -1)
        name = f"{xxhash.xxh3_128(names.numpy().data).hexdigest()}.safetensors"
        folder = self._of(space)
        temporary = folder / f"{uuid.uuid4().hex}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"keys": names, "rows": rows[new].contiguous()}, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, folder / name)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            warnings.warn(f"activations are not stored in {str(self.folder)!r}: {error}", RuntimeWarning, stacklevel=2)
            return
        with self._lock:
            self._read.setdefault(space, set()).add(name)
            places.update({keys[i]: (name, row) for row, i in enumerate(new)})

    def _of(self, space: bytes) -> Path:
        return self.folder / xxhash.xxh3_128(space).hexdigest()

    def _look(self, space: bytes) -> None:
        """Take up what others have written since the last look."""
        read, places = self._read.setdefault(space, set()), self._places[space]
        try:
            names = {entry.name for entry in os.scandir(self._of(space)) if entry.name.endswith(".safetensors")}
        except FileNotFoundError:
            return
        for name in names - read:
            read.add(name)
            try:
                with safe_open(self._of(space) / name, framework="pt") as file:
                    keys = file.get_tensor("keys").numpy()
            except (OSError, SafetensorError):  # cut short by a crash of the machine itself
                continue
            places.update({key.tobytes(): (name, row) for row, key in enumerate(keys)})
