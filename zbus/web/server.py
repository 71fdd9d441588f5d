"""What serves the page: on loopback only, to those who know the token, and never to another site's page.

    GET /              the page                       GET /events        what is new, as server-sent events
    GET /static/NAME   what the page consists of      GET /topics/ID     one topic with its latest value
                                                      GET /graph         who sends what to whom

There is nothing else: no request changes anything, and none sends on the bus.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import zbus

from ..roster.process_info import visible
from ..runtime.reports import report
from .feed import Feed

__all__ = ["ADDRESS", "Server", "bound"]

ADDRESS = "127.0.0.1"
"""Nobody else's machine can reach it."""

# A page of another site can have its name resolve to this machine. Its requests bear that name. The port is
# left open for those who forward another one to here.
_OWN_NAMES = (ADDRESS, "localhost")
_MOST_CONNECTIONS = 64
_END_SECONDS = 2
_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # The browser asks no other host for anything, runs no script but ours, and takes no text for HTML.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def bound(port: int) -> socket.socket:
    """Return a socket that is bound to a port of this machine; 0 takes a free one.

    Raises:
        Unavailable: the port is in use, or not for this user.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((ADDRESS, port))
        found.listen()
    except OSError as error:
        found.close()
        reasons = {errno.EADDRINUSE: "is in use", errno.EACCES: "is not for this user"}
        reason = reasons.get(error.errno or 0, f"cannot be used ({error.strerror})")
        raise zbus.Unavailable(
            f"port {port} of {ADDRESS} {reason}: give another --port, 0 for any"
        ) from error
    return found


class Server(uvicorn.Server):
    """Serves a feed until `stop` is called or the feed ends. Signals are the caller's."""

    def __init__(self, feed: Feed, token: str) -> None:
        """Serve to those who know `token`; to everybody on this machine if it is empty."""
        self._feed = feed
        config = uvicorn.Config(
            _Guard(_routes(feed), token),
            log_config=None,
            log_level="critical",  # `_failed` says what fails; that a browser has gone is no failure
            access_log=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_END_SECONDS,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    def stop(self) -> None:
        """End `serve_on`, from any thread or a signal handler."""
        self.should_exit = True
        self._feed.end()

    def serve_on(self, listening: socket.socket) -> None:
        """Serve until it is stopped.

        Raises:
            zbus.Error: the feed ended by itself.
        """
        self._feed.begin(self.stop)
        asyncio.run(self.serve([listening]))
        if self._feed.error is not None:
            raise self._feed.error


class _Guard:
    """Lets through what may pass, and adds the headers."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), _HEADERS[name].encode()) for name in _HEADERS]
            await send(message)

        app: ASGIApp = self._app
        if refused := self._refusal(Request(scope)):
            app = PlainTextResponse(f"{refused}\n", 403)
        await app(scope, receive, send_on)

    def _refusal(self, request: Request) -> str:
        """Return why a request is refused; an empty string if it is not."""
        host = request.headers.get("host", "")
        if _name(f"//{host}") not in _OWN_NAMES:
            return f"ask for {ADDRESS} or localhost, not for another name"
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "pages of other sites are not answered"
        if request.url.path.startswith("/static/"):  # it tells nothing of the bus
            return ""
        token = request.query_params.get("token", "")
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()) and self._token:
            return "the address lacks the token: use the whole address that zbus web has printed"
        return ""


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _routes(feed: Feed) -> Starlette:
    async def page(request: Request) -> Response:  # noqa: ARG001
        return _file("index.html")

    async def static(request: Request) -> Response:
        return _file(request.path_params["name"])

    async def topic(request: Request) -> Response:
        found = feed.detail(request.path_params["id"])
        if found is None:
            return PlainTextResponse("this topic was forgotten\n", 404)
        return _json(found)

    async def graph(request: Request) -> Response:  # noqa: ARG001
        return _json(feed.graph())

    async def events(request: Request) -> Response:  # noqa: ARG001
        return StreamingResponse(_stream(feed), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", static),
            Route("/topics/{id:int}", topic),
            Route("/graph", graph),
            Route("/events", events),
        ],
        exception_handlers={Exception: _failed},
    )


async def _failed(request: Request, error: Exception) -> Response:
    """Say what has failed, without the query, which has the token."""
    what = f"{request.method} {request.url.path}: {type(error).__name__}: {error}"
    report("cannot answer %s", visible(what))
    return PlainTextResponse("this failed; the output of zbus web says why\n", 500)


def _json(found: dict[str, Any]) -> Response:
    return Response(orjson.dumps(found), media_type="application/json")


def _file(name: str) -> Response:
    path = _STATIC / name
    if path.name not in {one.name for one in _STATIC.iterdir()}:
        return PlainTextResponse("there is no such page\n", 404)
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix])


async def _stream(feed: Feed) -> AsyncIterator[bytes]:
    """Yield what is new. Only when the browser has taken it is it asked for again."""
    viewer = feed.join()
    try:
        while (news := await feed.newest(viewer)) is not None:
            yield news
    finally:
        feed.leave(viewer)
