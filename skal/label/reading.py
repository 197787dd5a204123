"""Images are read one by one in keyed order, in the background while a person is already labelling."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from skal.label.catalogue import Catalogue, Item, Recalled, in_keyed_order

#: Images of a new folder that are read before the first question.
_FIRST = 16
#: Number of files checked together for changes since an earlier session.
_CHECKED = 64
#: Seconds between two scans of the folder while a session is open, and minimum pause as a multiple of a scan's time.
RESCAN_SECONDS, _REST = 10.0, 100


class Reading:
    """Reads listed files into a catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    paths : iterable of str
    changed : Condition
        Held while the catalogue changes.
    listing : callable or None, default=None
        Lists the files again, so that files added while the session is open are included.
    recalled : sequence of Recalled, default=()
        Files that are in the catalogue as an earlier session read them. They are checked in the background.
    taken : callable, default does nothing
        Called, with the condition held, with the path and the content of a file that has been read.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        paths: Iterable[str],
        changed: threading.Condition,
        listing: Callable[[], Iterable[str]] | None = None,
        recalled: Sequence[Recalled] = (),
        taken: Callable[[str, str], None] = lambda path, content: None,
    ):
        self._catalogue, self._changed, self._listing, self._taken = catalogue, changed, listing, taken
        self.known = {*paths, *(one.path for one in recalled)}
        self._left = deque(in_keyed_order(self.known - {one.path for one in recalled}, catalogue))
        self._to_check = deque(recalled)
        self._unreadable = {one.path: one.stamp for one in recalled if one.content is None}
        self._busy = False
        self._next_scan = time.monotonic() + self.idle_seconds

    @property
    def is_done(self) -> bool:
        return not self._left and not self._to_check and not self._busy

    @property
    def idle_seconds(self) -> float:
        """Seconds after which there may be something to do without a notification."""
        return RESCAN_SECONDS

    @property
    def n_left(self) -> int:
        return len(self._left)

    def drop(self, path: str, image: str | None, reason: str) -> None:
        """Set aside a file that has changed, and read it again; called with the condition held."""
        others = self._catalogue.drop(path, image, reason)
        self._left.extend(in_keyed_order([path, *others], self._catalogue))
        self._changed.notify_all()

    def exclude(self, item: Item, reason: str) -> None:
        """Set aside a file until it changes; called with the condition held."""
        self._catalogue.drop(item.path, item.id, reason)
        self._unreadable[item.path] = item.stamp

    def replaced(self, item: Item) -> bool:
        """Whether a file has changed since it was read. If so, it is set aside. Called with the condition held."""
        if not self._catalogue.has_changed(item):
            return False
        self.drop(item.path, item.id, "changed while the session was open")
        return True

    def next_task(self) -> Callable[[], None] | None:
        """The task of reading one file or checking several; None if there is nothing to do."""
        if self._to_check:
            self._busy = True
            return partial(self._check, [self._to_check.popleft() for _ in range(min(_CHECKED, len(self._to_check)))])
        if not self._left:
            is_due = self._listing is not None and time.monotonic() >= self._next_scan
            return self._rescan if is_due else None
        self._busy = True
        return partial(self._read, self._left.popleft())

    def read_for(self, seconds: float) -> None:
        """Read as many of the first files as time allows, so that there is a question."""
        end = time.monotonic() + seconds
        while self._left and time.monotonic() < end and len(self._catalogue.order) < _FIRST:
            self._read(self._left.popleft())

    def _check(self, some: list[Recalled]) -> None:
        """Read again the files that have changed since an earlier session."""
        try:
            changed = [one for one in some if self._catalogue.stamp(one.path) != one.stamp]
            with self._changed:
                for one in changed:
                    self.drop(one.path, one.content, "changed since it was read")
        finally:
            self._end()

    def _rescan(self) -> None:
        """Find new files, and unreadable ones that have changed, such as files that were still being copied."""
        assert self._listing is not None
        start = time.monotonic()
        found = [path for path in self._listing() if path not in self.known]
        found += [path for path, stamp in self._unreadable.items() if self._catalogue.stamp(path) not in (None, stamp)]
        with self._changed:
            self.known.update(found)
            self._left.extend(in_keyed_order(found, self._catalogue))
            if found:
                self._changed.notify_all()
        now = time.monotonic()
        self._next_scan = now + max(self.idle_seconds, _REST * (now - start))

    def _read(self, path: str) -> None:
        try:
            fingerprint, stamp = self._catalogue.read(path)
            with self._changed:
                if fingerprint is None:
                    self._unreadable[path] = stamp
                else:
                    self._unreadable.pop(path, None)
                    self._catalogue.unreadable.pop(path, None)  # also of a file that has changed
                    self._catalogue.add(path, fingerprint, stamp)
                    self._taken(path, fingerprint.content)
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
