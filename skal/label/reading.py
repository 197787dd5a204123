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


class Reading:
    """Takes listed files into a catalogue.

    Parameters
    ----------
    catalogue : Catalogue
    paths : iterable of str
    changed : Condition
        Held while the catalogue changes.
    """

    def __init__(self, catalogue: Catalogue, paths: Iterable[str], changed: threading.Condition):
        self._catalogue, self._changed = catalogue, changed
        self._left = deque(in_keyed_order(paths, catalogue))
        self.n_listed = len(self._left)
        self._busy = False

    @property
    def is_done(self) -> bool:
        return not self._left and not self._busy

    @property
    def n_left(self) -> int:
        return len(self._left)

    def again(self, path: str) -> None:
        """Read a file once more, since it has changed."""
        self._left.append(path)

    def next_task(self) -> Callable[[], None] | None:
        """Reading one file, or None where all are read."""
        if not self._left:
            return None
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

    def _read(self, path: str) -> None:
        try:
            fingerprint, stamp = self._catalogue.read(path)
            with self._changed:
                if fingerprint is not None:
                    self._catalogue.add(path, fingerprint, stamp)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
