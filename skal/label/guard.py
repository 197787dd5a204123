"""Access control of the server, checked first on every request."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Maximum number of bytes in the body of a request.
LARGEST_BODY = 1 << 20

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Keys:
    """The secrets of one server.

    Parameters
    ----------
    port : int
        Two servers on one machine share a host, so they must not share a cookie.

    Attributes
    ----------
    cookie_name, cookie : str
    write : str
        Contained only in the page, so a form on another site can send the cookie but not this token.
    """

    def __init__(self, port: int):
        self.cookie_name = f"skal_{port}"
        self.cookie = secrets.token_urlsafe(32)
        self.write = secrets.token_urlsafe(32)
        self._entry = secrets.token_urlsafe(32)

    @property
    def entry(self) -> str:
        """Single-use token with which a browser gets the cookie."""
        return self._entry

    def enter(self, token: str) -> bool:
        """Whether a token is valid. A valid token is used up."""
        if not _same(token, self._entry):
            return False
        self._entry = secrets.token_urlsafe(32)
        return True

    def knows(self, header: str) -> bool:
        """Whether a Cookie header contains the cookie."""
        try:
            cookies = SimpleCookie(header)
        except CookieError:
            return False
        return self.cookie_name in cookies and _same(cookies[self.cookie_name].value, self.cookie)

    def may_write(self, token: str) -> bool:
        return _same(token, self.write)


def _same(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


class _TooLargeError(Exception):
    pass


class Guard:
    """Rejects foreign hosts (DNS rebinding), foreign origins, missing secrets and large bodies.

    Parameters
    ----------
    app : ASGI application
    keys : Keys
    hosts : iterable of str
        Allowed values of the Host header.
    """

    def __init__(self, app: App, keys: Keys, hosts: Iterable[str]):
        self._app, self._keys = app, keys
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._problem(scope, headers)
        if problem is not None:
            await _refuse(send, *problem)
            return
        left = LARGEST_BODY

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLargeError
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message["headers"])}
            await send(message)

        try:
            await self._app(scope, limited, guarded)
        except _TooLargeError:
            await _refuse(send, 413, "the request is too large")

    def _problem(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return 421, "this server does not respond to that host name"
        if "origin" in headers and headers["origin"].lower() != f"http://{host}":
            return 403, "requests from other sites are not allowed"
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and scope["path"] != "/open":
            return 403, "requests from other sites are not allowed"
        if scope["path"] != "/open" and not self._keys.knows(headers.get("cookie", "")):
            return 403, "open the page from the file that skal label prints"
        if scope["method"] not in ("GET", "HEAD"):
            if not self._keys.may_write(headers.get("x-skal-token", "")):
                return 403, "the page's token is missing or invalid; reload the page"
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > LARGEST_BODY:
                return 413, "the request is too large"
        return None


def _with_headers(own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    found = list(own)
    names = {name.lower() for name, _ in found}
    further = {**HEADERS, "cache-control": "no-store"}
    return found + [(k.encode(), v.encode()) for k, v in further.items() if k.encode() not in names]


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = _with_headers([(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
