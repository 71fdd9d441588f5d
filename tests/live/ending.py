"""Programs that end in one way or another: `python -m tests.live.ending WHAT ARGUMENTS...`.

A module of its own, since most of them are to end without anything of a test around them.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zbus
from zbus import aio

__all__ = ["HARD_ENDS"]

HARD_ENDS: dict[str, Callable[[], Any]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "os._exit": lambda: os._exit(0),
}


def say(text: str) -> None:
    print(text, flush=True)


def flushed(twin: str, count: str, how: str, *module_level: str) -> None:
    """Send, flush, and end the hard way."""
    if twin == "threads":
        bus: Any = zbus if module_level else zbus.Bus()
        for number in range(int(count)):
            bus.send("jobs", "done", "/1", number, timeout=None)
        bus.flush(30)
        HARD_ENDS[how]()

    async def main() -> None:
        bus: Any = aio if module_level else aio.Bus()
        for number in range(int(count)):
            await bus.send("jobs", "done", "/1", number, timeout=None)
        await bus.flush(30)
        HARD_ENDS[how]()

    asyncio.run(main())


def sends_when_told(count: str, size: str, linger: str = "20") -> None:
    """Send with a slow subscriber on the other side, and end in order."""
    bus = zbus.Bus(linger=float(linger))
    for number in range(int(count)):
        bus.send("jobs", "done", "/1", [number, "x" * int(size)], timeout=None)
    bus.close()


def send_one(number: int, size: int = 0) -> int:
    """Be a child that sends one event, on a bus that it opens."""
    zbus.send("jobs", "done", f"/{number}", [number, "x" * size])
    return number


def forked(count: str, size: str, how: str) -> None:
    """Have children that end the hard way after one event each."""
    for number in range(int(count)):
        if not os.fork():
            send_one(number, int(size))
            HARD_ENDS[how]()
        os.wait()


def at_once(count: str, size: str, how: str) -> None:
    """The same, with all children at a time."""
    for number in range(int(count)):
        if not os.fork():
            send_one(number, int(size))
            HARD_ENDS[how]()
    for _ in range(int(count)):
        os.wait()


def processes(module: str, method: str, count: str, size: str) -> None:
    """Have child processes of a module that has the form of multiprocessing."""
    context = importlib.import_module(module).get_context(method)
    children = [context.Process(target=send_one, args=(number, int(size))) for number in range(int(count))]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def pool(module: str, method: str, count: str, size: str) -> None:
    """Have a pool whose workers do one job each."""
    workers = importlib.import_module(module).get_context(method).Pool(4, maxtasksperchild=1)
    jobs = [workers.apply_async(send_one, (number, int(size))) for number in range(int(count))]
    assert [job.get(60) for job in jobs] == list(range(int(count)))
    workers.close()
    workers.join()


def executed() -> None:
    """Send, then become another program."""
    for number in range(1_000):
        zbus.send("jobs", "done", "/1", [number, ""])
    try:
        os.execv("/nowhere", ["nowhere"])
    except FileNotFoundError:
        zbus.send("jobs", "done", "/1", [1_000, ""])
    os.execv("/bin/true", ["true"])


def exits_amid_sends() -> None:
    """End the hard way while a thread sends at full speed, after some events of this one."""

    def send() -> None:
        while True:
            zbus.send("noise", "k", "/1", "x" * 100)

    zbus.send("jobs", "done", "/1", [0, ""])
    threading.Thread(target=send, daemon=True).start()
    for number in range(1, 1_000):
        zbus.send("jobs", "done", "/1", [number, ""])
    start = time.monotonic()
    real = os._exit.__wrapped__  # type: ignore[attr-defined]

    def ends_in_time(code: int) -> None:
        real(code if time.monotonic() < start + 0.9 else 3)

    os._exit.__closure__[0].cell_contents = ends_in_time  # type: ignore[union-attr]
    os._exit(0)


def held(how: str, count: str) -> None:
    """End while events are held."""
    bus = zbus.Bus(coalesce=3600)

    def end_orderly(*_: object) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end_orderly)
    for number in range(int(count)):
        bus.send("jobs", "done", "/1", number)
    ends: dict[str, Callable[[], object]] = {
        "close": bus.close,
        "the end of the program": lambda: None,
        "an error": lambda: 1 // 0,
        "os._exit": lambda: os._exit(0),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "a handler of SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "SIGKILL after a flush": lambda: (bus.flush(30), os.kill(os.getpid(), signal.SIGKILL)),
    }
    ends[how]()


async def _held(count: int) -> None:
    async with aio.Bus(coalesce=3600) as bus:
        for number in range(count):
            await bus.send("jobs", "done", "/1", number)


def held_by_the_twin(count: str) -> None:
    """The same on an event loop."""
    asyncio.run(_held(int(count)))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
