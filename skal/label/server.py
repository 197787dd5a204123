"""The page's server: what a session does, as requests."""

from __future__ import annotations

import contextlib
import html
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skal.label.asking import Question
from skal.label.guard import App, Guard, Keys
from skal.label.log import LogError
from skal.label.session import LabelSession
from skal.label.thumbnails import ChangedError, Thumbnails

#: Files of the page that are served, and no others.
PAGE = {
    "style.css": "text/css",
    "main.js": "text/javascript",
    "api.js": "text/javascript",
    "keys.js": "text/javascript",
    "single.js": "text/javascript",
    "grid.js": "text/javascript",
    "review.js": "text/javascript",
    "status.js": "text/javascript",
    "classes.js": "text/javascript",
}
#: Questions that a tab has at a time, so that the next images are loaded before they are needed.
_AHEAD = 8
_MOST = 200


class Pages:
    """The requests of the page, answered by a session.

    Parameters
    ----------
    session : LabelSession
    keys : Keys
    entered : callable
        Called when an entry token has been used.
    """

    def __init__(self, session: LabelSession, keys: Keys, entered: Callable[[], None]):
        self.session, self.keys, self._entered = session, keys, entered
        self._thumbnails = Thumbnails()
        self._visits: dict[str, Any] = {}  # the last one of each tab
        folder = resources.files("skal.label") / "page"
        self._index = (folder / "index.html").read_text(encoding="utf-8")
        self._files = {name: (folder / name).read_bytes() for name in PAGE}

    def routes(self) -> list[Route]:
        def post(path: str, act: Callable[[dict[str, Any]], Any]) -> Route:
            return Route(path, self._act(act), methods=["POST"])

        return [
            Route("/", self.index),
            Route("/open", self.enter),
            Route("/favicon.ico", self.icon),
            Route("/page/{name}", self.file),
            Route("/image/{image}", self.image),
            Route("/api/status", self._get(lambda query: self.status())),
            Route("/api/questions", self._get(self.questions)),
            Route("/api/grid", self._get(self.grid)),
            Route("/api/review", self._get(self.review)),
            post("/api/answer", self.answer),
            post("/api/unsure", self.unsure),
            post("/api/undo", self.undo),
            post("/api/grid", self.answer_grid),
            post("/api/class", self.add_class),
            post("/api/rename", self.rename_class),
            post("/api/reopen", self.reopen),
            post("/api/leave", self.leave),
        ]

    # ----------------------------------------------------------------- page

    async def index(self, request: Request) -> Response:
        name = html.escape(self.session.project.path.stem)
        page = self._index.replace("{write_token}", html.escape(self.keys.write)).replace("{project}", name)
        return Response(page, media_type="text/html")

    async def enter(self, request: Request) -> Response:
        """Exchange a token of one use for the cookie.

        The page is opened by a refresh of this one, not by a redirect: the browser came from a file, and would not
        send a strict cookie along.
        """
        if not self.keys.enter(request.query_params.get("token", "")):
            return Response("this link has been used; start from the file again", 403, media_type="text/plain")
        self._entered()
        response = Response('<!doctype html><meta http-equiv="refresh" content="0;url=/">', media_type="text/html")
        response.set_cookie(self.keys.cookie_name, self.keys.cookie, httponly=True, samesite="strict", path="/")
        return response

    async def icon(self, request: Request) -> Response:
        return Response(status_code=204)

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PAGE:
            return Response("not found", 404, media_type="text/plain")
        return Response(self._files[name], media_type=PAGE[name])

    async def image(self, request: Request) -> Response:
        side = _count(request.query_params.get("side"), 1024)
        return await run_in_threadpool(self._picture, request.path_params["image"], side)

    def _picture(self, image: str, side: int) -> Response:
        file = self.session.file(image)
        if file is None:
            return Response("not found", 404, media_type="text/plain")
        try:
            picture = self._thumbnails.get(image, file, side)
        except ChangedError as error:
            self.session.set_aside(image, str(error))
            return Response("the file has changed", 410, media_type="text/plain")
        cache = {"cache-control": "private, max-age=86400, immutable"}
        return Response(picture, media_type="image/jpeg", headers=cache)

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
        """A question as the page gets it: by id, and with a path to be read, never opened."""
        shown = asdict(question)
        root = self.session.settings.folder
        shown["path"] = os.path.basename(question.path) if root is None else os.path.relpath(question.path, root)
        return shown

    def status(self) -> dict[str, Any]:
        status = self.session.status()
        shown = asdict(status)
        for recall, values in zip(status.recalls, shown["recalls"], strict=True):
            values |= {"recall": recall.recall, "interval": recall.interval}
        shown |= {"classes": self.session.classes, "is_writable": self.session.is_writable}
        for name in ("unreadable", "duplicates"):
            shown[f"n_{name}"] = len(shown[name])
            shown[name] = shown[name][:_MOST]
        return shown

    # --------------------------------------------------------------- actions

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.answer(
            _text(body, "image"), _text(body, "label"), alone=body.get("alone") is True, **_action(body, why=True)
        )
        return self.questions(body)

    def unsure(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.unsure(_text(body, "image"), **_action(body, why=True))
        return self.questions(body)

    def undo(self, body: dict[str, Any]) -> dict[str, Any]:
        undone = self.session.undo(_text(body, "tab"), _text(body, "event"))
        return {"undone": undone, **self.questions(body)}

    def answer_grid(self, body: dict[str, Any]) -> dict[str, Any]:
        images, rejected = _texts(body, "images"), _texts(body, "rejected")
        self.session.answer_grid(_text(body, "label"), images, rejected, **_action(body))
        return {}

    def add_class(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self.session.add_class(_text(body, "name"), tab=_text(body, "tab"), event=_text(body, "event"))
        return {"name": name, "classes": self.session.classes}

    def rename_class(self, body: dict[str, Any]) -> dict[str, Any]:
        names = _text(body, "name"), _text(body, "to")
        name = self.session.rename_class(*names, tab=_text(body, "tab"), event=_text(body, "event"))
        return {"name": name, "classes": self.session.classes}

    def reopen(self, body: dict[str, Any]) -> dict[str, Any]:
        self.session.reopen_log()
        return {}

    def leave(self, body: dict[str, Any]) -> dict[str, Any]:
        """A page is closed; the end of a page that was reloaded may come after the new one's beginning."""
        tab = _text(body, "tab")
        if self._visits.get(tab) == body.get("visit"):
            self.session.leave(tab)
        return {}

    # ---------------------------------------------------------------- helpers

    def _get(self, read: Callable[[Any], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await _answered(read, dict(request.query_params))

        return endpoint

    def _act(self, act: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                body = json.loads(await request.body(), parse_constant=_no_constant)
                if not isinstance(body, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError):
                return JSONResponse({"error": "the request is no JSON object"}, 400)
            return await _answered(act, body)

        return endpoint


async def _answered(act: Callable[[Any], Any], argument: Any) -> Response:
    """A request done in a thread, and its errors in words."""
    try:
        return JSONResponse(await run_in_threadpool(act, argument))
    except LogError as error:
        return JSONResponse({"error": str(error)}, 507)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, 422)


def _action(body: dict[str, Any], why: bool = False) -> dict[str, Any]:
    """The fields that all actions have."""
    seconds = body.get("seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float))):
        raise ValueError(f"seconds={seconds!r} is no number")
    common = {"tab": _text(body, "tab"), "event": _text(body, "event"), "seconds": seconds}
    return {**common, "why": body.get("why")} if why else common


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > 1000 or not _is_unicode(value):
        raise ValueError(f"{name} is missing, or no text")
    return value


def _is_unicode(value: str) -> bool:
    """Whether it can be written; JSON allows halves of characters, which cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(body: dict[str, Any], name: str) -> list[str]:
    values = body.get(name)
    if not isinstance(values, list) or len(values) > _MOST or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is no list of at most {_MOST} texts")
    return values


def _count(text: Any, default: int) -> int:
    """A number from a query, or the default where it is none."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 6 else default


def _no_constant(name: str) -> float:
    raise ValueError(name)


class Server:
    """Serves a session's page.

    Parameters
    ----------
    session : LabelSession
    host : str, default="127.0.0.1"
    port : int, default=0
        0 takes a free one.
    allow_remote : bool, default=False
        Whether `host` may be another than this machine's own: everybody who can reach it and gets hold of the link can
        then see the images and change the labels, and the network in between can read along.

    Attributes
    ----------
    keys : Keys
    port : int
    link : Path
        A file for its owner alone that opens the page, and gives a browser the right to.

    Raises
    ------
    ValueError
        If the host is not this machine's own and `allow_remote` is not given.
    """

    def __init__(self, session: LabelSession, *, host: str = "127.0.0.1", port: int = 0, allow_remote: bool = False):
        is_local = host in ("127.0.0.1", "localhost", "::1")
        if not is_local and not allow_remote:
            raise ValueError(
                f"host={host!r} lets other machines in: whoever gets hold of the link can see the images and change "
                "the labels, and the network in between can read along. Pass allow_remote (--allow-remote) if you want "
                "that, or leave the host at 127.0.0.1 and use an SSH tunnel"
            )
        self._socket = _bound(host, port)
        self.port = int(self._socket.getsockname()[1])
        self.keys = Keys(self.port)
        names = ["127.0.0.1", "localhost", "[::1]", *([] if is_local else [host, socket.gethostname(), *_addresses()])]
        self.host = host if is_local else socket.gethostname()
        self.link = session.project.path / "open.html"
        pages = Pages(session, self.keys, self._write_link)
        app: App = Starlette(routes=pages.routes())
        guarded = Guard(app, self.keys, [f"{name}:{self.port}" for name in names])
        config = uvicorn.Config(
            guarded,
            log_level="warning",
            access_log=False,  # links hold tokens
            server_header=False,
            lifespan="off",
            limit_concurrency=256,
            timeout_keep_alive=60,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None
        self._write_link()

    @property
    def url(self) -> str:
        """Address that opens the page once; it holds a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/open?token={self.keys.entry}"

    def _write_link(self) -> None:
        """Each token is of one use, and the file always holds one that is not used."""
        temporary = self.link.with_suffix(".tmp")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(
                '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
                f'<meta http-equiv="refresh" content="0;url={html.escape(self.url)}"><title>skal label</title>'
            )
        os.replace(temporary, self.link)

    def run(self) -> None:
        """Serve until interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._close()

    def start(self) -> None:
        """Serve in a thread, as in a notebook."""
        self._thread = threading.Thread(target=self.run, name="skal server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what :meth:`start` began."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._close()

    def _close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.link.unlink()


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket; with TCP named, or asyncio leaves Nagle's delay on and every answer takes 40 ms more."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ValueError(f"port {port} of {host} cannot be used: {error.strerror}") from error
    return listening


def _addresses() -> list[str]:
    """Names and addresses of this machine, under which another reaches it."""
    with contextlib.suppress(OSError):
        return list({str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)})
    return []


def open_browser(link: Path) -> bool:
    """Open the page in the default browser, through a file: no token is in any process's arguments."""
    import webbrowser

    return webbrowser.open(link.as_uri())
