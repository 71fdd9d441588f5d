"""`flush`: when it returns, every subscriber's process has what was sent, however this one ends then."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus import aio

from .ending import HARD_ENDS
from .process import Spawn

ROOT = Path(__file__).parents[2]
COUNT = 3_000


def end(*arguments: object) -> int:
    """Run a program of `ending.py` to its end; return its exit code."""
    command = [sys.executable, "-W", "error", "-m", "tests.live.ending", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode


def numbers(sub: zbus.Subscription, pause: float = 0.0) -> list[Any]:
    """Return the data of `COUNT` events, read slowly, or of as many as come."""
    found: list[Any] = []
    try:
        while len(found) < COUNT:
            evt, _ = sub.channel().receive(timeout=15)
            assert evt is not None
            found.append(evt.data)
            time.sleep(pause)
    except zbus.Timeout:  # the caller will see what is missing
        pass
    return found


@pytest.mark.parametrize("how", HARD_ENDS)
@pytest.mark.parametrize("twin", ["threads", "asyncio"])
@pytest.mark.parametrize("overflow", ["drop", "block"])
def test_what_was_flushed_arrives_however_its_sender_ends(
    bus: zbus.Bus, zbus_dir: str, twin: str, overflow: str, how: str
) -> None:
    sub = bus.subscribe("jobs", overflow=overflow, capacity=COUNT if overflow == "drop" else 10)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(numbers(sub, 0.0005)))
    reader.start()
    code = end("flushed", twin, COUNT, how)
    reader.join()
    assert code == {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "os._exit": 0}[how]
    assert (got, sub.lost) == (list(range(COUNT)), 0)
    bus.close()
    zbus.Bus(dir=zbus_dir).close()  # clears away what the killed one left


@pytest.mark.parametrize("twin", ["threads", "asyncio"])
def test_the_default_bus_is_flushed_too(bus: zbus.Bus, zbus_dir: str, twin: str) -> None:
    sub = bus.subscribe("jobs")
    assert end("flushed", twin, COUNT, "SIGKILL", "module level") == -signal.SIGKILL
    assert numbers(sub) == list(range(COUNT))
    zbus.Bus(dir=zbus_dir).close()


@pytest.fixture(params=["threads", "asyncio"])
def flush(request: pytest.FixtureRequest, zbus_dir: str) -> Iterator[Any]:
    """Give a sender, and its flush, of each twin."""
    if request.param == "threads":
        with zbus.Bus(dir=zbus_dir, linger=0) as bus:
            yield bus.send, bus.flush
        return
    with asyncio.Runner() as runner:
        other = aio.Bus(dir=zbus_dir, linger=0)
        yield (
            lambda *args: runner.run(other.send(*args)),
            lambda *args: runner.run(other.flush(*args)),
        )
        runner.run(other.close())


def test_a_stopped_peer_makes_it_time_out_until_it_goes_on(flush: Any, spawn: Spawn) -> None:
    send, wait = flush
    reader = spawn("reader", "big", "drop").ready()
    send("big", "k", "/1", 1)
    wait(10)
    reader.signal(signal.SIGSTOP)
    for _ in range(100):
        send("big", "k", "/1", bytes(100_000))
    for timeout in (0, 0.2):
        start, cpu = time.monotonic(), time.process_time()
        with pytest.raises(zbus.Timeout, match="has not taken what was sent within") as caught:
            wait(timeout)
        assert caught.value.retryable
        assert time.monotonic() - start < timeout + 1
        assert time.process_time() - cpu < 0.1  # it sleeps
    reader.signal(signal.SIGCONT)
    wait(30)


def test_a_full_block_subscriber_holds_it(flush: Any) -> None:
    send, wait = flush
    with zbus.Bus() as bus:
        sub = bus.subscribe("jobs", overflow="block", capacity=10)
        for number in range(500):
            send("jobs", "done", "/1", [number, "x" * 1000])
        with pytest.raises(zbus.Timeout):
            wait(0.1)
        taken = threading.Thread(target=lambda: [evt for _, evt in zip(range(500), sub, strict=False)])
        taken.start()
        wait(30)
        taken.join()


def test_with_nobody_there_and_on_a_bus_that_never_sent_it_returns_at_once(flush: Any) -> None:
    send, wait = flush
    wait(0)
    send("jobs", "done", "/1")
    wait(5)
    zbus.flush(0)


def test_a_closed_bus_refuses_and_odd_time_outs_too(zbus_dir: str) -> None:
    bus = zbus.Bus(dir=zbus_dir)
    with pytest.raises(zbus.Invalid):
        bus.flush(-1)
    with pytest.raises(TypeError):
        bus.flush("1")  # type: ignore[arg-type]
    bus.close()
    with pytest.raises(zbus.Canceled):
        bus.flush()


def test_a_signal_handler_may_flush_amid_a_send(bus: zbus.Bus, spawn: Spawn) -> None:
    spawn("reader", "jobs", "drop").ready()
    flushed = []

    def handle(*_: object) -> None:
        bus.flush(10)
        flushed.append(True)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        deadline = time.monotonic() + 30
        while len(flushed) < 20 and time.monotonic() < deadline:
            bus.send("jobs", "done", "/1", 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(flushed) >= 20
