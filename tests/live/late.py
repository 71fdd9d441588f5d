"""Programs that send when their process has closed its buses: `python -m tests.live.late HOW`.

Whatever zbus does at the exit, it does before what was registered with `atexit` earlier.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import weakref
from typing import Any

HOWS: dict[str, Any] = {}
COUNT = int(os.environ.get("LATE_COUNT", "300"))
FROM = 10_000  # numbers of what is sent that late


def how(function: Any) -> Any:
    HOWS[function.__name__] = function
    return function


def send_late() -> None:
    import zbus

    for number in range(COUNT):
        zbus.send("jobs", "done", "/1", FROM + number)


def send_early() -> None:
    import zbus

    for number in range(COUNT):
        zbus.send("jobs", "done", "/1", number)


@how
def registered_before() -> None:
    atexit.register(send_late)
    send_early()


@how
def registered_after() -> None:
    """This one is in time: the bus is open as ever."""
    send_early()
    atexit.register(send_late)


@how
def first_imported_at_exit() -> None:
    atexit.register(send_late)


@how
def explicit_bus() -> None:
    def late() -> None:
        import zbus

        bus = zbus.Bus()
        for number in range(COUNT):
            bus.send("jobs", "done", "/1", FROM + number)

    atexit.register(late)
    send_early()


@how
def closed_bus() -> None:
    def late() -> None:
        import zbus

        with zbus.Bus() as bus:
            for number in range(COUNT):
                bus.send("jobs", "done", "/1", FROM + number)
        zbus.close()

    atexit.register(late)
    send_early()


@how
def with_asyncio() -> None:
    import asyncio

    def late() -> None:
        import zbus

        async def main() -> None:
            for number in range(COUNT):
                await zbus.aio.send("jobs", "done", "/1", FROM + number)

        asyncio.run(main())

    atexit.register(late)
    send_early()


@how
def logging_shutdown() -> None:
    import zbus

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pass

        def close(self) -> None:
            for number in range(COUNT):
                zbus.send("jobs", "done", "/1", FROM + number)
            super().close()

    logging.getLogger("app").addHandler(Handler())
    atexit.unregister(logging.shutdown)  # and now as if logging had been imported first
    callbacks = [zbus.runtime.lifecycle._end]
    for callback in callbacks:
        atexit.unregister(callback)
    atexit.register(logging.shutdown)
    for callback in callbacks:
        atexit.register(callback)
    send_early()


class Thing:
    pass


@how
def finalizer() -> None:
    thing = Thing()
    globals()["_kept"] = thing
    weakref.finalize(thing, send_late)
    send_early()


class Last:
    def __init__(self, zbus: Any) -> None:
        self.zbus = zbus
        self.count, self.first = COUNT, FROM

    def __del__(self) -> None:
        for number in range(self.count):
            self.zbus.send("jobs", "done", "/1", self.first + number)


@how
def module_teardown() -> None:
    import zbus

    globals()["_last"] = Last(zbus)
    send_early()


@how
def module_teardown_with_a_cycle() -> None:
    import zbus

    last = Last(zbus)
    last.self = last  # type: ignore[attr-defined]
    send_early()


@how
def subscribes() -> None:
    def late() -> None:
        import zbus

        try:
            zbus.subscribe("jobs")
        except zbus.Canceled as error:
            zbus.send("jobs", "done", "/1", error.message)

    atexit.register(late)
    import zbus

    zbus.send("jobs", "done", "/1", 0)


if __name__ == "__main__":
    HOWS[sys.argv[1]]()
