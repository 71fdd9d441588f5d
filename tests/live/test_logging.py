"""`zbus.logging.Handler`: what is logged arrives as events, and whoever logs never notices."""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import zbus
import zbus.logging
from zbus import aio

from .process import receive

LIMIT = 60.0
NAMES = {"message", "level", "logger", "time", "process", "thread", "file", "line"}

# The machine may be busy.
pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zbus.logging._FIRST_SECONDS", LIMIT)


Attach = Callable[..., zbus.logging.Handler]


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("app.db")


@pytest.fixture
def attach(log: logging.Logger) -> Iterator[Attach]:
    """Attach a handler to the root, as programs do."""
    root, made = logging.getLogger(), []
    level = root.level

    def attach(*arguments: Any, **options: Any) -> zbus.logging.Handler:
        handler = zbus.logging.Handler(*arguments, **options)
        root.addHandler(handler)
        made.append(handler)
        return handler

    root.setLevel(logging.DEBUG)
    yield attach
    root.setLevel(level)
    for handler in made:
        root.removeHandler(handler)
        handler.close()


def test_a_record_is_an_event(bus: zbus.Bus, attach: Attach, log: logging.Logger) -> None:
    handler, sub = attach(), bus.subscribe("logs", "(warning|error)")
    log.info("not asked for")
    before = time.time()
    log.warning("%d rows", 3, extra={"rows": [1, None], "who": object, "raw": b"\0", "bad": float("inf")})
    evt = receive(sub)
    assert (evt.system, evt.kind, evt.path) == ("logs", "warning", "app.db")
    assert set(evt.data) == NAMES | {"extra"}
    assert before - 1 < evt.data["time"] < time.time() + 1
    assert {name: evt.data[name] for name in ("message", "level", "logger", "process", "thread", "file")} == {
        "message": "3 rows",
        "level": "WARNING",
        "logger": "app.db",
        "process": os.getpid(),
        "thread": threading.current_thread().name,
        "file": __file__,
    }
    assert evt.data["extra"] == {
        "rows": [1, None],
        "who": "<class 'object'>",
        "raw": r"b'\x00'",
        "bad": "inf",
    }
    try:
        raise KeyError("x")
    except KeyError:
        log.error("failed", exc_info=True, stack_info=True)
    evt = receive(sub)
    assert set(evt.data) == NAMES | {"exception", "stack"}
    assert evt.data["exception"].endswith("KeyError: 'x'")
    assert "test_a_record_is_an_event" in evt.data["stack"]
    assert handler.dropped == 0


def test_a_formatter_and_filters_are_respected(bus: zbus.Bus, attach: Attach, log: logging.Logger) -> None:
    handler, sub = attach(system="logs.web", level="WARNING"), bus.subscribe("logs.*")
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    log.info("too low")
    log.warning("a secret")
    log.warning("hello")
    data = receive(sub).data
    assert (data["message"], data["text"]) == ("hello", "WARNING: hello")
    assert handler.dropped == 0


@pytest.mark.parametrize(
    ("level", "name", "kind", "path"),
    [
        (logging.INFO, "root", "info", "root"),
        (15, "a b*c", "level_15", "a b*c"),
        (logging.INFO, "nul\0\ud800", "info", "nul_\\ud800"),
        (logging.INFO, "", "info", "root"),
    ],
)
def test_odd_names(bus: zbus.Bus, level: int, name: str, kind: str, path: str) -> None:
    handler, sub = zbus.logging.Handler(bus), bus.subscribe("logs")
    handler.handle(logging.LogRecord(name, level, __file__, 1, "\ud800\0 é", (), None))
    evt = receive(sub)
    assert (evt.kind, evt.path, evt.data["message"]) == (kind, path, "\\ud800\0 é")
    assert handler.dropped == 0


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


def test_whatever_is_logged_nothing_is_raised(bus: zbus.Bus) -> None:
    handler, sub = zbus.logging.Handler(bus), bus.subscribe("logs")

    def log(message: Any, arguments: Any, **more: Any) -> None:
        record = logging.LogRecord("a", logging.INFO, __file__, 1, message, arguments, None)
        vars(record).update(more)
        handler.handle(record)

    log("%d", ("three",))
    assert receive(sub).data["message"] == "'%d' % ('three',)"
    log(Unprintable(), ())
    assert "whose repr raised ZeroDivisionError" in receive(sub).data["message"]
    log("x", (), thing=Unprintable(), loop=(loop := []), long="x" * 100_000)  # type: ignore[var-annotated]
    loop.append(loop)
    extra = receive(sub).data["extra"]
    assert "whose repr raised" in extra["thing"]
    assert len(extra["long"]) < 17_000
    assert handler.dropped == 0
    for broken in ({"name": None}, {"levelname": None}, {"created": float("nan")}, {"pathname": 7}):
        log("x", (), **broken)
    log("last", ())
    while (evt := receive(sub)).data["message"] != "last":
        pass
    assert evt.kind == "info"


