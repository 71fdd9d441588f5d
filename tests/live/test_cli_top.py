"""`zbus top`: rates of members and topics, on a terminal and for scripts."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.cells import cell_len

import zbus

from .cli import SECONDS, ZBUS, ends_without_reader, run, started
from .numbers import numbers
from .process import LIMIT
from .terminal import bare, terminal

pytestmark = pytest.mark.usefixtures("zbus_dir")


@contextmanager
def busy(*systems: str) -> Iterator[zbus.Bus]:
    """Send to these systems, and receive from `a.**`, until the end of the block; at first wait for rates."""
    stop = threading.Event()
    with zbus.Bus() as bus, bus.subscribe("a.**") as sub:

        def send() -> None:
            while not stop.wait(0.002):
                for system in systems:
                    bus.send(system, "k", "/1", "x" * 50)

        def receive() -> None:
            for _ in sub:
                pass

        threads = [threading.Thread(target=target) for target in (send, receive)]
        for thread in threads:
            thread.start()
        try:
            first = numbers(lambda it: it.events and it.received)
            numbers(lambda it: it.time > first.time)
            yield bus
        finally:
            stop.set()
            threads[0].join()
            sub.close()
            threads[1].join()


def looked(*args: str) -> dict[str, Any]:
    """Return what `zbus top --once` tells, again if the machine was too busy for this process to publish."""
    deadline = time.monotonic() + LIMIT
    while True:
        told = run("top", "--once", "--json", *args)
        assert (told.stderr, told.returncode) == ("", 0)
        found: dict[str, Any] = json.loads(told.stdout)
        if found["members"][0]["out"] and found["members"][0]["received"]:
            return found
        assert time.monotonic() < deadline, found


def test_one_look_is_enough_for_rates() -> None:
    with busy("a.b", "c"):
        found = looked()
    [member] = found["members"]
    assert (member["pid"], member["process"], member["lost"]) == (os.getpid(), member["process"], 0)
    assert member["out_bytes"] > 50 * member["out"]
    assert member["received_bytes"] > 50 * member["received"]
    assert [[*pattern.values()] for pattern in member["patterns"]] == [["a.**", "*", "drop"]]
    topics = {topic["system"]: topic for topic in found["topics"]}
    assert topics["a.b"]["publishers"] == topics["a.b"]["subscribers"] == [member["id"]]
    assert topics["c"]["subscribers"] == []
    assert topics["c"]["out"] > 0
    assert topics["c"]["size"] > 50
    assert (found["bus"], found["path"]) == ("default", str(zbus.peers().path))


def test_a_table_is_printed_where_nobody_can_draw() -> None:
    with busy("a.b"):
        told = run("top", "--once", COLUMNS="40")
        with started("top", "--interval", "0.1") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().decode() for _ in range(12)]
    summary, header, member, blank, topics, topic, _ = told.stdout.split("\n", 6)
    assert " default: 1 member " in summary
    columns = "PROCESS PID OUT/S BYTES/S IN/S BYTES/S LOST LAG PATTERNS"
    assert " ".join(header.split()) == columns
    assert str(os.getpid()) in member
    assert member.endswith(" a.**")
    assert blank == ""
    assert " ".join(topics.split()) == "TOPIC OUT/S BYTES/S SIZE PUB SUB LAG"
    assert topic.startswith("a.b k ")
    assert sum("PROCESS" in line for line in lines) == 2


def test_only_what_is_asked_for_in_the_order_asked_for() -> None:
    with busy("a.b", "a.c", "d"):
        found = looked("a.*", "--sort", "name")
        refused = run("top", "--once", "a*")
    assert [topic["system"] for topic in found["topics"]] == ["a.b", "a.c"]
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert refused.stderr.startswith("zbus: 'a*' is not a system pattern: ")


def test_json_has_one_line_a_look() -> None:
    with busy("a.b"), started("top", "--json", "--interval", "0.1") as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first["time"] < second["time"]
    assert [*first] == [*second] == ["bus", "path", "time", "members", "topics"]


@pytest.mark.parametrize("columns", [80, 40])
def test_it_draws_on_a_terminal_sorts_by_the_next_column_and_ends(columns: int) -> None:
    with busy("a.b"), terminal("top", "--interval", "0.1", columns=columns, lines=12) as screen:
        modes = screen.modes()
        shown = screen.await_text("by rate" if columns == 80 else "PROCESS", "TOPIC", "a.b k")
        assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= columns
        assert ("PATTERNS" in shown) == (columns == 80)
        screen.await_text("a.b k")  # it draws again
        if columns == 80:
            screen.type("s")
            screen.await_text("by out")
        screen.type("q")
        assert screen.ended() == 0
        assert screen.modes() == modes
        assert "\x1b[?1049l" in screen.shown  # what was there before is shown again


def test_an_interrupt_leaves_the_terminal_as_it_was() -> None:
    with busy("a.b"), terminal("top") as screen:
        modes = screen.modes()
        screen.await_text("a.b k")
        assert screen.modes() != modes
        screen.process.terminate()
        assert screen.ended() == 143
        assert screen.modes() == modes


def test_no_colours_if_none_are_wanted() -> None:
    with busy("a.b"), terminal("top", "--once", NO_COLOR="1") as screen:
        assert screen.ended() == 0
        assert "a.b k" in bare(screen.shown)
        assert not any(f"\x1b[{code}m" in screen.shown for code in (31, 33, "1;31"))
    with busy("a.b"), terminal("top", "--interval", "0.1", TERM="dumb") as screen:
        screen.await_text("a.b k")
        screen.await_text("a.b k")
        assert "\x1b" not in screen.shown


def test_nobody_on_the_bus_is_one_line_and_an_exit_code(zbus_dir: str) -> None:
    for args in ((), ("--once",), ("--once", "--json"), ("--bus", "shop")):
        empty = run("top", *args)
        assert (empty.stdout, empty.returncode) == ("", 1)
        assert empty.stderr.startswith("zbus: nobody is on bus ")
        assert f" in {zbus_dir}/v1/" in empty.stderr
        assert empty.stderr.count("\n") == 1


def test_it_ends_when_its_reader_goes_away() -> None:
    with busy("a.b"), started("top", "--interval", "0.1") as process:
        assert ends_without_reader(process)


def test_a_full_disk_is_one_line_and_an_exit_code() -> None:
    with busy("a.b"), open("/dev/full", "w") as full:
        failed = subprocess.run(
            [*ZBUS, "top", "--once"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS
        )
    assert (failed.stderr, failed.returncode) == ("zbus: No space left on device\n", 1)
