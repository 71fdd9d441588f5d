"""The pytest plugin: users test their handling of gaps, delays, denials and dead peers with it."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest

import zbus
from zbus import aio
from zbus.testing import Capture, Faults

from .process import LIMIT, directory, receive
from .quiet import fill
from .raw import RawSubscriber

HELD = 60.0  # seconds: what is held goes for another reason
Opening = Callable[..., AbstractContextManager[Callable[[int], None]]]


@contextmanager
def blocking(**options: Any) -> Iterator[Callable[[int], None]]:
    """Open a bus; yield what sends a number on it."""
    with zbus.Bus(send_timeout=0.2, **options) as bus:
        yield lambda number: bus.send("a", "b", "/1", number)


@contextmanager
def awaited(**options: Any) -> Iterator[Callable[[int], None]]:
    """The same with the asyncio twin."""
    with asyncio.Runner() as runner:

        async def opened() -> aio.Bus:
            return aio.Bus(send_timeout=0.2, **options)

        bus = runner.run(opened())
        yield lambda number: runner.run(bus.send("a", "b", "/1", number))
        runner.run(bus.close())


def test_the_private_bus_is_the_default_bus(zbus_bus: zbus.Bus, zbus_dir: str) -> None:
    assert os.environ["ZBUS_DIR"] == zbus_dir
    sub = zbus_bus.subscribe("a")
    zbus.send("a", "b", "/1")
    assert receive(sub).path == "/1"
    assert [peer.pid for peer in zbus.peers() if peer.role == "member"] == [os.getpid()]


def test_capture_has_what_this_process_sent_at_once(
    zbus_bus: zbus.Bus, zbus_capture: Capture, zbus_dir: str
) -> None:
    assert zbus_capture == []
    for number in range(1_000):
        zbus.send("a", "b", "/1", number)
        assert len(zbus_capture) == number + 1
    assert [sent.data for sent in zbus_capture] == list(range(1_000))
    zbus_capture.clear()
    with zbus.Bus(dir=zbus_dir) as other:
        other.send_many("orders.eu", "order.created", [("/1", {"total": 9.5}), ("/2", None)])
        assert zbus_capture == [
            ("orders.eu", "order.created", "/1", {"total": 9.5}),
            ("orders.eu", "order.created", "/2", None),
        ]
    assert zbus_capture[-1].path == "/2"
    assert [sent.path for sent in zbus_capture[:1]] == ["/1"]
    assert [evt.seq for evt in zbus_capture.events] == [1, 2]
    assert zbus_capture != []
    assert "order.created" in repr(zbus_capture)


def test_capture_leaves_out_what_was_sent_before(zbus_bus: zbus.Bus, request: pytest.FixtureRequest) -> None:
    zbus.send("a", "b", "/before")
    capture = request.getfixturevalue("zbus_capture")
    assert capture == []
    zbus.send("a", "b", "/after")
    assert [sent.path for sent in capture] == ["/after"]


def test_capture_waits_for_other_processes(zbus_capture: Capture) -> None:
    program = "import zbus; zbus.send('a', 'b', '/1'); zbus.send('a', 'b', '/2')"
    process = subprocess.Popen([sys.executable, "-c", program])
    assert [sent.path for sent in zbus_capture.wait(2, timeout=30)] == ["/1", "/2"]
    assert process.wait(10) == 0
    with pytest.raises(AssertionError, match=r"3 events were expected within 0\.1 s, not \[Sent\(system='a'"):
        zbus_capture.wait(3, timeout=0.1)


def test_dropped_events_are_lost_on_their_way(
    zbus_bus: zbus.Bus, zbus_faults: Faults, zbus_capture: Capture
) -> None:
    told: list[zbus.Gap] = []
    sub = zbus_bus.subscribe("orders.**", on_gap=told.append)
    others = zbus_bus.subscribe("users", overflow="block")
    zbus_faults.drop("orders.**", count=2)
    zbus_bus.send("users", "user.created", "/1")
    for number in range(3):
        zbus_bus.send("orders.eu", "order.created", f"/{number}")
    assert [sent.path for sent in zbus_capture] == ["/1", "/2"]
    assert receive(others).path == "/1"
    assert receive(sub).path == "/2"
    zbus_faults.drop(count=1)
    zbus_bus.send_many("orders.eu", "order.created", [("/3", None), ("/4", None)])
    assert len(zbus_capture) == 2  # nothing has followed yet, and that is no reason to wait
    zbus_bus.send("orders.eu", "order.created", "/5")
    assert len(zbus_capture) == 3
    assert receive(sub).path == "/5"
    assert [(gap.kind, gap.first, gap.last) for gap in told] == [
        ("order.created", 1, 2),
        ("order.created", 4, 5),
    ]
    assert (sub.lost, others.lost) == (4, 0)


def test_a_drop_that_nothing_follows_is_told_too(zbus_bus: zbus.Bus, zbus_faults: Faults) -> None:
    told: queue.SimpleQueue[zbus.Gap] = queue.SimpleQueue()
    sub = zbus_bus.subscribe("orders", on_gap=told.put)
    reader = threading.Thread(target=lambda: [*sub])
    reader.start()
    zbus_faults.drop("orders")
    zbus_bus.send("orders", "order.created", "/1")
    gap = told.get(timeout=LIMIT)
    assert (gap.first, gap.last) == (1, 1)
    sub.close()
    reader.join(LIMIT)


TWINS = pytest.mark.parametrize("twin", [blocking, awaited])


@TWINS
def test_capture_has_what_a_bus_that_coalesces_sent(zbus_capture: Capture, twin: Opening) -> None:
    with twin(coalesce=HELD) as send:
        for number in range(10):
            send(number)
            if number > 5:
                assert [sent.data for sent in zbus_capture] == [*range(number + 1)]
        assert [evt.seq for evt in zbus_capture.events] == [*range(1, 11)]
        send(10)
    assert [sent.data for sent in zbus_capture] == [*range(11)]


@TWINS
def test_capture_waits_for_what_a_joiner_holds_up(
    zbus_dir: str, zbus_capture: Capture, twin: Opening
) -> None:
    found: list[int] = []
    looker = threading.Thread(target=lambda: found.append(len(zbus_capture)))
    with twin(coalesce=HELD, join_timeout=LIMIT) as send, closing(RawSubscriber(zbus_dir, b"a\0")) as joiner:
        for number in range(10):
            send(number)
        joiner.announce(1)
        looker.start()
        looker.join(0.2)
        joiner.show(1)
        looker.join(LIMIT)
        assert found == [10]


@TWINS
def test_faults_leave_buses_that_coalesce_alone(
    zbus_bus: zbus.Bus, zbus_faults: Faults, zbus_capture: Capture, twin: Opening
) -> None:
    sub = zbus_bus.subscribe("a")
    zbus_faults.drop("a")
    with twin(coalesce=HELD) as send:
        for number in range(10):
            send(number)
        zbus_bus.send("a", "b", "/1", "dropped")
        send(10)
        zbus_faults.deny("a")
        send(11)
        with pytest.raises(zbus.Invalid):
            zbus_bus.send("a", "b", "/1")
        assert [sent.data for sent in zbus_capture] == [*range(12)]
    assert [receive(sub).data for _ in range(12)] == [*range(12)]


@TWINS
def test_a_bus_that_coalesces_meets_a_subscriber_that_is_full_and_then_killed(
    zbus_faults: Faults, zbus_capture: Capture, twin: Opening
) -> None:
    other = zbus_faults.subscriber("a", overflow="block", capacity=10, reads=False)
    with twin(coalesce=HELD, capacity=10) as send:
        count = fill(send, other.pid)
        with pytest.raises(zbus.Timeout, match=f"process {other.pid}"):
            while True:  # on a busy machine, a little room may have appeared since
                send(count + 1)
                count += 1
        other.kill()
        for number in range(count + 1, count + 301):
            send(number)
        assert [sent.data for sent in zbus_capture] == [*range(1, count + 301)]


def test_delayed_events_come_late_and_in_order(zbus_bus: zbus.Bus, zbus_faults: Faults) -> None:
    sub = zbus_bus.subscribe("*")
    zbus_faults.delay(2, "a")
    start = time.monotonic()
    for number in range(3):
        zbus_bus.send("a", "b", "/1", number)
    zbus_bus.send("b", "b", "/1", 3)
    assert time.monotonic() - start < 2
    with pytest.raises(zbus.Timeout):
        sub.channel().receive(timeout=0.01)
    assert [receive(sub).data for _ in range(4)] == [0, 1, 2, 3]
    assert time.monotonic() - start >= 2
    zbus_faults.clear()
    zbus_bus.send("a", "b", "/1", 4)
    assert receive(sub, timeout=1.9).data == 4


def test_what_is_late_at_the_end_of_a_test_is_sent_then(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time

        def test_it(zbus_bus, zbus_faults):
            zbus_faults.delay(3600)
            zbus_bus.send("a", "b", "/1")
        """
    )
    start = time.monotonic()
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert time.monotonic() - start < 30


