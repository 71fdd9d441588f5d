"""Programs that end in one way or another: `python -m tests.live.ending WHAT ARGUMENTS...`.

A module of its own, since most of them are to end without anything of a test around them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
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


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
