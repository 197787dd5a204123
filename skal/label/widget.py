"""LabelWidget: the labelling page's first mode in a notebook."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from skal._extras import how_to_install

try:
    import anywidget
except ImportError as error:
    raise ImportError(f"LabelWidget needs the extra 'notebook': {how_to_install('notebook')}") from error

from skal.label.requests import Requests, answered
from skal.label.session import LabelSession

#: Modules of the page that make up the widget, each after the modules it imports.
_MODULES = ("choices.js", "keys.js", "saving.js", "labelling.js", "widget.js")
_PAGE = resources.files("skal.label") / "page"


def one_module() -> str:
    """The modules of the page joined into one, since a widget is a single module."""
    parts = [(_PAGE / name).read_text(encoding="utf-8") for name in _MODULES]
    return "\n".join(re.sub(r"^import .* from \"\./.*\";$", "", part, flags=re.MULTILINE) for part in parts)


class LabelWidget(anywidget.AnyWidget):
    """Label a session's images in a notebook, with the keys of the page.

    It responds only while no cell is running. For :meth:`skal.label.LabelSession.ask`, which waits in a cell, start a
    :class:`skal.label.server.Server` instead.

    Parameters
    ----------
    session : LabelSession

    Examples
    --------
    >>> session = LabelSession("photos", "photos.skal", classes=["cat", "dog"])  # doctest: +SKIP
    >>> LabelWidget(session)  # doctest: +SKIP
    """

    _esm = one_module()
    _css = (_PAGE / "widget.css").read_text(encoding="utf-8")

    def __init__(self, session: LabelSession):
        super().__init__()
        self._requests = Requests(session)
        self.on_msg(self._receive)

    def _receive(self, widget: Any, message: Any, buffers: Any) -> None:
        """Answer a message under its id. Invalid messages are ignored."""
        if not isinstance(message, dict) or not isinstance(message.get("id"), str):
            return
        status, body, pictures = self._answer(message)
        self.send({"id": message["id"], "status": status, "body": body}, pictures)

    def _answer(self, message: dict[str, Any]) -> tuple[int, dict[str, Any], list[bytes]]:
        if message.get("kind") == "image":
            status, found = self._requests.picture(str(message.get("image")), message.get("side"))
            return (status, {}, [found]) if isinstance(found, bytes) else (status, {"error": found}, [])
        known = {"read": self._requests.reads, "act": self._requests.actions}.get(str(message.get("kind")), {})
        act, body = known.get(str(message.get("path"))), message.get("body")
        if act is None or not isinstance(body, dict):
            return 400, {"error": "the widget's message is invalid"}, []
        return (*answered(act, body), [])
