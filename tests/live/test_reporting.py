"""How zbus logs: after the lock, in order, once, whoever has the time for it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import zbus
from zbus.runtime import reports
from zbus.runtime.locks import Lock, any_held
from zbus.runtime.reports import emit_reports, report
from zbus.testing import Faults

from .process import receive

LIMIT = 60.0


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Note what is logged."""
    messages: list[str] = []

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert not any_held()
            messages.append(record.getMessage())

    handler = Notes()
    logging.getLogger("zbus").addHandler(handler)
    yield messages
    logging.getLogger("zbus").removeHandler(handler)


def test_what_is_reported_under_a_lock_is_said_after_it_in_order(said: list[str]) -> None:
    lock = Lock()
    with lock:
        for number in range(3):
            report("%s", number)
        emit_reports()
        assert said == []
    report("last")
    assert said == ["0", "1", "2", "last"]


def test_nothing_is_lost_or_disordered_among_threads(said: list[str]) -> None:
    def talk(name: int) -> None:
        lock = Lock()
        for number in range(200):
            with lock:
                report("%d %d", name, number)
            emit_reports()

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    emit_reports()
    assert len(said) == 800
    for name in range(4):
        mine = [int(text.split()[1]) for text in said if text.startswith(f"{name} ")]
        assert mine == list(range(200))


def test_what_another_thread_cannot_say_is_said_by_whoever_is_free(said: list[str]) -> None:
    lock = Lock()
    with lock:
        report("waits")
        thread = threading.Thread(target=emit_reports)
        thread.start()
        thread.join(LIMIT)
        assert said == ["waits"]


def test_what_nobody_says_housekeeping_does(bus: zbus.Bus, said: list[str]) -> None:
    bus.send("a", "b", "/1")
    with Lock() as held:
        assert held
        report("waits")
        deadline = time.monotonic() + LIMIT
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_handler_that_causes_a_report_is_not_called_within_itself() -> None:
    depth, seen = 0, []

    class Reports(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            nonlocal depth
            depth += 1
            seen.append((depth, record.getMessage()))
            if record.getMessage() != "3":
                report("%d", int(record.getMessage()) + 1)
            depth -= 1

    handler = Reports()
    logging.getLogger("zbus").addHandler(handler)
    try:
        report("1")
    finally:
        logging.getLogger("zbus").removeHandler(handler)
    assert seen == [(1, "1"), (1, "2"), (1, "3")]


def test_a_handler_that_raises_breaks_nothing(
    bus: zbus.Bus, zbus_faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError(f"in a handler of {record.name}")

    handler = Raises()
    logging.getLogger("zbus").addHandler(handler)
    try:
        sub = bus.subscribe("a")
        bus.send("a", "b", "/1", 1)
        zbus_faults.drop("a")
        for number in (2, 3):
            bus.send("a", "b", "/1", number)
        assert [receive(sub).data for _ in range(2)] == [1, 3]
    finally:
        logging.getLogger("zbus").removeHandler(handler)
    assert "ZeroDivisionError: in a handler of zbus" in capsys.readouterr().err


def test_a_signal_handler_amid_a_report_leaves_it_to_the_one_it_interrupts(said: list[str]) -> None:
    class Interrupts(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "first":
                signal.raise_signal(signal.SIGUSR1)

    handler = Interrupts()
    before = signal.signal(signal.SIGUSR1, lambda *_: report("from the signal handler"))
    logging.getLogger("zbus").addHandler(handler)
    try:
        report("first")
    finally:
        logging.getLogger("zbus").removeHandler(handler)
        signal.signal(signal.SIGUSR1, before)
    assert said == ["first", "from the signal handler"]


def test_what_waits_in_a_forked_child_is_the_parents(said: list[str]) -> None:
    lock = Lock()
    with lock:
        report("waits")
        if not (pid := os.fork()):
            os._exit(len(reports._waiting))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    emit_reports()
    assert said == ["waits"]


def test_the_end_of_the_process_says_what_waits(zbus_dir: str) -> None:
    program = """
import logging, zbus
from zbus.runtime.locks import Lock
from zbus.runtime.reports import report
logging.basicConfig(format="%(message)s")
with Lock():
    report("waits")
    print("nothing yet", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    assert (done.stdout, done.stderr, done.returncode) == ("nothing yet\n", "waits\n", 0)
