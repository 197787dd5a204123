"""Record files: one line per round, flushed to disk as soon as the round is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout

_BEFORE_CHECKSUM = b', "checksum": "'


class RecordFile:
    """The rounds of one run.

    The first line holds the settings. Each further line holds a record and the number of its round, starting from 0.
    Every line ends with its checksum.

    Parameters
    ----------
    path : path
    settings : dict of str to str or int
        Settings on which the records depend.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]):
        self.path = Path(path)
        self.settings = settings

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the file; the lock of a killed process is released.

        Raises
        ------
        ValueError
            If another process holds it.
        """
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"the run {str(self.path)!r} is in use by another process") from error
        try:
            yield
        finally:
            lock.release()

    def read(self) -> list[dict[str, Any]]:
        """Records of the finished rounds, without changing the file; an incomplete last line is ignored.

        Raises
        ------
        ValueError
            If the run had different settings (the message names the first that differs), or a line is damaged, repeated
            or missing (the message names the file and the line).
        """
        return self._read()[0]

    def begin(self) -> list[dict[str, Any]]:
        """As :meth:`read`, but also remove an incomplete last line, and write the settings to an empty file."""
        records, n_bytes = self._read()
        if self.path.exists() and n_bytes < self.path.stat().st_size:
            os.truncate(self.path, n_bytes)
        if n_bytes == 0:
            self._write({"settings": self.settings})
        return records

    def append(self, index: int, record: dict[str, Any]) -> None:
        """Write the record of a round and flush it to disk."""
        self._write({"round": index, **record})

    def _write(self, line: dict[str, Any]) -> None:
        body = json.dumps(line).encode()[:-1]
        with open(self.path, "ab") as stream:
            stream.write(body + _BEFORE_CHECKSUM + f'{_checksum(body)}"}}\n'.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """Records, and the number of bytes of the complete lines."""
        content = self.path.read_bytes() if self.path.exists() else b""
        n_bytes = content.rfind(b"\n") + 1
        lines = [self._parsed(number, text) for number, text in enumerate(content[:n_bytes].split(b"\n")[:-1], start=1)]
        if lines:
            self._check_settings(lines[0])
        for index, line in enumerate(lines[1:]):
            if line.get("round") != index:
                raise self._refused(index + 2, f"contains round {line.get('round')} instead of round {index}")
        return [{name: value for name, value in line.items() if name != "round"} for line in lines[1:]], n_bytes

    def _parsed(self, number: int, text: bytes) -> dict[str, Any]:
        body, _, end = text.rpartition(_BEFORE_CHECKSUM)
        if end != f'{_checksum(body)}"}}'.encode():
            raise self._refused(number, "is damaged: its checksum is missing or does not match")
        line: dict[str, Any] = json.loads(body + b"}")
        return line

    def _refused(self, number: int, why: str) -> ValueError:
        rest = f"line {number} and all lines after it" if number > 1 else "the file"
        return ValueError(f"{str(self.path)!r}: line {number} {why}; delete {rest} to rerun these rounds")

    def _check_settings(self, first: dict[str, Any]) -> None:
        earlier = first.get("settings")
        if not isinstance(earlier, dict):
            raise self._refused(1, "does not contain the settings")
        for name in {**self.settings, **earlier}:
            then, now = earlier.get(name), self.settings.get(name)
            if then != now:
                raise ValueError(
                    f"{str(self.path)!r} belongs to an experiment with {name}={then!r}, but this one has {now!r}; use "
                    "another folder. Hexadecimal digits are hashes of all rows of data, of the code of functions with "
                    "the values they read, and of the content of weights and files"
                )


def _checksum(body: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(body)
