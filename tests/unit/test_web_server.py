"""What `zbus web` does when it fails to answer a request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from zbus.web.server import Server


class BrokenFeed:
    """A feed of which each question fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def graph(self) -> dict[str, Any]:
        raise self._error

    def join(self) -> None:
        raise self._error


async def answer(error: Exception, path: str) -> tuple[int, bytes]:
    """Return status and body of the answer; the server raises what has failed, to close the connection."""
    server = Server(BrokenFeed(error), "secret")  # type: ignore[arg-type]
    headers = [(b"host", b"localhost")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"token=secret",
        "headers": headers,
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> None:
        await asyncio.Event().wait()  # the browser stays

    async def send(message: Any) -> None:
        sent.append(message)

    app: Any = server.config.app
    with pytest.raises(type(error)):
        await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("two\nlines\x1b[31m"), r"ValueError: two\nlines\x1b[31m"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
async def test_a_failure_is_answered_and_logged_in_one_line_without_the_token(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await answer(error, "/graph") == (500, b"this failed; the output of zbus web says why\n")
    assert [record.getMessage() for record in caplog.records] == [f"cannot answer GET /graph: {said}"]


async def test_so_is_one_of_the_events(caplog: pytest.LogCaptureFixture) -> None:
    await answer(KeyError("x"), "/events")
    assert [record.getMessage() for record in caplog.records] == ["cannot answer GET /events: KeyError: 'x'"]
