"""The log of a labelling session: one JSON line per action, written to disk before it is acknowledged.

Each line ends with a checksum of its preceding content, so truncated or corrupted lines are detected. Lines are only
appended. An undo is recorded as another line.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skal.label.lock import FileLock

_CHECKSUM = b',"crc":"'
_TAIL = len(_CHECKSUM) + 8 + len(b'"}')  # eight hexadecimal digits, then the end of the object

Event = dict[str, Any]


class LogError(OSError):
    """The log cannot be written: the action is not recorded."""


class EventLog:
    """Append-only events in a file that only one process has open.

    Opening the log repairs it after a crash or a power cut: an unfinished last line, which was never acknowledged, is
    cut and saved beside the log. A complete line with a wrong checksum stays in the file, is copied beside it and
    reported.

    Parameters
    ----------
    path : path
        The file, created if it does not exist. Its folder must exist.

    Attributes
    ----------
    events : list of dict
        All events in order, each with its ``"id"``.
    set_aside : list of str
        Descriptions of the damage that was found.
    failure : str or None
        Why nothing can be written any more.

    Raises
    ------
    BlockingIOError
        If another process has it open.
    ValueError
        If the path is a folder.

    Examples
    --------
    >>> import tempfile
    >>> log = EventLog(Path(tempfile.mkdtemp()) / "labels.jsonl")
    >>> log.append({"id": "1", "kind": "answer", "label": "cat"})
    True
    >>> log.append({"id": "1", "kind": "answer", "label": "cat"})  # sent again: recorded once
    False
    >>> log.close()
    >>> [event["label"] for event in EventLog(log.path).events]
    ['cat']
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"{str(self.path)!r} is a folder, not a log")
        self._lock = FileLock(self.path.with_suffix(".lock"))
        self._file = -1
        self.failure: str | None = None
        try:
            self.reopen()
        except BaseException:
            self.close()
            raise

    def reopen(self) -> None:
        """Read, repair and verify the file again and make it writable, for example after a failed write.

        After a failure, all readable content is first copied to a new file, since the content of a file whose fsync
        failed may exist only in memory.

        Raises
        ------
        LogError
            If writing still fails, or the log is closed.
        """
        if self._lock.is_released:
            raise LogError(f"{self.path.name} is closed")
        try:
            if self.failure is not None:
                self._copy()
            self._read()
        except OSError as error:
            self.failure = f"{self.path.name} cannot be written ({error.strerror or error}); nothing is recorded"
            raise LogError(self.failure) from error
        self.failure = None

    def _copy(self) -> None:
        """Replace the file by a copy that is safely on disk."""
        copy = self.path.with_suffix(".tmp")
        file = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(file, self.path.read_bytes())
            os.fsync(file)
        finally:
            os.close(file)
        self._close_file()
        os.replace(copy, self.path)
        sync_folder(self.path.parent)

    def _read(self) -> None:
        self._close_file()
        is_new = not self.path.exists()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if is_new:
            sync_folder(self.path.parent)
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        self.set_aside: list[str] = []
        if end < len(content):
            self._cut(content[end:], end)
        events: list[Event] = []
        lines: dict[str, int] = {}
        for number, line in enumerate(content[:end].split(b"\n")[:-1], start=1):
            event = decode_line(line)
            if event is None:
                self._put_aside(number, line)
            elif event["id"] not in lines:
                lines[event["id"]] = len(events)
                events.append(event)
        self.events, self._lines = events, lines

    def _cut(self, tail: bytes, end: int) -> None:
        """Remove an unfinished last line and keep a copy of it."""
        saved = self._beside("torn", tail)
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        self.set_aside.append(f"an unfinished last line of {len(tail)} bytes was cut off and saved as {saved.name}")

    def _put_aside(self, number: int, line: bytes) -> None:
        saved = self._beside("garbled", line)
        self.set_aside.append(f"line {number} is garbled and was left out; a copy is in {saved.name}")

    def _beside(self, what: str, content: bytes) -> Path:
        """Save this content in a file beside the log. The same content is saved only once."""
        saved = self.path.with_name(f"{self.path.stem}.{what}-{zlib.crc32(content):08x}")
        if not saved.exists() or saved.read_bytes() != content:  # a full disk leaves a partial file
            saved.write_bytes(content)
            saved.chmod(0o600)
        return saved

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._lines

    def append(self, event: Event) -> bool:
        """Record an event; see :meth:`append_all`."""
        return self.append_all([event]) == 1

    def append_all(self, events: Iterable[Event]) -> int:
        """Record events together. Returns when they are on disk.

        Parameters
        ----------
        events : iterable of dict
            JSON values, each with an ``"id"``. An id that is already recorded is not recorded again.

        Returns
        -------
        n : int
            Number of new events.

        Raises
        ------
        ValueError
            If an event has no id, or the id of another event.
        LogError
            If writing fails. Nothing more is written until the log is reopened: after a failed write or fsync the
            content of the disk is unknown, and a second attempt may appear to succeed.
        """
        new: dict[str, Event] = {}
        for event in events:
            known = new.get(event["id"]) if event.get("id") in new else self.find(event.get("id"))
            if known is None:
                new[event["id"]] = json.loads(json.dumps(event))  # as it will be read again
            elif _without_time(known) != _without_time(event):
                raise ValueError(f"event id {event['id']!r} is already used by another event")
        if not new:
            return 0
        if self.failure is not None:
            raise LogError(self.failure)
        try:
            _write(self._file, b"".join(encode_line(event) for event in new.values()))
            os.fsync(self._file)
        except OSError as error:
            self.failure = f"{self.path.name} cannot be written ({error.strerror or error}); nothing is recorded"
            raise LogError(self.failure) from error
        for event in new.values():
            self._lines[event["id"]] = len(self.events)
            self.events.append(event)
        return len(new)

    def find(self, event_id: Any) -> Event | None:
        """The recorded event with this id, or None."""
        if not isinstance(event_id, str) or not event_id:
            raise ValueError(f"id={event_id!r} is not an event id; it must be a non-empty string")
        position = self._lines.get(event_id)
        return None if position is None else self.events[position]

    def close(self) -> None:
        """Close the file and release it for other processes."""
        self._close_file()
        self._lock.release()
        self.failure = f"{self.path.name} is closed"

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def read_events(path: str | os.PathLike[str]) -> list[Event]:
    """The complete events of a log, read without opening it for writing. Another process may be using it."""
    found: dict[str, Event] = {}
    for line in Path(path).read_bytes().split(b"\n"):
        event = decode_line(line)
        if event is not None:
            found.setdefault(event["id"], event)
    return list(found.values())


def encode_line(event: Event) -> bytes:
    """An event as a line with its checksum.

    Examples
    --------
    >>> encode_line({"id": "1"})
    b'{"id":"1","crc":"ae84d88e"}\\n'
    """
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return body + _end(body) + b"\n"


def _end(body: bytes) -> bytes:
    return _CHECKSUM + f"{zlib.crc32(body):08x}".encode() + b'"}'


def decode_line(line: bytes) -> Event | None:
    """The event of a line, or None if the checksum is wrong."""
    body, end = line[:-_TAIL], line[-_TAIL:]
    if end != _end(body):
        return None
    try:
        event = json.loads(body + b"}")
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("id"), str) else None


def now() -> float:
    """Seconds since 1970, to the millisecond."""
    return round(time.time(), 3)


def _without_time(event: Event) -> Event:
    """An event without its time, for comparison. The time of the first arrival is kept in the log."""
    return {key: value for key, value in json.loads(json.dumps(event)).items() if key != "time"}


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def sync_folder(folder: Path) -> None:
    """Flush the names of new files in a folder to disk."""
    if os.name == "nt":  # pragma: no cover
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
