"""Background work while a person labels: images are read and embedded, and models trained. No answer waits for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable


class Worker(threading.Thread):
    """A low-priority thread that runs small tasks one after the other until it is stopped.

    Parameters
    ----------
    name : str
    next_task : callable
        Called with the condition held. Returns a task, or None if there is nothing to do.
    changed : Condition
        Notified when there may be something to do.
    failed : callable
        Called with the exception that a task raised, with the condition held.
    idle_seconds : float or None, default=None
        Time after which it looks for a task without being notified.

    Attributes
    ----------
    is_stopping : bool
    """

    def __init__(
        self,
        name: str,
        next_task: Callable[[], Callable[[], None] | None],
        changed: threading.Condition,
        failed: Callable[[Exception], None],
        idle_seconds: float | None = None,
    ):
        super().__init__(name=name, daemon=True)
        self._next_task, self._changed, self._failed = next_task, changed, failed
        self._idle_seconds = idle_seconds
        self.is_stopping = False

    def run(self) -> None:
        _lower_priority()
        while True:
            with self._changed:
                task = self._next_task()
                while task is None and not self.is_stopping:
                    self._changed.wait(self._idle_seconds)
                    task = self._next_task()
                if self.is_stopping or task is None:
                    return
            try:
                task()
            except Exception as error:  # estimators and strategies may raise anything
                with self._changed:
                    self._failed(error)

    def stop(self) -> None:
        """Finish the running task, then end the thread."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify_all()
        if self.is_alive():
            self.join()


def _lower_priority() -> None:
    """Give priority to answers. On Linux each thread has its own priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Share:
    """Shares the time between fits and embedding: after a fit, embedding gets as much time as the fit took."""

    def __init__(self) -> None:
        self._embeds_until = 0.0

    def fitted(self, seconds: float) -> None:
        self._embeds_until = time.monotonic() + seconds

    @property
    def is_for_embedding(self) -> bool:
        return time.monotonic() < self._embeds_until
