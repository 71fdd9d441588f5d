"""`zbus hz` and `zbus bw`: rate, jitter, latency and bytes of what arrives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.cells import cell_len

import zbus

from .cli import ended, ends_without_reader, run, started
from .terminal import terminal

pytestmark = pytest.mark.usefixtures("zbus_dir")


@contextmanager
def measuring(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command and wait until it has subscribed."""
    with started(*args) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"zbus: subscribed to ")
        yield process


@contextmanager
def sending(*systems: str) -> Iterator[zbus.Bus]:
    """Send to these systems until the end of the block."""
    stop = threading.Event()
    with zbus.Bus() as bus:

        def send() -> None:
            while not stop.wait(0.002):
                for system in systems:
                    bus.send(system, "k", "/1", "x" * 50)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield bus
        finally:
            stop.set()
            thread.join()


def topics(process: subprocess.Popen[bytes]) -> dict[str, dict[str, Any]]:
    """Return the topics of the next line of JSON."""
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert [*line] == ["time", "topics"]
    return {topic["system"]: topic for topic in line["topics"]}


@pytest.fixture(autouse=True)
def bus_of_today(zbus_dir: str) -> None:
    """A bus that was used before: these commands don't make one."""
    with zbus.Bus(dir=zbus_dir):
        pass


@pytest.mark.parametrize("command", ["hz", "bw"])
def test_a_bus_that_never_was_is_one_line_and_leaves_no_directory(command: str, zbus_dir: str) -> None:
    before = sorted(os.listdir(os.path.join(zbus_dir, "v1")))
    failed = run(command, "a.**", "--bus", "ordres")
    assert (failed.stdout, failed.returncode) == ("", 1)
    assert failed.stderr.startswith(f"zbus: nobody is on bus ordres in {zbus_dir}")
    assert failed.stderr.count("\n") == 1
    assert sorted(os.listdir(os.path.join(zbus_dir, "v1"))) == before


@pytest.mark.parametrize("command", ["hz", "bw"])
def test_everything_that_was_sent_is_counted(command: str) -> None:
    with (
        measuring(command, "a.**", "--json", "--interval", "0.1", "--window", "3600") as process,
        zbus.Bus() as bus,
    ):
        for number in range(100):
            bus.send("a.b", "k", "/1", "x" * number)
        bus.send_many("a.c", "k", [("/1", 1), ("/2", 2)])
        bus.send("other", "k", "/1")
        found: dict[str, dict[str, Any]] = {}
        while sum(topic["received"] for topic in found.values()) < 102:
            found = topics(process)
        process.send_signal(signal.SIGINT)
        _, err, code = ended(process)
    assert (err, code) == ("", 130)
    b, c = found["a.b"], found["a.c"]
    assert (b["received"], b["lost"], c["received"], c["lost"]) == (100, 0, 2, 0)
    assert b["rate"] == pytest.approx(100 / b["seconds"])
    assert 99 <= b["size_max"] - b["size_min"] < 120  # of data, and of the number
    assert b["bytes"] == pytest.approx(100 * b["size"] / b["seconds"])
    assert 0 <= b["period_min"] <= b["period"] <= b["period_max"]
    assert 0 < b["latency_p50"] <= b["latency_max"] * 1.02
    assert c["period"] is None


def test_one_window_is_shown_and_the_exit_code_says_whether_anything_arrived() -> None:
    nothing = run("hz", "a", "b", "--once", "--window", "0.1")
    assert (nothing.stdout, nothing.returncode) == ("", 1)
    assert nothing.stderr == (
        "zbus: subscribed to a, b, on bus default\nzbus: no event of a, b, arrived within 0.1 s\n"
    )
    with sending("a.b"):
        some = run("bw", "*", "--once", "--window", "5")
    assert some.returncode == 0
    header, row, blank = some.stdout.splitlines()
    assert header.split() == ["TOPIC", "BYTES/S", "RATE/S", "MEAN", "MIN", "MAX", "LOST"]
    assert row.startswith("a.b k ")
    assert blank == ""


@pytest.mark.parametrize(("columns", "shown"), [(80, "STDEV"), (40, "P99")])
def test_a_table_stays_in_place_on_a_terminal(columns: int, shown: str) -> None:
    with sending("a.b"), terminal("hz", "*", "--interval", "0.1", columns=columns) as screen:
        text = screen.await_text("RATE/S", shown, "LOST", "a.b k")
        assert max(cell_len(line.rstrip()) for line in text.splitlines() if "zbus:" not in line) <= columns
        screen.await_text("a.b k")
        screen.process.send_signal(signal.SIGINT)
        assert screen.ended() == 130


def test_a_reader_that_goes_away_ends_it() -> None:
    with sending("a.b"), measuring("hz", "*", "--interval", "0.1") as process:
        assert ends_without_reader(process)


@pytest.mark.parametrize("command", ["hz", "bw"])
def test_what_is_no_pattern_is_one_line(command: str) -> None:
    refused = run(command, "a*")
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert refused.stderr.startswith("zbus: 'a*' is not a system pattern: ")
    assert refused.stderr.count("\n") == 1