def test_what_is_too_large_is_cut(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus, zbus.Bus(dir=zbus_dir, max_event_bytes=1000) as small:
        sub = bus.subscribe("logs")
        for by in (bus, small):
            handler = zbus.logging.Handler(by)
            record = logging.LogRecord("a", logging.INFO, "f" * 900, 1, "x" * 50_000, (), None)
            handler.handle(record)
            assert handler.dropped == 0
        assert receive(sub).data["message"] == "x" * 16_384 + " ... (50,000 characters)"
        brief = receive(sub).data
        assert set(brief) == {"message", "level", "logger", "time"}
        assert len(brief["message"]) < 250


def test_what_zbus_itself_logs_does_not_go_round(bus: zbus.Bus, attach: Attach, log: logging.Logger) -> None:
    handler, sub = attach(bus), bus.subscribe("logs")
    logging.getLogger("zbus").warning("a gap, say")
    logging.getLogger("zbus.something").warning("more")
    assert handler.dropped == 2
    logging.getLogger("zbusiness").warning("somebody else's")
    assert receive(sub).data["message"] == "somebody else's"


def test_what_is_logged_while_it_sends_does_not_go_round(
    zbus_dir: str, attach: Attach, log: logging.Logger
) -> None:
    def policy(action: str, resource: str) -> bool:
        log.warning("asked about %s", resource)
        return resource != "logs.denied"

    with zbus.Bus(dir=zbus_dir, policy=policy) as bus:
        handler, sub = attach(bus), bus.subscribe("logs")
        log.warning("hello")
        assert receive(sub).data["message"] == "hello"
        before = handler.dropped
        bus.send("a", "b", "/1")
        assert receive(sub).data["message"] == "asked about a"
        assert handler.dropped == before
        denied = attach(bus, system="logs.denied")
        log.warning("hello")
        assert denied.dropped


def test_nobody_waits_for_a_full_subscriber(zbus_dir: str, attach: Attach, log: logging.Logger) -> None:
    with zbus.Bus(dir=zbus_dir, send_timeout=10 * LIMIT) as bus:
        handler, sub = attach(bus), bus.subscribe("logs", overflow="block", capacity=2)
        start = time.monotonic()
        count = 0
        while handler.dropped < 10:
            log.info("%d", count)
            count += 1
        assert time.monotonic() - start < LIMIT
        for _ in range(count - handler.dropped):
            receive(sub)


def test_many_threads(bus: zbus.Bus, attach: Attach, log: logging.Logger) -> None:
    handler, sub = attach(bus), bus.subscribe("logs")

    def work(name: int) -> None:
        for number in range(200):
            log.info("%d %d", name, number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    got = [receive(sub).data["message"].split() for _ in range(1600 - handler.dropped)]
    for name in range(8):
        mine = [int(number) for by, number in got if int(by) == name]
        assert mine == sorted(set(mine))


def test_a_signal_handler_amid_a_send(
    bus: zbus.Bus, attach: Attach, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, sub = attach(bus), bus.subscribe("logs")
    links = bus._node.publisher._links
    settle = links.settle

    def interrupted(timeout: float) -> int:
        signal.raise_signal(signal.SIGUSR1)
        return settle(timeout)

    before = signal.signal(signal.SIGUSR1, lambda *_: log.info("in a signal handler"))
    monkeypatch.setattr(links, "settle", interrupted)
    bus.send("a", "b", "/1")
    monkeypatch.undo()
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert handler.dropped == 1
    assert receive(sub).data["message"] == "in a signal handler"


def test_a_forked_child_logs_by_a_bus_of_its_own_or_not_at_all(
    bus: zbus.Bus, attach: Attach, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, parents, sub = attach(system="logs.own"), attach(bus, system="logs.parents"), bus.subscribe("logs.*")
    pid = os.fork()
    if not pid:
        try:
            log.info("in the child")
            zbus.close()
        finally:
            os._exit(10 * own.dropped + parents.dropped)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    evt = receive(sub)
    assert (evt.system, evt.data["message"], evt.data["process"]) == ("logs.own", "in the child", pid)


def test_by_the_name_of_a_bus_until_it_is_closed(zbus_dir: str, log: logging.Logger, attach: Attach) -> None:
    handler = attach("audit")
    with zbus.Bus("audit") as bus:
        sub = bus.subscribe("logs")
        log.info("one")
        assert receive(sub).data["message"] == "one"
        handler.close()
        log.info("two")
        assert handler.dropped == 1
        assert len({peer.pid for peer in zbus.peers("audit")}) == 1


def test_a_bus_that_cannot_be_opened_is_tried_again_later(
    zbus_dir: str, log: logging.Logger, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = attach("audit")
    with monkeypatch.context() as patch:
        patch.setenv("ZBUS_DIR", "/dev/null")
        for _ in range(3):
            log.info("cannot be sent")
        assert handler.dropped == 3
    monkeypatch.setattr(handler, "_not_before", 0.0)
    log.info("can")
    assert handler.dropped == 3


@pytest.mark.parametrize("bus", [5, aio.Bus])
def test_what_is_no_bus_is_refused(zbus_dir: str, bus: Any) -> None:
    with pytest.raises(TypeError, match=r"bus must be a zbus\.Bus, a name or None"):
        zbus.logging.Handler(bus)
    with pytest.raises(zbus.Invalid, match="system"):
        zbus.logging.Handler(system="logs.*")
    with pytest.raises(zbus.Invalid, match="bus"):
        zbus.logging.Handler("no/name")


# Whole programs.

PROGRAMS = {
    "dictConfig": """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "handlers": {"bus": {"class": "zbus.logging.Handler", "system": "logs", "level": "INFO"}},
    "root": {"handlers": ["bus"], "level": "DEBUG"},
})
import zbus
zbus.logging._FIRST_SECONDS = 60.0
logging.getLogger("app").info("hello")
""",
    "basicConfig": """
import logging, zbus
logging.basicConfig(handlers=[zbus.logging.Handler()], level=logging.INFO)
zbus.logging._FIRST_SECONDS = 60.0
logging.getLogger("app").info("hello")
""",
    "QueueHandler": """
import logging, logging.handlers, queue, zbus
waiting = queue.SimpleQueue()
listener = logging.handlers.QueueListener(waiting, zbus.logging.Handler())
listener.start()
logging.getLogger().addHandler(logging.handlers.QueueHandler(waiting))
logging.getLogger().setLevel(logging.INFO)
zbus.logging._FIRST_SECONDS = 60.0
logging.getLogger("app").info("hello")
listener.stop()
""",
    "asyncio": """
import asyncio, logging, zbus
logging.basicConfig(handlers=[zbus.logging.Handler()], level=logging.INFO)
async def main():
    async with zbus.aio.Bus() as bus, await bus.subscribe("logs") as sub:
        zbus.logging._FIRST_SECONDS = 60.0
        logging.getLogger("app").info("hello")
        evt, ok = await sub.channel().receive(timeout=20)
        assert evt.data["message"] == "hello"
asyncio.run(main(), debug=False)
""",
    "multiprocessing": """
import logging, multiprocessing, zbus
def work():
    zbus.logging._FIRST_SECONDS = 60.0
    logging.getLogger("app").info("hello")
if __name__ == "__main__":
    logging.basicConfig(handlers=[zbus.logging.Handler()], level=logging.INFO)
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
""",
    "at exit": """
import atexit, json, logging, sys, time
def late():
    begun = time.monotonic()
    logging.getLogger("app").info("too late")
    print(json.dumps([handler.dropped, time.monotonic() - begun]))
atexit.register(late)
import zbus
handler = zbus.logging.Handler()
logging.basicConfig(handlers=[handler], level=logging.INFO)
zbus.logging._FIRST_SECONDS = 60.0
logging.getLogger("app").info("hello")
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(bus: zbus.Bus, name: str) -> None:
    sub = bus.subscribe("logs")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[name]], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.stderr, done.returncode) == ("", 0)
    evt = receive(sub)
    assert (evt.kind, evt.path, evt.data["message"]) == ("info", "app", "hello")
    if name == "at exit":
        dropped, _ = json.loads(done.stdout)
        assert dropped == 1
    with pytest.raises(zbus.Timeout):
        sub.channel().receive(timeout=0)
