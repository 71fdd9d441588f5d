"""The Lua code of the original's page, unchanged, in LuaJIT: against this package, in both directions.

`original_page.txt` is the text of the page. Its code is what holds no Korean outside comments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

import zbus

from .process import LIMIT, receive

HERE = Path(__file__).parent
PEER = HERE.parents[1] / "tools" / "peers" / "lua"
_KOREAN = re.compile("[\uac00-\ud7a3]")

pytestmark = pytest.mark.skipif(
    shutil.which("luajit") is None, reason="missing: luajit (apt-get install luajit lua-cjson libzmq5)"
)


def is_code(line: str) -> bool:
    """Return whether a line of the page may be Lua."""
    return not _KOREAN.search(line.partition("--")[0])


def code_of(page: str) -> list[str]:
    """Return the blocks of Lua in the text of the page, in order."""
    runs = ("\n".join(lines) for code, lines in groupby(page.splitlines(), is_code) if code)
    return [run.strip() for run in runs if run.strip()]


LOADING, SUBSCRIBING, SENDING, CHANNEL, CLOSING = code_of((HERE / "original_page.txt").read_text("utf-8"))


class Page:
    """A process that runs a block of the page, after the line that loads the module."""

    def __init__(self, name: str, block: str) -> None:
        path = f"{PEER}/?.lua;;"
        self.process = subprocess.Popen(
            ["luajit", HERE / "page_in_lua.lua", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LUA_PATH": path},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{LOADING}\n{block}\n")
        self.process.stdin.close()

    def hear(self) -> dict[str, Any]:
        """Return the next fact that it tells."""
        assert self.process.stdout is not None
        fact: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"died": true}')
        return fact

    def end(self) -> None:
        """Wait for its end."""
        assert self.hear() == {"ended": True}
        assert self.process.wait(LIMIT) == 0


Run = Callable[[str, str], Page]


@pytest.fixture
def run(zbus_dir: str) -> Iterator[Run]:
    pages: list[Page] = []

    def start(name: str, block: str) -> Page:
        pages.append(Page(name, block))
        return pages[-1]

    yield start
    for page in pages:
        page.process.kill()
        page.process.wait(LIMIT)
        assert page.process.stdout is not None
        page.process.stdout.close()
    zbus.Bus(dir=zbus_dir).close()


@pytest.fixture
def default(zbus_dir: str) -> Iterator[zbus.Bus]:
    """Open the bus that the page uses."""
    with zbus.Bus("default", dir=zbus_dir) as bus:
        yield bus


def test_the_page_has_five_blocks() -> None:
    assert LOADING == 'local events = require("events")'
    assert 'events.subscribe("orders.*")' in SUBSCRIBING
    assert SENDING.count("events.send(") == 4
    assert "ch:receive()" in CHANNEL
    assert CLOSING == "sub:close()"


def test_the_page_receives(default: zbus.Bus, zbus_dir: str, run: Run) -> None:
    page = run("subscribe", SUBSCRIBING)
    entries = Path(zbus_dir) / "v1" / "default"
    while len(list(entries.glob("*.drop"))) < 3:  # its three subscriptions
        assert page.process.poll() is None
        time.sleep(0.005)
    default.send("users", "user.deleted", "/users/1")
    default.send("orders.eu", "order.created", "/orders/1")
    default.send("payments", "payment.completed", "/payments/1", {"amount": 99.99})
    default.send("payments", "payment.failed", "/payments/2", [1, "카드", None])
    fields = {"system": "payments", "kind": "payment.completed", "path": "/payments/1"}
    assert page.hear() == {"logged": "Received event", "fields": fields}
    assert page.hear() == {"handled": "/payments/1", "data": {"amount": 99.99}}
    assert page.hear()["fields"] == {"system": "payments", "kind": "payment.failed", "path": "/payments/2"}
    assert page.hear() == {"handled": "/payments/2", "data": [1, "카드", None]}
    page.end()


def test_the_page_sends(default: zbus.Bus, run: Run) -> None:
    sub = default.subscribe("*")
    run("send", SENDING).end()
    got = [receive(sub) for _ in range(4)]
    assert [evt.system for evt in got] == ["orders", "users", "payments", "system"]
    assert [evt.kind for evt in got] == [
        "order.created",
        "user.registered",
        "payment.completed",
        "heartbeat",
    ]
    assert [evt.path for evt in got] == ["/orders/123", "/users/7", "/payments/9", "/health"]
    assert [evt.data for evt in got] == [
        {"order_id": "123", "customer_id": "456", "total": 99.99},
        {"user_id": "7", "email": "a@example.org", "created_at": "2026-11-24T12:00:00+00:00"},
        {"payment_id": "9", "order_id": "123", "amount": 99.99, "method": "card"},
        None,
    ]


def test_the_page_prints_the_fields_of_an_event(default: zbus.Bus, run: Run) -> None:
    page = run("channel", CHANNEL)
    assert page.hear() == {"ready": True}
    default.send("orders", "order.created", "/orders/123", {"total": 1})
    assert [page.hear()["printed"] for _ in range(4)] == [
        ["System:", "orders"],
        ["Kind:", "order.created"],
        ["Path:", "/orders/123"],
        ["Data:", '{"total":1}'],
    ]
    page.end()


def test_the_page_closes_a_subscription(run: Run) -> None:
    page = run("close", CLOSING)
    assert page.hear() == {"ready": True}
    assert page.hear() == {"closed": True, "same": True, "again": True}
    page.end()


def test_the_errors_of_the_page(run: Run) -> None:
    page = run("errors", "")
    told = page.hear()
    messages = ["system pattern is required", "system is required", "kind is required", "path is required"]
    assert [(error["message"], error["text"]) for error in told["errors"]] == [
        (text, text) for text in messages
    ]
    assert {error["kind"] for error in told["errors"]} == {told["invalid"]} == {"Invalid"}
    assert not any(error["retryable"] or error["result"] for error in told["errors"])
    page.end()
