"""`zbus web` as a real process, and what it answers."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .cli import started
from .process import LIMIT

__all__ = ["Answer", "Page", "serving"]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Page(NamedTuple):
    """A page that is served at `url` by `process`."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def query(self) -> str:
        return urlsplit(self.url).query

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path, with nothing but what it says; the query must be in it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, fields, answer.read().decode())
        finally:
            connection.close()

    @contextmanager
    def events(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Yield what the server tells, one message after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request("GET", f"/events?{self.query}")
            answer = connection.getresponse()
            assert answer.status == 200
            lines = (line for line in answer if line.startswith(b"data: "))
            yield (json.loads(line.removeprefix(b"data: ")) for line in lines)
        finally:
            connection.close()


@contextmanager
def serving(*args: str, port: int = 0, **env: str) -> Iterator[Page]:
    """Start `zbus web ARGS` and wait until it serves."""
    with started("web", "--port", str(port), *args, **env) as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith("zbus: serving http://127.0.0.1:"), line
        yield Page(process, line.rstrip().partition("serving ")[2])
        process.terminate()
        process.wait(LIMIT)  # it leaves the bus
