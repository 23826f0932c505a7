"""Who may ask what: the token, this machine's own pages, and how much is sent."""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from sspir.errors import UserError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "sspir_token"
OPEN = ("/health",)
"""Paths that need no token."""
ROUTES = (
    "/health", "/openapi.json", "/v1/", "/config", "/theme.css", "/assets/", "/static/", "/svelte/", "/favicon.ico",
    "/robots.txt", "/manifest.json", "/login_check", "/gradio_api/info", "/gradio_api/app_id",
    "/gradio_api/startup-events", "/gradio_api/heartbeat/", "/gradio_api/upload", "/gradio_api/queue/",
    "/gradio_api/call/", "/gradio_api/run/", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/file=",
)  # fmt: skip
"""How paths begin that are answered, beside the page itself: Gradio has more than the page needs."""
MAX_JSON = 4_000_000
"""Bytes of a body that is no upload."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    # Whatever a library's page asks of another host, the browser refuses
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the first address holds the token
    "cross-origin-resource-policy": "same-origin",
}


def problem(status: int, message: str, param: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer that refuses."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Guard:
    """An ASGI application in front of another.

    Refused are requests without the token, of pages of other hosts, to names that only pretend to be this machine,
    bodies that are too long, routes that nobody needs, and everything that would have the server read another file or
    fetch an address.

    Args:
        app: that answers what passes.
        host: address that is listened at; on this machine's own, only its own names are answered.
        token: that requests carry, as `Authorization: Bearer TOKEN`, `?token=TOKEN` or the cookie which that leaves.
        max_bytes: of a body.
        folder: of everything that was handed in and made: Gradio's own requests may name no other file.
    """

    def __init__(self, app: App, host: str, token: str | None, max_bytes: int, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self.hosts = LOOPBACK if host in LOOPBACK else None
        self.token = token
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:  # the first counts, as for the application
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        if refused := self._refusal(scope, headers):
            await _reply(send, *refused)
            return
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self.token and given and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            where = "/" + quote(scope["path"].lstrip("/"))
            await _reply(send, 303, {}, location=where, **{"set-cookie": cookie})
            return
        if headers.get("content-type", "").lower().startswith("multipart/"):
            await self._pass(scope, _Body(receive, self.max_bytes), send)
            return
        body = _Body(receive, min(MAX_JSON, self.max_bytes))
        if path := await body.names(self._is_strange):
            await _reply(send, *problem(403, f"{path} was not handed in; this server reads and fetches nothing else."))
            return
        await self._pass(scope, body, send)

    async def _pass(self, scope: Scope, body: "_Body", send: Send) -> None:
        started = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if body.too_long and not started:
                return  # the application's words about a connection that it takes for cut
            if message["type"] == "http.response.start":
                started = True
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in names),
                ]
            await send(message)

        try:
            await self.app(scope, body, answer)
        except Exception:
            if not body.too_long:
                raise
        if body.too_long and not started:
            await _reply(send, *problem(413, self._long()))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and _hostname(host) not in self.hosts:
            return problem(403, f"This server answers {' and '.join(self.hosts)} alone, not {host!r}.")
        if origin and origin.partition("://")[2] != host:
            return problem(403, "Pages of other addresses may not ask this server.")
        if self.token and scope["path"] not in OPEN and not self._has_token(scope, headers):
            return problem(401, "The token is missing or wrong: send it as 'Authorization: Bearer TOKEN', or open the "
                                "address that the program has printed.")  # fmt: skip
        path = scope["path"]
        if path != "/" and not path.startswith(ROUTES):
            return problem(404, f"There is no {path} here.")
        _, is_file, name = path.partition("/gradio_api/file=")
        if is_file and self._is_strange(name):
            return problem(403, f"{name} was not handed in; this server reads and fetches nothing else.")
        length = headers.get("content-length", "0")
        return problem(413, self._long()) if length.isdigit() and int(length) > self.max_bytes else None

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        given = (
            headers.get("authorization", "").removeprefix("Bearer "),
            cookie.value if cookie else "",
            parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0],
        )
        return any(hmac.compare_digest(each.encode(), str(self.token).encode()) for each in given)

    def _is_strange(self, path: str) -> bool:
        return not Path(path).resolve().is_relative_to(self.folder)  # nor is any address

    def _long(self) -> str:
        return f"More than {self.max_bytes / 1e6:g} MB are not taken; send a smaller file."


class _Body:
    """What a request brings, cut off where it is too long."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._count = receive, most, 0
        self._read: list[MutableMapping[str, Any]] = []
        self.too_long = False

    async def __call__(self) -> MutableMapping[str, Any]:
        return self._read.pop(0) if self._read else await self._next()

    async def _next(self) -> MutableMapping[str, Any]:
        if self.too_long:
            return {"type": "http.disconnect"}
        message = await self._receive()
        self._count += len(message.get("body", b""))
        self.too_long = self._count > self._most
        return {"type": "http.disconnect"} if self.too_long else message

    async def names(self, is_meant: Callable[[str], bool]) -> str | None:
        """The first path that the body, which is JSON, names and that is meant; it can be read afterwards."""
        read = [await self._next()]
        while read[-1].get("more_body"):
            read.append(await self._next())
        self._read = read
        try:
            sent = json.loads(b"".join(message.get("body", b"") for message in read) or b"null")
        except ValueError:
            return None  # the application says it better
        except RecursionError:
            return "What is nested so deeply"
        return next((path for path in _paths(sent) if is_meant(path)), None)


def _paths(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "path" and isinstance(value, str):
                yield value
            yield from _paths(value)
    elif isinstance(node, list):
        for each in node:
            yield from _paths(each)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _reply(send: Send, status: int, body: dict[str, Any], **headers: str) -> None:
    data = json.dumps(body).encode() if body else b""
    told = {**HEADERS, "content-type": "application/json", "content-length": str(len(data)), **headers}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": data})


def checked_token(host: str, token: str | None) -> str | None:
    """The token, which an address that others reach must have; an empty one is none.

    Raises:
        UserError: it has none, or one that addresses and cookies cannot carry.
    """
    if not token and host not in LOOPBACK:
        raise UserError(f"Others can reach {host}: give a --token, or leave --host out to serve this machine alone.")
    if token and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise UserError("The token may hold letters, digits and . _ ~ - alone; give another --token.")
    return token or None
