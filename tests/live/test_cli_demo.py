"""`zbus demo`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from .cli import ended, on_a_terminal, run, started

pytestmark = pytest.mark.usefixtures("zbus_dir")


def remains(directory: str) -> list[str]:
    """Return the files in `directory` and the processes that were told about it."""
    found = os.listdir(directory)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # ended meanwhile
            continue
        if os.fsencode(directory) in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_demo_shows_events_and_rates_and_leaves_nothing(zbus_dir: str) -> None:
    shown = run("demo", "--seconds", "2", TMPDIR=zbus_dir, FORCE_COLOR="1")
    assert (shown.stderr, shown.returncode) == ("", 0)
    assert "\x1b" not in shown.stdout
    assert len(shown.stdout.splitlines()) < 50
    assert re.search(r"subscriber 1  [\d:.]{12}  orders\.\w+  order\.\w+  /orders/\d+  \{", shown.stdout)
    assert re.search(r"[\d,]+ events/s +[\d,]+ received +0 lost", shown.stdout)
    sums = re.search(r"([\d,]+) events sent, ([\d,]+) received, 0 lost\n\Z", shown.stdout)
    assert sums is not None
    assert sums[1] == sums[2]
    assert remains(zbus_dir) == []


def test_demo_takes_numbers_of_processes(zbus_dir: str) -> None:
    args = ("--seconds", "1", "--publishers", "1", "--subscribers", "3")
    shown = run("demo", *args, TMPDIR=zbus_dir).stdout
    assert "publisher 1 " in shown
    assert "publisher 2 " not in shown
    assert "subscriber 3 " in shown
    assert "subscriber 4 " not in shown


def test_demo_on_a_terminal(zbus_dir: str) -> None:
    shown, code = on_a_terminal("demo", "--seconds", "1.5", TMPDIR=zbus_dir)
    assert code == 0
    assert "events/s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor, hidden and back
    assert remains(zbus_dir) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", [b"subscriber 1 ", b"look inside"], ids=["starting", "running"])
def test_a_signal_ends_demo_cleanly(zbus_dir: str, number: signal.Signals, code: int, when: bytes) -> None:
    with started("demo", "--seconds", "60", TMPDIR=zbus_dir) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(when):
            pass
        process.send_signal(number)
        out, err, returned = ended(process)
    assert (err, returned) == ("", code)
    assert ("events sent" in out) == (code == 0)
    assert remains(zbus_dir) == []


def test_processes_of_a_killed_demo_end(zbus_dir: str) -> None:
    with started("demo", "--seconds", "60", TMPDIR=zbus_dir) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"look inside"):
            pass
        process.kill()
        # They inherit stderr, so it ends when the last of them has ended.
        _, err, _ = ended(process)
    assert err == ""
