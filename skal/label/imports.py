"""Import of existing labels. They are given by path, and imported when the image at the path has been read."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from skal.label.catalogue import Catalogue
from skal.label.log import Event, LogError, now
from skal.label.state import State

#: Maximum labels in one event; labels that are imported together while files are read; seconds after which fewer are.
_ROWS, _TOGETHER, _SECONDS = 1000, 200, 1.0


class Imports:
    """Imports labels. Labels of files that are not read yet wait until they are.

    The waiting labels are in the log, so an import continues after a crash.

    Parameters
    ----------
    catalogue : Catalogue
    state : State
    record : callable
        Adds an event to the log and the state. All methods are called with the condition held.
    """

    def __init__(self, catalogue: Catalogue, state: State, record: Callable[[Event], object]):
        self._catalogue, self._state, self._record = catalogue, state, record
        self._found: dict[str, str] = {}  # contents of files with waiting labels, by path
        self._since = time.monotonic()

    @property
    def is_idle(self) -> bool:
        return not self._found

    def begin(self, pairs: Iterable[tuple[str, str]], listed: Iterable[str], source: str) -> dict[str, int]:
        """Import the labels of files that are read and let the rest wait. Returns the counts of each outcome."""
        counts = Counter(imported=0, reserved=0, unknown=0, decided=0, waiting=0)
        contents, known = self._catalogue.contents(), set(listed)
        read: list[tuple[str, str, str]] = []
        wait: list[list[str]] = []
        for path, label in dict.fromkeys(pairs):
            name = self._catalogue.name_of(path)
            if name in contents:
                read.append((contents[name], name, label))
            elif name in known:
                wait.append([str(name), label])
            else:
                counts["unknown"] += 1
        for start in range(0, len(wait), _ROWS):
            event = {"id": uuid.uuid4().hex, "kind": "waiting", "time": now(), "source": source}
            self._record(event | {"labels": wait[start : start + _ROWS]})
        counts["waiting"] = len(wait)
        for start in range(0, len(read), _ROWS):
            counts += self._take(read[start : start + _ROWS], [], source)
        return {name: counts[name] for name in ("imported", "reserved", "decided", "unknown", "waiting")}

    def resume(self) -> None:
        """Find the images of all waiting labels among those that have been read."""
        self._found = {}
        contents = self._catalogue.contents() if self._state.waiting else {}
        for path in self._state.waiting:
            if path in contents:
                self._found[path] = contents[path]

    def read(self, path: str, content: str) -> None:
        """Note that a file has been read."""
        if path in self._state.waiting:
            if not self._found:
                self._since = time.monotonic()
            self._found[path] = content

    def next_task(self, is_last: bool) -> Callable[[], None] | None:
        """The task of importing what was found, if it is due: many labels, a long wait, or no more files to read."""
        is_due = is_last or len(self._found) >= _TOGETHER or time.monotonic() - self._since >= _SECONDS
        return self.take if self._found and is_due else None

    def take(self) -> None:
        """Import the labels of all files that have been found."""
        found, self._found = self._found, {}
        waiting = self._state.waiting
        rows = [(content, path, label) for path, content in found.items() for label in waiting.get(path, ())]
        try:
            self._take(rows, list(found), "")
        except LogError:  # the session reports it; the labels still wait when the log is reopened
            return

    def _take(self, rows: Sequence[tuple[str, str, str]], paths: list[str], source: str) -> Counter[str]:
        """Record the labels that are used, and that these paths no longer wait."""
        counts: Counter[str] = Counter()
        taken: dict[tuple[str, str], list[str]] = {}
        for image, path, label in rows:
            what = "imported"
            if self._catalogue.is_reserved(image):
                what = "reserved"
            elif (image, label) in taken or self._state.is_settled(image, label):
                what = "decided"
            else:
                taken[image, label] = [image, path, label]
            counts[what] += 1
        if rows or paths:
            event = {"id": uuid.uuid4().hex, "kind": "import", "time": now(), "source": source}
            not_used = {what: n for what, n in counts.items() if what != "imported"}
            self._record(event | {"labels": list(taken.values()), "read": paths, "not_used": not_used})
        return counts
