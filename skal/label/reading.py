"""Images are read one by one in keyed order, behind a person who is labelling already."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from skal.label.catalogue import Catalogue, in_keyed_order

#: Images of a new folder that are read before the first question.
_FIRST = 16
#: Seconds between two looks at the folder while a session is open, and how many times longer than a look it rests.
RESCAN_SECONDS, _REST = 10.0, 100


class Reading:
    """Takes listed files into a catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    paths : iterable of str
    changed : Condition
        Held while the catalogue changes.
    listing : callable or None, default=None
        Lists the files anew, so that those that come while the session is open join.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        paths: Iterable[str],
        changed: threading.Condition,
        listing: Callable[[], Iterable[str]] | None = None,
    ):
        self._catalogue, self._changed, self._listing = catalogue, changed, listing
        self._left = deque(in_keyed_order(paths, catalogue))
        self._known = set(self._left)
        self._unreadable: dict[str, tuple[int, int]] = {}  # with their stamps
        self._busy = False
        self._next_scan = time.monotonic() + self.idle_seconds

    @property
    def is_done(self) -> bool:
        return not self._left and not self._busy

    @property
    def idle_seconds(self) -> float:
        """After which there may be something to do although nothing has happened here."""
        return RESCAN_SECONDS

    @property
    def n_left(self) -> int:
        return len(self._left)

    def again(self, path: str) -> None:
        """Read a file once more, since it has changed."""
        self._left.append(path)

    def next_task(self) -> Callable[[], None] | None:
        """Reading one file, or looking for new ones; None where there is nothing to do."""
        if not self._left:
            is_due = self._listing is not None and time.monotonic() >= self._next_scan
            return self._rescan if is_due else None
        self._busy = True
        return partial(self._read, self._left.popleft())

    def read_for(self, seconds: float) -> None:
        """Read what there is time for: all that is remembered, so that a session goes on where it was; else a few."""
        end = time.monotonic() + seconds
        n_known = self._catalogue.n_remembered
        while time.monotonic() < end and (n_known or len(self._catalogue.order) < _FIRST):
            task = self.next_task()
            if task is None:
                return
            task()

    def _rescan(self) -> None:
        """Look for files that are new, and for unreadable ones that have changed, as when they are copied just now."""
        assert self._listing is not None
        start = time.monotonic()
        found = [path for path in self._listing() if path not in self._known]
        found += [path for path, stamp in self._unreadable.items() if self._catalogue.stamp(path) not in (None, stamp)]
        with self._changed:
            self._known.update(found)
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
                    if self._unreadable.pop(path, None) is not None:
                        del self._catalogue.unreadable[path]
                    self._catalogue.add(path, fingerprint, stamp)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
