"""`zbus graph`: a picture of who sends what to whom."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

import zbus

from .cli import SECONDS, ZBUS, run
from .numbers import numbers
from .process import receive

pytestmark = pytest.mark.usefixtures("zbus_dir")


@contextmanager
def used() -> Iterator[None]:
    """Send an event and receive it, and wait until that is known."""
    with zbus.Bus() as bus, bus.subscribe("orders.**") as sub:
        bus.send("orders.eu", "paid", "/1")
        receive(sub)
        numbers(lambda it: it.events and it.received)
        yield


def test_mermaid_unless_asked_for_something_else() -> None:
    with used():
        told = run("graph")
    assert (told.stderr, told.returncode) == ("", 0)
    lines = told.stdout.splitlines()
    assert lines[0] == "flowchart LR"
    assert "orders.eu paid" in told.stdout
    assert any(line.startswith("  m1 -->") for line in lines)
    assert "  t1 --> m1" in lines


def test_the_name_of_the_file_says_the_format(tmp_path: Path) -> None:
    with used():
        for name, begin in (("bus.svg", "<svg "), ("bus.dot", "digraph "), ("bus", "flowchart ")):
            told = run("graph", "--output", str(tmp_path / name))
            assert (told.stdout, told.stderr, told.returncode) == ("", "", 0)
            assert (tmp_path / name).read_text().startswith(begin)
        told = run("graph", "--format", "svg")
    texts = {element.text for element in ElementTree.fromstring(told.stdout).iter()}
    assert "orders.eu paid" in texts


def test_json_has_nodes_and_edges() -> None:
    with used():
        found = json.loads(run("graph", "--json").stdout)
    assert [*found] == ["bus", "path", "time", "members", "topics", "sends", "receives"]
    [member], [topic] = found["members"], found["topics"]
    assert (topic["system"], topic["kind"], topic["topics"], topic["sent_total"]) == (
        "orders.eu",
        "paid",
        1,
        1,
    )
    assert [(edge["source"], edge["target"]) for edge in found["sends"]] == [(member["id"], topic["id"])]
    assert [(edge["source"], edge["target"]) for edge in found["receives"]] == [(topic["id"], member["id"])]


def test_a_filter_shows_a_part_and_nothing_is_one_line_and_an_exit_code() -> None:
    with used():
        assert "orders.eu paid" in run("graph", "orders.**").stdout
        failed = run("graph", "users")
    said = "zbus: nothing on bus default is named users\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", said, 1)


def test_nobody_on_the_bus_is_one_line_and_an_exit_code() -> None:
    empty = run("graph")
    assert (empty.stdout, empty.returncode) == ("", 1)
    assert empty.stderr.startswith("zbus: nobody is on bus default in ")
    assert empty.stderr.count("\n") == 1


def test_what_cannot_be_written_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "bus.svg"
    with used(), open("/dev/full", "w") as full:
        failed = run("graph", "--output", str(nowhere))
        filled = run("graph", "--output", "/dev/full")
        printed = subprocess.run(
            [*ZBUS, "graph"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS
        )
    said = f"zbus: {nowhere}: No such file or directory\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", said, 1)
    assert (filled.stderr, filled.returncode) == ("zbus: /dev/full: No space left on device\n", 1)
    assert (printed.stderr, printed.returncode) == ("zbus: No space left on device\n", 1)


def test_two_formats_at_once_are_refused() -> None:
    failed = run("graph", "--json", "--format", "svg")
    said = "zbus: --json is a format of its own: leave out --format; see zbus graph --help\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", said, 2)
