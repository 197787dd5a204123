"""The questions of a session: single images, grids, labels to review, and images that a program asks about."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from skal.label.asked import Asked
from skal.label.asking import Desk, Question
from skal.label.catalogue import Catalogue
from skal.label.reading import Reading
from skal.label.review import Doubt, doubts
from skal.label.state import State


class Questions:
    """The questions of :class:`skal.label.LabelSession`, which holds the parts they come from."""

    _asked: Asked
    _catalogue: Catalogue
    _changed: threading.Condition
    _desk: Desk
    _reading: Reading
    _state: State

    def next(self, tab: str = "", timeout: float | None = None) -> Question | None:
        """The current question. It stays the same until it is answered.

        Parameters
        ----------
        tab : str, default=""
            Name of the tab. Two tabs never have the same image at the same time.
        timeout : float or None, default=None
            Seconds to wait while images are still being read.

        Returns
        -------
        question : Question or None
            None if every image is decided.
        """
        return next(iter(self.upcoming(1, tab, timeout)), None)

    def upcoming(self, n: int = 1, tab: str = "", timeout: float | None = None) -> list[Question]:
        """The next questions of a tab, starting with that of :meth:`next`. At least one, if there is any."""
        with self._changed:

            def ready() -> list[Question] | bool:
                return self._desk.questions(tab, n) or self._reading.is_done

            self._changed.wait_for(ready, timeout)
            return self._desk.questions(tab, n)

    def stay(self, tab: str) -> None:
        """Report that a tab is open. A tab that has reported and is then silent for 20 seconds counts as closed."""
        with self._changed:
            self._desk.hear(tab)

    def leave(self, tab: str) -> None:
        """Give the images of a closed tab to others."""
        with self._changed:
            self._desk.forget(tab)
            self._changed.notify_all()

    # ------------------------------------------------------- grid and review

    def grid(self, label: str, n: int = 24) -> list[Question]:
        """Unlabelled images predicted as a class, most confident first. None of them is reserved.

        Parameters
        ----------
        label : str
        n : int, default=24
        """
        with self._changed:
            found: list[Question] = []
            for image, _ in self._desk.snapshot.ranked(label):
                item = self._catalogue.items.get(image)
                rejected = self._state.is_rejected(image, label)
                if item is not None and not rejected and self._desk.can_be_asked(item):
                    found.append(self._desk.question(item, "grid"))
                    if len(found) == n:
                        break
            return found

    def review(self, n: int = 24) -> list[Doubt]:
        """Labels to review: conflicts, images the person was unsure about, and labels the model doubts most."""
        with self._changed:
            return doubts(self._state, self._desk, n)

    # ------------------------------------------------------------ ask a person

    def ask(self, images: Any, timeout: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ask a person about these images before all others and wait for the answers (``ask_a_person`` of a loop).

        Parameters
        ----------
        images : sequence of paths, or ndarray of uint8 images
            Arrays are stored in the project as PNG files, named by the hash of their content.
        timeout : float or None, default=None
            Seconds to wait.

        Returns
        -------
        labels : ndarray of shape (n,)
            Empty strings for images without a label.
        is_answered : ndarray of shape (n,)
            False for images that the person is unsure about, that are reserved, whose files are gone, or that were not
            answered in time.
        """
        return self._asked.ask(images, timeout)
