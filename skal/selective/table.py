"""A matrix in a folder, filled block by block by one or several processes, with checksums."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import xxhash

from skal._files import append_line, remove_stale, replace_file


class NotStoredError(Exception):
    """The folder of a table cannot be used; its message names the folder and the reason."""


class BlockTable:
    """A float32 matrix as a .npy file, with a log of the checksums of its finished blocks.

    A block counts as finished if a line of the log contains its checksum. A killed process leaves at most one block
    unfinished. Processes that fill the same table at once write equal rows. Blocks that are damaged later are filled
    again.

    Parameters
    ----------
    folder : Path
        Folder for this table only; created if it does not exist. Its name is part of the checksums.
    shape : (n, n_columns)
    block : int
        Rows per block.

    Examples
    --------
    >>> import tempfile
    >>> table = BlockTable(Path(tempfile.mkdtemp()), (3, 2), 2)
    >>> table.missing()
    [0, 2]
    >>> table.write(0, np.ones((2, 2), np.float32))
    >>> table.missing()
    [2]
    """

    def __init__(self, folder: Path, shape: tuple[int, int], block: int):
        self._folder, self._shape, self._block = folder, shape, block
        self._data, self._log = folder / "descriptors.npy", folder / "blocks.txt"
        header = io.BytesIO()
        layout = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, layout)
        self._header = header.getvalue()

    def missing(self, warn: bool = True) -> list[int]:
        """First rows of the blocks that are unfinished or damaged; a RuntimeWarning is issued for damaged ones."""
        with self._storing():
            starts = range(0, self._shape[0], self._block)
            logged = self._logged()
            if not self._is_whole():
                self._folder.mkdir(parents=True, exist_ok=True)
                remove_stale(self._folder)
                with replace_file(self._data) as file:
                    file.write(self._header)
                    file.truncate(self._n_bytes)
                finished = set()
            else:
                rows = self.rows()
                finished = {
                    start
                    for start in starts
                    if start in logged and self._checksum(start, rows[start : start + self._block]) in logged[start]
                }
        damaged = [start for start in starts if start in logged and start not in finished]
        if damaged and warn:
            warnings.warn(
                f"{len(damaged)} of {len(starts)} blocks of {str(self._data)!r} are damaged and will be recomputed",
                RuntimeWarning,
                stacklevel=3,
            )
        return [start for start in starts if start not in finished]

    def write(self, start: int, rows: np.ndarray) -> None:
        """Store a block, then its checksum."""
        rows = np.ascontiguousarray(rows, dtype="<f4")
        with self._storing():
            with open(self._data, "rb+") as file:  # not a memory map, where a full disk would kill the process
                file.seek(len(self._header) + start * self._shape[1] * rows.itemsize)
                file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
            append_line(self._log, f"{start} {self._checksum(start, rows)}")

    def rows(self) -> np.memmap:
        """The matrix, read-only."""
        with self._storing():
            return np.memmap(self._data, "<f4", "r", offset=len(self._header), shape=self._shape)

    @property
    def _n_bytes(self) -> int:
        return len(self._header) + 4 * self._shape[0] * self._shape[1]

    def _is_whole(self) -> bool:
        """Whether the file exists and has the right header and size."""
        try:
            with open(self._data, "rb") as file:
                return file.read(len(self._header)) == self._header and os.fstat(file.fileno()).st_size == self._n_bytes
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _logged(self) -> dict[int, set[str]]:
        """Checksums of each block: more than one if processes rounded differently, none if a line is garbled."""
        logged: dict[int, set[str]] = {}
        with suppress(FileNotFoundError):
            for line in self._log.read_bytes().decode(errors="replace").splitlines():
                start, _, checksum = line.partition(" ")
                if start.isdecimal():
                    logged.setdefault(int(start), set()).add(checksum)
        return logged

    def _checksum(self, start: int, rows: np.ndarray) -> str:
        hasher = xxhash.xxh3_128(repr((self._folder.name, self._shape, start)).encode())
        hasher.update(np.ascontiguousarray(rows).data)
        return hasher.hexdigest()

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise NotStoredError(f"{str(self._folder)!r}: {error}") from error