def test_denied_calls_raise_as_a_policy_would_have_them(zbus_bus: zbus.Bus, zbus_faults: Faults) -> None:
    zbus_bus.send("orders", "order.created", "/1")  # the verdict of a policy would be kept from here on
    zbus_faults.deny("orders.**", "events.send")
    sub = zbus_bus.subscribe("*")
    with pytest.raises(zbus.Invalid, match="not allowed to send events to system: orders") as caught:
        zbus.send("orders", "order.created", "/1")
    assert caught.value.details == {"action": "events.send", "resource": "orders"}
    with pytest.raises(zbus.Invalid, match="not allowed"):
        zbus_bus.send_many("orders.eu", "order.created", [("/1", None)])
    zbus_bus.subscribe("orders")
    zbus_faults.deny("users")
    with pytest.raises(zbus.Invalid, match="not allowed to subscribe to events from system: users"):
        zbus_bus.subscribe("users", "user.created")
    zbus_faults.clear()
    zbus_bus.send("orders", "order.created", "/2")
    assert receive(sub).path == "/2"
    zbus_bus.subscribe("users")


@pytest.mark.parametrize("fault", [None, "drop", "delay"])
def test_bad_input_is_refused_with_or_without_faults(
    zbus_bus: zbus.Bus, zbus_faults: Faults, zbus_capture: Capture, fault: str | None
) -> None:
    if fault == "drop":
        zbus_faults.drop()
    elif fault == "delay":
        zbus_faults.delay(0.1)
    calls: list[tuple[Any, ...]] = [
        ("", "b", "/1"),
        ("a", "*", "/1"),
        ("a", "b", ""),
        ("a", "b", "/1", {1, 2}),
    ]
    for call in calls:
        with pytest.raises(zbus.Invalid):
            zbus_bus.send(*call)
    with pytest.raises(zbus.Invalid):
        zbus_bus.send_many("a", "b", [("", None)])
    with pytest.raises(zbus.Invalid):
        zbus_bus.subscribe("a*")
    assert zbus_capture == []


