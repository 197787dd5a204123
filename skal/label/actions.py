"""The actions of a person in a session. Each is one event, written to disk before the method returns."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from skal.label.asking import Desk
from skal.label.catalogue import Catalogue
from skal.label.imports import Imports
from skal.label.log import Event, EventLog, now
from skal.label.modelling import Modelling
from skal.label.names import check_class_name
from skal.label.reading import Reading
from skal.label.state import State


class Actions:
    """The actions of :class:`skal.label.LabelSession`, which holds the parts they work on."""

    _changed: threading.Condition
    _catalogue: Catalogue
    _desk: Desk
    _imports: Imports
    _log: EventLog
    _modelling: Modelling
    _reading: Reading
    _state: State

    def answer(
        self,
        image: str,
        label: str,
        *,
        seconds: float | None = None,
        tab: str = "",
        event: str | None = None,
        why: str | None = None,
        alone: bool = False,
    ) -> None:
        """Label an image and the near-duplicates in its group. Returns when the label is on disk.

        Another answer about the same image also replaces those that its near-duplicates got with the first.

        Parameters
        ----------
        image : str
            Id of a question.
        label : str
            Name of a class, which is created if it is new.
        seconds : float or None, default=None
            Time the answer took.
        tab : str, default=""
        event : str or None, default=None
            Name of this answer. An answer that is sent again under the same name is recorded once.
        why : {"review"} or None, default=None
            "review" replaces the existing decision about the image.
        alone : bool, default=False
            Whether the near-duplicates are asked separately.

        Raises
        ------
        ValueError
            If there is no such image, or the label is not a safe name.
        LogError
            If writing to disk fails. Nothing is recorded then.
        """
        with self._changed:
            name = check_class_name(label, self._state.classes)
            found = self._decided("answer", image, seconds, tab, event, why, alone)
            self._do({**found, "label": name})

    def unsure(
        self,
        image: str,
        *,
        seconds: float | None = None,
        tab: str = "",
        event: str | None = None,
        why: str | None = None,
    ) -> None:
        """Leave an image undecided, and the near-duplicates that were labelled with it.

        It is not asked again, but appears in the review.
        """
        with self._changed:
            self._do(self._decided("unsure", image, seconds, tab, event, why, alone=image not in self._state))

    def _decided(
        self, kind: str, image: str, seconds: Any, tab: str, event: str | None, why: str | None, alone: bool
    ) -> Event:
        """An event about one image, with what was shown with it."""
        if event is not None and (known := self._log.find(event)) is not None:
            return known  # sent again: what was shown then is no longer known
        item = self._catalogue.items.get(image)
        if item is None:
            raise ValueError(f"image={image!r} is unknown, or its file has been replaced")
        if why not in (None, "review"):
            raise ValueError(f"why={why!r} is not one of (None, 'review')")
        if seconds is not None and not 0 <= seconds < 1e9:
            raise ValueError(f"seconds={seconds!r} must be at least 0 and less than 1e9")
        shown = self._desk.given(image) or self._desk.question(item, "audit" if item.is_reserved else "strategy")
        found: Event = {"id": event or uuid.uuid4().hex, "kind": kind, "time": now(), "image": image, "path": item.path}
        found |= {"why": why or shown.why, "tab": tab, "seconds": seconds}
        if why is None:
            found |= {"suggestion": shown.suggestion, "probability": shown.probability, "model": shown.model}
        if item.is_reserved:
            found["place"] = item.place
        if shown.group:
            found |= {"alone": True} if alone else {"group": list(shown.group)}
        return found

    def undo(self, tab: str = "", event: str | None = None) -> str | None:
        """Undo the last action of a tab. An image that is open again becomes its next question.

        Returns
        -------
        kind : str or None
            Kind of the action that was undone; None if there is nothing to undo.
        """
        with self._changed:
            if event is not None and event in self._log:
                return "answer"
            last = self._state.last_of(tab)
            if last is None:
                return None
            self._do({"id": event or uuid.uuid4().hex, "kind": "undo", "time": now(), "event": last["id"], "tab": tab})
            self._desk.rewind()
            if last["kind"] in ("answer", "unsure") and last["image"] not in self._state:
                self._desk.put_first(tab, last["image"])
            if last["kind"] == "rename":
                self._desk.rename(last["to"], last["label"])
            return str(last["kind"])

    def answer_grid(
        self,
        label: str,
        images: Sequence[str],
        rejected: Sequence[str] = (),
        *,
        seconds: float | None = None,
        tab: str = "",
        event: str | None = None,
    ) -> None:
        """Label all images of a grid at once, except the rejected ones. It is one action, also for undo.

        Raises
        ------
        ValueError
            If an image is unknown, reserved, or both accepted and rejected.
        LogError
            If writing to disk fails. Nothing is recorded then.
        """
        with self._changed:
            if event is not None and event in self._log:
                return  # sent again
            name = check_class_name(label, self._state.classes)
            for image in (*images, *rejected):
                item = self._catalogue.items.get(image)
                if item is None or item.is_reserved or item.is_shadow:
                    raise ValueError(
                        f"image {image!r} cannot be in a grid: it is unknown, reserved or similar to a reserved one"
                    )
            if set(images) & set(rejected):
                raise ValueError(f"images {sorted(set(images) & set(rejected))} are both accepted and rejected")
            found = {"id": event or uuid.uuid4().hex, "kind": "grid", "time": now(), "why": "grid", "label": name}
            found |= {"paths": [self._catalogue.items[image].path for image in images]}
            found |= {"images": list(images), "rejected": list(rejected), "model": self._desk.snapshot.version}
            self._do(found | {"seconds": seconds, "tab": tab})

    def is_recorded(self, event: str) -> bool:
        """Whether an action of this name is on disk."""
        with self._changed:
            return event in self._log

    # --------------------------------------------------------------- classes

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order they were created."""
        with self._changed:
            return self._state.classes

    def add_class(self, name: str, *, tab: str = "", event: str | None = None) -> str:
        """Create a class and return its cleaned name."""
        with self._changed:
            name = check_class_name(name, self._state.classes)
            if name in self._state.classes and (event is None or event not in self._log):
                raise ValueError(f"class {name!r} already exists")
            self._do({"id": event or uuid.uuid4().hex, "kind": "class", "time": now(), "label": name, "tab": tab})
            return name

    def rename_class(self, name: str, to: str, *, tab: str = "", event: str | None = None) -> str:
        """Rename a class. If a class of the new name exists, the two are merged."""
        with self._changed:
            if event is not None and event in self._log:
                return to
            if name not in self._state.classes:
                raise ValueError(f"class {name!r} does not exist; the classes are {self._state.classes}")
            to = check_class_name(to, [other for other in self._state.classes if other != name])
            if to != name:
                kind = "merge" if to in self._state.classes else "rename"
                found = {"id": event or uuid.uuid4().hex, "kind": kind, "time": now(), "label": name, "to": to}
                self._do(found | {"tab": tab})
                self._desk.rename(name, to)
            return to

    def import_labels(self, labels: Iterable[tuple[str, str]], source: str) -> dict[str, int]:
        """Import existing labels. Labels of reserved images are excluded from training and audit.

        Parameters
        ----------
        labels : iterable of (path, label)
            Paths relative to the folder, or absolute.
        source : str
            Where the labels come from, for the log.

        Returns
        -------
        counts : dict
            "imported", "reserved", "unknown", "decided" (the image already has this label, or one from a person), and
            "waiting" (the file is not read yet; the label is imported when it is). Different labels of one image are a
            conflict, shown in the review.

        Raises
        ------
        ValueError
            If a label is not a safe class name, or differs from a class or another label only by case. Nothing is
            imported then.
        """
        pairs = [(os.fspath(path), label) for path, label in labels]
        with self._changed:
            known = self._state.classes
            names: dict[str, str] = {}
            for label in dict.fromkeys(label for _, label in pairs):
                names[label] = check_class_name(label, [*known, *names.values()])
            return self._imports.begin([(path, names[label]) for path, label in pairs], self._reading.known, source)

    # ----------------------------------------------------------------- inside

    def _record(self, event: Event) -> bool:
        """Add an event to the log and the state; returns whether it is new. Called with the condition held."""
        is_new = self._log.append(event)
        if is_new:
            self._state.apply(event)
        return is_new

    def _do(self, event: Event) -> None:
        """Record an action of a person and notify all waiting threads."""
        if not self._record(event):
            return
        if event["kind"] not in ("class", "waiting"):
            self._modelling.n_changes += len(event["labels"] if "labels" in event else event.get("images") or (0,))
        self._acted(event)
        self._changed.notify_all()

    def _acted(self, event: Event) -> None:
        """Called with the condition held after every action. Overridden by the session."""
