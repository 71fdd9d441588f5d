"""`zbus ls`: who is on the bus, for people and for programs."""

from __future__ import annotations

import json
import os
import re

import pytest

import zbus

from .cli import SECONDS, on_a_terminal, run, subscribed

pytestmark = pytest.mark.usefixtures("zbus_dir")


def test_ls_says_that_a_bus_is_empty(zbus_dir: str) -> None:
    empty = run("ls")
    assert (empty.stdout, empty.stderr, empty.returncode) == ("", "zbus: nobody is on bus default\n", 0)
    assert run("ls", "--json").stdout == "[]\n"
    assert os.listdir(zbus_dir) == []


def test_ls_shows_the_living_and_the_dead() -> None:
    with subscribed("orders.**", "order.*", "--overflow", "block") as process:
        alive = run("ls")
        process.kill()
        process.wait(SECONDS)
        dead = run("ls")
    with zbus.Bus():  # cleans up
        pass
    for listing, state in ((alive, "alive"), (dead, "dead")):
        assert (listing.stderr, listing.returncode) == ("", 0)
        header, *rows = [re.split("  +", line) for line in listing.stdout.splitlines()]
        assert header == ["PROCESS", "PID", "LANGUAGE", "ROLE", "OVERFLOW", "STATE", "PATTERNS"]
        assert rows == [
            ["zbus", str(process.pid), "python", "member", "-", state, "-"],
            ["zbus", str(process.pid), "python", "subscriber", "block", state, "orders.** order.*"],
        ]


def test_ls_as_json() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**"):
        peers = json.loads(run("ls", "--json").stdout)
    assert [peer["role"] for peer in peers] == ["member", "subscriber"]
    assert {peer["pid"] for peer in peers} == {os.getpid()}
    assert peers[1]["patterns"] == [["orders.**", "*"]]
    assert all(peer["alive"] for peer in peers)


def test_ls_draws_a_table_on_a_terminal() -> None:
    with zbus.Bus() as bus, bus.subscribe("[x].**"):
        shown, code = on_a_terminal("ls")
    assert code == 0
    assert "\x1b[1mPROCESS" in shown
    assert "[x].**" in shown
