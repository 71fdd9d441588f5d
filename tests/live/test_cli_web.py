"""`zbus web` as seen by what asks it: who is answered, what is told, and that it never sends."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import zbus

from .cli import ended, run, run_without
from .pages import Page, serving
from .process import LIMIT

pytestmark = pytest.mark.usefixtures("zbus_dir")


@pytest.fixture
def page(zbus_dir: str) -> Iterator[Page]:
    with serving() as page:
        yield page


@pytest.fixture(scope="module")
def shared(interruptible: None) -> Iterator[Page]:
    """Serve a page of a bus of its own, to tests that only ask it."""
    with TemporaryDirectory(prefix="zb-") as directory, serving(ZBUS_DIR=directory) as page:
        yield page


def awaited(messages: Iterator[dict[str, Any]], holds: Callable[[list[Any]], bool]) -> list[Any]:
    """Return the first row of a topic for which something holds."""
    for message in messages:
        for row in message["topics"]:
            if holds(row):
                return [*row]
    raise AssertionError("the server has ended")


# what is told


def test_events_are_told_with_their_values_rates_and_ends(page: Page, bus: zbus.Bus) -> None:
    with page.events() as messages:
        first = next(messages)
        assert (first["about"]["bus"], first["about"]["pid"]) == ("default", page.process.pid)
        assert page.process.pid in [member["pid"] for member in first["bus"]["members"]]
        bus.send("shop.eu", "sold", "/1", {"é": "<b>"})
        row = awaited(messages, lambda row: row[1:3] == ["shop.eu", "sold"])
        assert row[8:11] == ["/1", '{"é":"<b>"}', True]
        row = awaited(messages, lambda row: row[12] == 1)  # its publisher is on the roster
        assert row[13] == 1  # and the page selects it
        row = awaited(messages, lambda row: row[5] == 0.0)
        assert row[3] == 1


def test_one_topic_can_be_asked_for(page: Page, bus: zbus.Bus) -> None:
    with page.events() as messages:
        bus.send("shop", "sold", "/1", "x" * 1_000)
        row = awaited(messages, lambda row: row[12] == 1)
    assert row[10] is False  # only the beginning
    answer = page.ask(f"/topics/{row[0]}?{page.query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert f'"value":"\\"{"x" * 1_000}\\""' in answer.text
    [me] = [peer.id for peer in zbus.peers() if peer.role == "member" and peer.pid != page.process.pid]
    assert f'"publishers":["{me}"]' in answer.text
    assert page.ask(f"/topics/999?{page.query}").status == 404


def test_the_graph_leaves_out_the_page(page: Page, bus: zbus.Bus) -> None:
    with bus.subscribe("shop"), page.events() as messages:
        bus.send("shop", "sold", "/1")
        awaited(messages, lambda row: row[12:14] == [1, 2])
        found = json.loads(page.ask(f"/graph?{page.query}").text)
    [(me, member)] = found["members"].items()
    assert member["note"] == f"pid {os.getpid()}"
    [topic] = found["topics"]
    assert (topic["name"], topic["publishers"], topic["subscribers"]) == ("shop sold", [me], [me])


def test_browsers_share_one_subscription(page: Page, bus: zbus.Bus) -> None:
    with page.events() as first, page.events() as second, page.events() as third:
        bus.send("shop", "sold", "/1")
        for messages in (first, second, third):
            awaited(messages, lambda row: row[1] == "shop")
        subscribers = [peer for peer in zbus.peers() if peer.role == "subscriber"]
    assert [(peer.pid, peer.patterns) for peer in subscribers] == [(page.process.pid, [("*", "*")])]


def test_a_pattern_selects_what_is_shown(bus: zbus.Bus) -> None:
    with serving("a.**", "k") as page, page.events() as messages:
        for system, kind in (("b", "k"), ("a.b", "j"), ("a.b", "k")):
            bus.send(system, kind, "/1")
        awaited(messages, lambda row: row[12] == 1)
        told = page.ask(f"/topics/1?{page.query}")
        assert told.status == 200
        assert page.ask(f"/topics/2?{page.query}").status == 404


def test_what_the_page_missed_is_told(page: Page, bus: zbus.Bus) -> None:
    """It never holds a publisher back, not even if it stands still."""
    with page.events() as messages:
        bus.send("a", "k", "/1")
        awaited(messages, lambda row: row[1] == "a")
        page.process.send_signal(signal.SIGSTOP)
        for number in range(200_000):
            bus.send("a", "k", "/1", number, timeout=LIMIT)
        page.process.send_signal(signal.SIGCONT)
        bus.send("a", "k", "/1")
        row = awaited(messages, lambda row: row[4] > 0 and row[3] + row[4] == 200_002)
        assert next(message["bus"]["missed"] for message in messages if "bus" in message) == row[4]


def test_a_browser_that_does_not_read_holds_up_nobody(page: Page, bus: zbus.Bus) -> None:
    lazy = socket.create_connection(("127.0.0.1", page.port), timeout=LIMIT)
    with lazy, page.events() as messages:
        lazy.sendall(f"GET /events?{page.query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for number in range(20):
            for topic in range(50):
                bus.send(f"t{topic}", "k", "/1", f"{number} {'x' * 200}")
            awaited(messages, lambda row, number=number: row[9].startswith(f'"{number} '))
        page.process.send_signal(signal.SIGTERM)
        assert page.process.wait(LIMIT) == 143


def test_it_never_sends(page: Page) -> None:
    for path in ("/", "/static/page.js", "/topics/1", "/nothing"):
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
            page.ask(f"{path}?{page.query}", method)
    with page.events() as messages:
        for _ in range(2):  # it has published its numbers since
            told = next(message["bus"] for message in messages if "bus" in message)
    [member] = told["members"]
    assert (member["out"] or 0, member["out_bytes"] or 0) == (0, 0)
    [me] = [peer for peer in zbus.peers() if peer.role == "member"]
    assert me.counters.get("sent", 0) == 0


# who is answered


def test_every_path_but_the_static_files_needs_the_token(shared: Page) -> None:
    token = shared.query.removeprefix("token=")
    assert len(token) > 20
    for path in (
        "/",
        "/events",
        "/topics/1",
        "/nothing",
        "/?token=",
        "/?token=x",
        f"/?token={token}x",
        f"/?t={token}",
    ):
        answer = shared.ask(path)
        assert (answer.status, "lacks the token" in answer.text) == (403, True)
    assert shared.ask("/static/page.js").status == 200
    assert shared.ask(f"/?{shared.query}").status == 200


def test_each_start_has_another_token() -> None:
    with serving() as first, serving() as second:
        assert first.query != second.query
        assert first.ask(f"/?{second.query}").status == 403


def test_without_a_token_everybody_on_this_machine_is_served() -> None:
    with serving("--no-token") as page:
        assert page.query == ""
        assert page.ask("/").status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:1234", "LOCALHOST"])
def test_the_names_of_this_machine_are_answered(shared: Page, host: str) -> None:
    assert shared.ask(f"/?{shared.query}", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a@b"]
)
def test_no_other_name_is_answered(shared: Page, host: str) -> None:
    """A page of another site may have its own name resolve to this machine."""
    for path in ("/", "/static/page.js", "/events"):
        answer = shared.ask(f"{path}?{shared.query}", Host=host)
        assert answer.status in (400, 403)
        assert "zbus</title>" not in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:1"])
def test_pages_of_other_sites_are_not_answered(shared: Page, origin: str) -> None:
    answer = shared.ask(f"/events?{shared.query}", Host=f"localhost:{shared.port}", Origin=origin)
    assert (answer.status, answer.text) == (403, "pages of other sites are not answered\n")


def test_the_page_itself_is(shared: Page) -> None:
    host = f"localhost:{shared.port}"
    assert shared.ask(f"/topics/1?{shared.query}", Host=host, Origin=f"http://{host}").status == 404


def test_only_this_machine_can_connect(shared: Page) -> None:
    with socket.socket() as other:
        other.settimeout(LIMIT)
        # Another address of this machine, as one of its network would be.
        assert other.connect_ex(("127.0.0.2", shared.port)) != 0


def test_every_answer_forbids_what_the_page_does_not_need(shared: Page) -> None:
    for path in (f"/?{shared.query}", "/static/page.js", "/", f"/topics/9?{shared.query}"):
        headers = shared.ask(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "http" not in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e%2fserver.py", "/static//etc/passwd", "/static/"]
)
def test_no_other_file_is_served(shared: Page, path: str) -> None:
    assert shared.ask(f"{path}?{shared.query}").status == 404


# its beginning and its end


def test_a_port_in_use_is_one_line(page: Page) -> None:
    failed = run("web", "--port", str(page.port))
    message = f"zbus: port {page.port} of 127.0.0.1 is in use: give another --port, 0 for any\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", message, 1)


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_there_is_a_hint(missing: str) -> None:
    failed = run_without(missing, "web")
    hint = "zbus: this command needs starlette and uvicorn, the extra `web`: pip install starlette uvicorn\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)


def test_a_malformed_pattern_is_one_line() -> None:
    failed = run("web", "ord*", "--port", "0")
    assert (failed.stdout, failed.returncode) == ("", 1)
    assert failed.stderr.startswith("zbus: 'ord*' is not a system pattern: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(number: signal.Signals) -> None:
    with serving() as page, page.events() as messages:
        next(messages)
        page.process.send_signal(number)
        assert all(message["topics"] == [] for message in messages)  # until the response has its proper end
        assert ended(page.process) == ("", "", 128 + number)
    assert [*zbus.peers()] == []
    with pytest.raises(ConnectionRefusedError):
        page.ask("/")


def test_the_roster_may_be_gone_for_a_while(page: Page) -> None:
    """What cannot be looked at is told, and does not end it."""
    where = zbus.peers().path
    with page.events() as messages:
        next(messages)
        away = where.with_name("away")
        where.rename(away)
        try:
            told = next(
                m["bus"] for m in messages if "bus" in m and (m["bus"]["trouble"] or not m["bus"]["members"])
            )
        finally:
            away.rename(where)
        assert told["members"] == [] or told["trouble"]
        assert next(m for m in messages if "bus" in m and m["bus"]["members"])["bus"]["trouble"] == ""
