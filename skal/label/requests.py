"""The requests of a page to a session, as JSON objects in and out, independent of the transport."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from skal.label.asking import Question
from skal.label.folder import is_text
from skal.label.log import LogError
from skal.label.session import LabelSession
from skal.label.thumbnails import ChangedError, Thumbnails

#: Questions assigned to a tab at a time, so that the next images are loaded before they are needed.
_AHEAD = 8
_MOST = 200


class Requests:
    """The requests of a page, answered by a session.

    Parameters
    ----------
    session : LabelSession

    Attributes
    ----------
    reads, actions : dict of str to callable
        Handlers by path. Each takes a JSON object and returns one. Actions change the session.
    """

    def __init__(self, session: LabelSession):
        self.session = session
        self._thumbnails = Thumbnails()
        self._visits: dict[str, Any] = {}  # the last visit of each tab
        self.reads: dict[str, Callable[[Any], dict[str, Any]]] = {
            "/api/status": self.status,
            "/api/questions": self.questions,
            "/api/grid": self.grid,
            "/api/review": self.review,
        }
        self.actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "/api/answer": self.answer,
            "/api/unsure": self.unsure,
            "/api/undo": self.undo,
            "/api/grid": self.answer_grid,
            "/api/class": self.add_class,
            "/api/rename": self.rename_class,
            "/api/reopen": self.reopen,
            "/api/leave": self.leave,
        }

    def picture(self, image: str, side: Any) -> tuple[int, bytes | str]:
        """Status 200 and a re-encoded picture of an image, or an error status and the reason."""
        file = self.session.file(image)
        if file is None:
            return 404, "not found"
        try:
            return 200, self._thumbnails.get(image, file, _count(side, 1024))
        except ChangedError as error:
            self.session.set_aside(image, str(error))
            return 410, "the file has changed"

    # ------------------------------------------------------------- questions

    def questions(self, query: Any) -> dict[str, Any]:
        tab = str(query.get("tab", ""))
        self._visits[tab] = query.get("visit")
        questions = self.session.upcoming(min(_count(query.get("n"), _AHEAD), _MOST), tab, timeout=2)
        return {"questions": [self._shown(question) for question in questions]}

    def grid(self, query: Any) -> dict[str, Any]:
        label, n = str(query.get("label", "")), min(_count(query.get("n"), 24), _MOST)
        return {"questions": [self._shown(question) for question in self.session.grid(label, n)]}

    def review(self, query: Any) -> dict[str, Any]:
        found = self.session.review(min(_count(query.get("n"), 24), _MOST))
        doubts = [{**self._shown(d.question), "kind": d.kind, "labels": d.labels} for d in found]
        return {"questions": doubts}

    def _shown(self, question: Question) -> dict[str, Any]:
        """A question as sent to the page: with its id, and a path for display that is never opened."""
        shown = asdict(question)
        root = self.session.settings.folder
        shown["path"] = os.path.basename(question.path) if root is None else os.path.relpath(question.path, root)
        return shown

    def status(self, query: Any) -> dict[str, Any]:
        if query.get("polls"):  # the page polls every two seconds
            self.session.stay(str(query.get("tab", "")))
        status = self.session.status()
        shown = asdict(status)
        for recall, values in zip(status.recalls, shown["recalls"], strict=True):
            values |= {"recall": recall.recall, "interval": recall.interval}
        shown |= {"classes": self.session.classes, "is_writable": self.session.is_writable}
        for name in ("unreadable", "links", "duplicates"):
            shown[f"n_{name}"] = len(shown[name])
            shown[name] = shown[name][:_MOST]
        return shown

    # --------------------------------------------------------------- actions

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.answer(
            _text(body, "image"), self._class(body), alone=body.get("alone") is True, **_action(body, why=True)
        )
        return self.questions(body)

    def unsure(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.unsure(_text(body, "image"), **_action(body, why=True))
        return self.questions(body)

    def undo(self, body: dict[str, Any]) -> dict[str, Any]:
        undone = self.session.undo(_text(body, "tab"), _text(body, "event"))
        return {"undone": undone, "classes": self.session.classes, **self.questions(body)}

    def answer_grid(self, body: dict[str, Any]) -> dict[str, Any]:
        images, rejected = _texts(body, "images"), _texts(body, "rejected")
        self.session.answer_grid(self._class(body), images, rejected, **_action(body))
        return {}

    def add_class(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self.session.add_class(_text(body, "name"), tab=_text(body, "tab"), event=_text(body, "event"))
        return {"name": name, "classes": self.session.classes}

    def rename_class(self, body: dict[str, Any]) -> dict[str, Any]:
        names = _text(body, "name"), _text(body, "to")
        name = self.session.rename_class(*names, tab=_text(body, "tab"), event=_text(body, "event"))
        return {"name": name, "classes": self.session.classes}

    def _class(self, body: dict[str, Any]) -> str:
        """The class of an answer. The page may still show one that another tab renamed: it is not created again."""
        label = _text(body, "label")
        if label not in self.session.classes and not self.session.is_recorded(_text(body, "event")):
            raise ValueError(f"class {label!r} no longer exists: it was renamed, merged or removed. Label again")
        return label

    def reopen(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.reopen_log()
        return {}

    def leave(self, body: dict[str, Any]) -> dict[str, Any]:
        """A page is closed. After a reload, the end of the old page may arrive after the start of the new one."""
        tab = _text(body, "tab")
        if self._visits.get(tab) == body.get("visit"):
            self.session.leave(tab)
        return {}


def answered(act: Callable[[Any], dict[str, Any]], argument: Any) -> tuple[int, dict[str, Any]]:
    """Process a request. Returns its HTTP status, and the answer or the error message."""
    try:
        return 200, act(argument)
    except LogError as error:
        return 507, {"error": str(error)}
    except ValueError as error:
        return 422, {"error": str(error)}


def _action(body: dict[str, Any], why: bool = False) -> dict[str, Any]:
    """The fields that all actions share."""
    seconds = body.get("seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float))):
        raise ValueError(f"seconds={seconds!r} is not a number")
    common = {"tab": _text(body, "tab"), "event": _text(body, "event"), "seconds": seconds}
    return {**common, "why": body.get("why")} if why else common


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > 1000 or not is_text(value):
        raise ValueError(f"{name} must be a non-empty string of at most 1000 characters")
    return value


def _texts(body: dict[str, Any], name: str) -> list[str]:
    values = body.get(name)
    if not isinstance(values, list) or len(values) > _MOST or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} must be a list of at most {_MOST} strings")
    return values


def _count(text: Any, default: int) -> int:
    """A number from a query, or the default if it is not a number."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 6 else default
