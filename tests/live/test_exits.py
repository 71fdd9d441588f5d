"""However a program ends, what it sent arrives, it is gone without a timeout, and nothing of it is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zbus

from .process import receive, stop
from .quiet import quiet

LINGER = 60.0  # of these programs, which have no reason to use it
SECONDS = 20.0  # what a busy machine may take to end one

PRELUDE = """
import asyncio, signal, sys, threading, zbus
bus = zbus.Bus("default", linger=LINGER, join_timeout=LINGER)
sub = bus.subscribe("x", overflow=OVERFLOW)
for number in range(1000):
    bus.send("a", "b", "/1", number)
zbus.subscribe("y")
def ready():
    print("ready", flush=True)
"""

ENDS = {
    "end of file": "ready(); sys.stdin.readline()",
    "sys.exit": "ready(); sys.stdin.readline(); sys.exit()",
    "sys.exit in a with": "with bus, sub:\n    ready(); sys.stdin.readline(); sys.exit()",
    "close": "ready(); sys.stdin.readline(); bus.close(); zbus.close()",
    "dropped": "ready(); sys.stdin.readline(); del sub, bus",
    "a thread that receives for ever": """
threading.Thread(target=list, args=(sub,), daemon=True).start()
ready(); sys.stdin.readline()
""",
    "an exit while another bus is dropped": "other = zbus.Bus('b'); ready(); sys.stdin.readline(); del other",
    "asyncio": """
async def main():
    async with zbus.aio.Bus() as other:
        await other.subscribe("x", overflow=OVERFLOW)
        ready()
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
""",
}

INTERRUPTED = {
    "receive": "sub.channel().receive()",
    "receive with a timeout": "sub.channel().receive(timeout=60)",
    "iterate": "for _ in sub: pass",
    "select": "zbus.select(sub.channel())",
    "send": "bus.send('b', 'b', '/2'); ready()\nwhile True: bus.send('b', 'b', '/2')",
    "a with": "with bus, sub: sub.channel().receive()",
    # `asyncio.run` notices a signal that comes just before it sleeps only when it wakes: Python runs handlers
    # between instructions, and there is no wake-up descriptor. So this program wakes now and then.
    "asyncio": """
def wake():
    asyncio.get_running_loop().call_later(0.1, wake)
async def main():
    async with zbus.aio.Bus() as other:
        sub = await other.subscribe("x", overflow=OVERFLOW)
        wake()
        ready()
        async for _ in sub: pass
asyncio.run(main())
""",
}


def run(program: str, overflow: str, linger: float = LINGER) -> subprocess.Popen[str]:
    """Start a program and wait until it says that it is ready."""
    code = (PRELUDE + program).replace("OVERFLOW", repr(overflow)).replace("LINGER", str(linger))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code and what was written to stderr, if it ends in time."""
    start = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - start < SECONDS
    return process.returncode, err


def check_left(bus: zbus.Bus, sub: zbus.Subscription, directory: str) -> None:
    """Check that all events arrived and that only this test's own files are left on the roster."""
    got = [evt.data for evt in (receive(sub) for _ in range(1000))]
    assert got == list(range(1000))
    bus.close()
    assert [path.name for path in Path(directory, "v1", "default").iterdir()] == ["token"]


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends(bus: zbus.Bus, zbus_dir: str, end: str, overflow: str) -> None:
    sub = bus.subscribe("a")
    assert finish(run(ENDS[end], overflow)) == (0, "")
    check_left(bus, sub, zbus_dir)


def test_an_unhandled_exception(bus: zbus.Bus, zbus_dir: str) -> None:
    sub = bus.subscribe("a")
    code, err = finish(run("ready(); sys.stdin.readline(); 1 / 0", "drop"))
    assert code == 1
    assert err.count("Traceback") == 1
    assert err.endswith("ZeroDivisionError: division by zero\n")
    check_left(bus, sub, zbus_dir)


