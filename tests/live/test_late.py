"""What is sent when a process has closed its buses on its way out arrives; nothing hangs, nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zbus

from .late import COUNT, FROM, HOWS
from .process import receive

# Another interpreter that has zbus, to try it by hand.
PYTHON = os.environ.get("LATE_PYTHON", sys.executable)
ROOT = Path(__file__).parents[2]
EARLY_TOO = [name for name in HOWS if name not in ("first_imported_at_exit", "subscribes")]


def run(how: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-W", "error", "-m", "tests.live.late", how]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False)


def numbers(sub: zbus.Subscription, count: int) -> list[Any]:
    """Return the data of `count` events, or of as many as come; each tells when it was sent."""
    found = []
    try:
        while len(found) < count:
            evt = receive(sub)
            assert evt.time is not None
            found.append(evt.data)
    except zbus.Timeout:  # the caller will see what is missing
        pass
    return found


@pytest.mark.parametrize("overflow", ["drop", "block"])
@pytest.mark.parametrize("how", EARLY_TOO)
def test_it_arrives_and_leaves_nothing(bus: zbus.Bus, zbus_dir: str, how: str, overflow: str) -> None:
    sub = bus.subscribe("jobs", overflow=overflow)
    ended = run(how)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert numbers(sub, 2 * COUNT) == [*range(COUNT), *range(FROM, FROM + COUNT)]
    assert sub.lost == 0
    bus.close()
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]


def test_by_one_who_imports_zbus_only_then(bus: zbus.Bus) -> None:
    sub = bus.subscribe("jobs")
    ended = run("first_imported_at_exit")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert numbers(sub, COUNT) == list(range(FROM, FROM + COUNT))


def test_subscribing_is_refused(bus: zbus.Bus) -> None:
    sub = bus.subscribe("jobs")
    ended = run("subscribes")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert numbers(sub, 2) == [0, "the program is about to end: subscribe before its main thread does"]
