"""Size limit of a cache folder: which files are deleted when it is full."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from skal.features.admission import Admission

_LEAST_BYTES = 2**30


class _File(NamedTuple):
    used: float
    made: float
    n_bytes: int
    space: str
    name: str


class DiskBound:
    """Limits the size of a cache folder; several processes may use it at once.

    Processes share no state except the files, with their sizes, creation times and times of last use. A process may
    write an eighth of the free space before it lists the folder again, so that it is not listed for every file.

    Parameters
    ----------
    folder : Path
        Contains one folder per space.
    max_bytes : int or None
        None is a tenth of the disk, at least 1 GiB.
    """

    def __init__(self, folder: Path, max_bytes: int | None):
        self._folder, self._given = folder, max_bytes
        self._unseen = 0  # bytes that may be written before the folder is listed again
        self._admission = Admission()
        self._lock = Lock()

    @property
    def max_bytes(self) -> int:
        """The size limit. Raises an OSError if the folder does not exist."""
        return self._given or max(_LEAST_BYTES, shutil.disk_usage(self._folder).total // 10)

    def admit(self, space: Path, keys: Sequence[bytes], n_bytes: int) -> bool:
        """Whether a file of `n_bytes` with these rows may be written. Deletes other files to make room."""
        with self._lock:
            if n_bytes <= self._unseen:
                self._unseen -= n_bytes
                return True
            try:
                max_bytes = self.max_bytes
            except OSError:
                return True  # writing raises the error that says why the folder cannot be used
            files = self._files()
            held = sum(file.n_bytes for file in files)
            if held + n_bytes > max_bytes:
                held -= self._make_room(space.name, files, held + n_bytes - max_bytes)
            if held + n_bytes <= max_bytes:
                self._unseen = (max_bytes - held - n_bytes) // 8
                return True
            lacking = self._admission.refuse(bytes(space), keys, -(-n_bytes // len(keys)))
        if lacking:
            warnings.warn(
                f"the cache folder {str(self._folder)!r} is limited to {max_bytes} bytes, but the images in use need "
                f"{held + lacking}; activations that do not fit are recomputed at every pass. Raise the limit with "
                "cache=FolderCache(folder, max_bytes=...), or halve the size with dtype='float16'",
                RuntimeWarning,
                stacklevel=3,
            )
        return False

    def _files(self) -> list[_File]:
        """All activation files, least recently used first."""
        files = []
        with suppress(OSError):
            for space in [entry for entry in os.scandir(self._folder) if entry.is_dir()]:
                with suppress(OSError):
                    for entry in os.scandir(space.path):
                        if not entry.name.endswith(".safetensors"):
                            continue
                        with suppress(OSError):
                            info = entry.stat()
                            used = max(info.st_atime, info.st_mtime)
                            files.append(_File(used, info.st_mtime, info.st_size, space.name, entry.name))
        return sorted(files)

    def _make_room(self, space: str, files: list[_File], excess: int) -> int:
        """Delete files that may be evicted, if that frees enough. Returns the number of bytes freed."""
        begun = min((file.made for file in files if file.space == space), default=time.time())
        last_used = {file.space: file.used for file in files}  # files are in order of use, so the last value remains
        left = [file for file in files if last_used[file.space] < begun]
        if sum(file.n_bytes for file in left) < excess:
            if not self._admission.replaces():
                return 0
            left += [file for file in files if last_used[file.space] >= begun]
        freed = 0
        for file in left:
            if freed >= excess:
                break
            with suppress(OSError):
                os.unlink(self._folder / file.space / file.name)
                freed += file.n_bytes
        return freed