@pytest.mark.parametrize("handled", [True, False])
@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("where", INTERRUPTED)
def test_ctrl_c(bus: zbus.Bus, zbus_dir: str, where: str, overflow: str, handled: bool) -> None:
    sub = bus.subscribe("a")
    body = INTERRUPTED[where].strip()
    if "ready()" not in body:
        body = f"ready()\n{body}"
    if handled:
        lines = body.replace("\n", "\n    ")
        body = f"try:\n    {lines}\nexcept KeyboardInterrupt:\n    pass"
    process = run(body, overflow)
    process.send_signal(signal.SIGINT)
    code, err = finish(process)
    if handled:
        assert (code, err) == (0, "")
    else:
        assert code == -signal.SIGINT
        assert err.count("Traceback") == (2 if where == "asyncio" else 1)  # asyncio shows the cancelled task
        assert err.endswith("KeyboardInterrupt\n")
    check_left(bus, sub, zbus_dir)


@contextmanager
def with_a_full_link(end: str, linger: float) -> Iterator[subprocess.Popen[str]]:
    """Give a program that has sent more than a stopped subscriber takes, and says so before its `end`."""
    reader = run("big = bus.subscribe('big', capacity=1); ready(); list(big)", "drop")
    fill = "[slow.send('big', 'b', '/1', bytes(100_000)) for _ in range(100)]; ready()"
    join = f"slow = zbus.Bus(linger={linger}); slow.send('big', 'b', '/1'); ready(); sys.stdin.readline()"
    process = run(f"{join}\n{fill}\n{end}", "drop", linger=1.0)
    stop(reader.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    yield process
    reader.kill()
    reader.communicate()


def test_a_stopped_subscriber_holds_an_exit_by_the_linger_at_most(zbus_dir: str) -> None:
    with with_a_full_link("sys.exit()", linger=1.0) as process:
        start = time.monotonic()
        assert finish(process) == (0, "")
        assert time.monotonic() - start > 0.5
    zbus.Bus(dir=zbus_dir).close()


def test_ctrl_c_cuts_the_lingering_short(zbus_dir: str) -> None:
    with with_a_full_link("sys.exit()", linger=60) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        assert finish(process) == (0, "")
    zbus.Bus(dir=zbus_dir).close()


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("cycle", [False, True])
def test_a_bus_that_is_dropped_closes_itself(zbus_dir: str, overflow: str, cycle: bool) -> None:
    with zbus.Bus(dir=zbus_dir) as other:
        sub = other.subscribe("a")
        while not quiet():
            pass  # the housekeeping thread has yet to begin
        before = footprint(zbus_dir)
        bus = zbus.Bus(dir=zbus_dir)
        own = bus.subscribe("x", overflow=overflow)
        bus.send("x", "b", "/1")
        bus.send("a", "b", "/1", "last words")
        receive(own)
        loop = [bus, own]
        if cycle:
            loop.append(loop)  # type: ignore[arg-type]
        del bus, own, loop
        if cycle:
            gc.collect()
        assert receive(sub).data == "last words"
        deadline = time.monotonic() + SECONDS
        while grown(before, zbus_dir) and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert not grown(before, zbus_dir)


def footprint(directory: str) -> tuple[int, int, int]:
    files = list(Path(directory, "v1", "default").iterdir())
    return len(files), threading.active_count(), len(os.listdir("/proc/self/fd"))


def grown(before: tuple[int, ...], directory: str) -> bool:
    return any(now > then for now, then in zip(footprint(directory), before, strict=True))


def test_a_bus_lives_as_long_as_a_channel_of_it(zbus_dir: str) -> None:
    channel = zbus.Bus(dir=zbus_dir).subscribe("a").channel()
    gc.collect()
    with zbus.Bus(dir=zbus_dir) as other:
        other.send("a", "b", "/1")
        assert channel.receive(timeout=30)[1]
        channel.close()
        del channel
        deadline = time.monotonic() + SECONDS
        while len(list(Path(zbus_dir).glob("v1/default/*.member"))) > 1 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert len(list(Path(zbus_dir).glob("v1/default/*.member"))) == 1
