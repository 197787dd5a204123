"""The server of the labelling page: requests to a session over HTTP."""

from __future__ import annotations

import contextlib
import html
import json
import os
import socket
import threading
import zlib
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

from skal._extras import how_to_install

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"the page needs the extra 'label': {how_to_install('label')}") from error

from skal.label.guard import App, Guard, Keys
from skal.label.project import predict_command
from skal.label.requests import Requests, answered
from skal.label.session import LabelSession

#: The files of the page that are served. No others are.
PAGE = {
    "style.css": "text/css",
    "main.js": "text/javascript",
    "api.js": "text/javascript",
    "keys.js": "text/javascript",
    "choices.js": "text/javascript",
    "saving.js": "text/javascript",
    "labelling.js": "text/javascript",
    "single.js": "text/javascript",
    "grid.js": "text/javascript",
    "review.js": "text/javascript",
    "status.js": "text/javascript",
    "classes.js": "text/javascript",
}

#: Ports of projects, below those that systems use for outgoing connections.
_PORTS = range(20_000, 30_000)


class Pages:
    """The requests of the page, answered by a session.

    Parameters
    ----------
    session : LabelSession
    keys : Keys
    entered : callable
        Called after an entry token has been used.
    """

    def __init__(self, session: LabelSession, keys: Keys, entered: Callable[[], None]):
        self.session, self.keys, self._entered = session, keys, entered
        self._requests = Requests(session)
        folder = resources.files("skal.label") / "page"
        self._index = (folder / "index.html").read_text(encoding="utf-8")
        self._files = {name: (folder / name).read_bytes() for name in PAGE}

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/open", self.enter),
            Route("/favicon.ico", self.icon),
            Route("/page/{name}", self.file),
            Route("/image/{image}", self.image),
            *(Route(path, self._read(read)) for path, read in self._requests.reads.items()),
            *(Route(path, self._act(act), methods=["POST"]) for path, act in self._requests.actions.items()),
        ]

    # ----------------------------------------------------------------- page

    async def index(self, request: Request) -> Response:
        path = self.session.project.path
        found = {"write_token": self.keys.write, "link": str(link_of(path)), "next": predict_command(path.absolute())}
        page = self._index
        for name, value in {**found, "project": path.stem}.items():
            page = page.replace("{" + name + "}", html.escape(value))
        return Response(page, media_type="text/html")

    async def enter(self, request: Request) -> Response:
        """Exchange a single-use token for the cookie.

        The page is opened by a refresh of this one, not by a redirect: the browser came from a file, and would not send
        a strict cookie.
        """
        if not self.keys.enter(request.query_params.get("token", "")):
            return Response("this link has already been used; open the file again", 403, media_type="text/plain")
        with contextlib.suppress(OSError):  # a full disk: the page opens, and reports it
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
        image, side = request.path_params["image"], request.query_params.get("side")
        status, found = await run_in_threadpool(self._requests.picture, image, side)
        if status != 200:
            return Response(found, status, media_type="text/plain")
        cache = {"cache-control": "private, max-age=86400, immutable"}
        return Response(found, media_type="image/jpeg", headers=cache)

    def _read(self, read: Callable[[Any], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            status, found = await run_in_threadpool(answered, read, dict(request.query_params))
            return JSONResponse(found, status)

        return endpoint

    def _act(self, act: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                body = json.loads(await request.body(), parse_constant=_no_constant)
                if not isinstance(body, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError):
                return JSONResponse({"error": "the request is not a JSON object"}, 400)
            status, found = await run_in_threadpool(answered, act, body)
            return JSONResponse(found, status)

        return endpoint


def _no_constant(name: str) -> float:
    raise ValueError(name)


class Server:
    """Serves a session's page.

    Parameters
    ----------
    session : LabelSession
    host : str, default="127.0.0.1"
    port : int, default=0
        0 selects a free port, the same each time for a project if possible, so that an open page finds a restarted
        server and sends what is not saved yet.
    allow_remote : bool, default=False
        Whether `host` may be an address other than this machine's own. Anyone who can reach it and obtains the link can
        then see the images and change the labels, and the network in between can read the traffic.

    Attributes
    ----------
    keys : Keys
    port : int
    link : Path
        A file, readable only by its owner, that opens the page and authorises the browser.

    Raises
    ------
    ValueError
        If the host is not this machine's own and `allow_remote` is not given.
    """

    def __init__(self, session: LabelSession, *, host: str = "127.0.0.1", port: int = 0, allow_remote: bool = False):
        is_local = host in ("127.0.0.1", "localhost", "::1")
        if not is_local and not allow_remote:
            raise ValueError(
                f"host={host!r} gives other machines access: anyone with the link can see the images and change the "
                "labels, and the traffic can be read on the network. Pass allow_remote (--allow-remote) to allow this, "
                "or keep the host 127.0.0.1 and use an SSH tunnel"
            )
        self._socket = _bound(host, port) if port else _bound_as_before(host, session.project.path)
        self.port = int(self._socket.getsockname()[1])
        self.keys = Keys(self.port)
        names = ["127.0.0.1", "localhost", "[::1]", *([] if is_local else [host, socket.gethostname(), *_addresses()])]
        self.host = host if is_local else socket.gethostname()
        self.link = link_of(session.project.path)
        pages = Pages(session, self.keys, self._write_link)
        app: App = Starlette(routes=pages.routes())
        guarded = Guard(app, self.keys, [f"{name}:{self.port}" for name in names])
        config = uvicorn.Config(
            guarded,
            log_level="warning",
            access_log=False,  # links contain tokens
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
        """Address that opens the page once. It contains a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/open?token={self.keys.entry}"

    def _write_link(self) -> None:
        """Write a file with an unused token, since each token can be used only once."""
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
        """Serve in a thread, for example in a notebook."""
        self._thread = threading.Thread(target=self.run, name="skal server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server that :meth:`start` started."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._close()

    def _close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.link.unlink()


def link_of(project: Path) -> Path:
    """The file that opens a project's page."""
    return project.absolute() / "open.html"


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket. Without explicit TCP, asyncio leaves Nagle's delay on and every answer takes 40 ms longer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":  # elsewhere it would share a port that is taken
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ValueError(f"port {port} of {host} cannot be used: {error.strerror}") from error
    return listening


def _bound_as_before(host: str, project: Path) -> socket.socket:
    """A socket on the port that belongs to a project, or on any free one if it is taken."""
    with contextlib.suppress(ValueError):
        return _bound(host, _PORTS[zlib.crc32(os.fsencode(project)) % len(_PORTS)])
    return _bound(host, 0)


def _addresses() -> list[str]:
    """Addresses under which other machines reach this one."""
    with contextlib.suppress(OSError):
        return list({str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)})
    return []


def open_browser(link: Path) -> bool:
    """Open the page in the default browser through a file, so no token appears in the arguments of a process."""
    import webbrowser

    return webbrowser.open(link.as_uri())