def test_another_process_that_reads_nothing_fills_up(zbus_bus: zbus.Bus, zbus_faults: Faults) -> None:
    other = zbus_faults.subscriber("a", overflow="block", capacity=10, reads=False)
    assert other.pid in {peer.pid for peer in zbus.peers()}
    fill(lambda number: zbus_bus.send("a", "b", "/1", number, timeout=0.1), other.pid)
    with pytest.raises(zbus.Timeout, match="made no room"):
        zbus_bus.send("a", "b", "/1", timeout=0.1)
    other.kill()
    for _ in range(5_000):
        zbus_bus.send("a", "b", "/1", timeout=5)
    other.kill()


def test_another_process_may_be_stopped_and_killed(zbus_bus: zbus.Bus, zbus_faults: Faults) -> None:
    stopped = zbus_faults.subscriber("a")
    stopped.stop()
    with zbus.Bus(dir=directory(zbus_bus).parents[1], join_timeout=0.2) as late:
        start = time.monotonic()
        late.send("a", "b", "/1")
        assert time.monotonic() - start >= 0.2
    stopped.resume()
    killed = zbus_faults.subscriber("a")
    zbus_faults.kill(killed.pid)


CASES = {
    "a bus": "zbus.kept = zbus.Bus()",
    "a subscription of another bus": "zbus.kept = zbus.Bus().subscribe('a')",
    "nothing": "zbus.Bus().subscribe('a')",
    "subscriptions of the private bus": "zbus.kept = zbus_bus.subscribe('a')",
    "a subscriber in another process": """
zbus.kept = subprocess.Popen(
    [sys.executable, "-c", "import zbus; s = zbus.subscribe('a'); print(flush=True); s.channel().receive()"],
    stdout=subprocess.PIPE,
)
zbus.kept.stdout.readline()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_test_that_leaves_something_open_fails(pytester: pytest.Pytester, case: str) -> None:
    body = CASES[case].strip().replace("\n", "\n    ")
    pytester.makepyfile(f"import subprocess, sys, zbus\ndef test_it(zbus_bus):\n    {body}\n")
    pytester.makeconftest("import zbus\ndef pytest_unconfigure():\n    getattr(zbus, 'kept').kill()\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    if case in ("nothing", "subscriptions of the private bus"):
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(passed=1, errors=1)
        words = "somebody is still on a bus" if "process" in case else "should close, or drop, what it opened"
        result.stdout.fnmatch_lines([f"*{words}*"])
