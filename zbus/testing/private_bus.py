"""A private directory and a private bus for one test, which fails if it leaves something open."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..bus import Bus, default
from ..roster.bus_id import BUS_ID
from ..roster.location import SUN_PATH_BYTES, locate
from ..runtime.descriptors import unix_sockets
from ..runtime.lifecycle import open_nodes
from ..runtime.threads import sleep
from .faults import FaultyBus

__all__ = ["private_bus", "private_directory"]

_CLOSE_SECONDS = 3.0
_LONGEST_ENTRY = "/v1/default/0123456789abcdef.sock"


def private_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the directory of the fixture `zbus_dir`; fail the test if somebody is still on a bus in it."""
    base = tempfile.gettempdir()
    if len(base) + len("/zb-12345678") + len(_LONGEST_ENTRY) > SUN_PATH_BYTES:
        base = "/tmp"
    with tempfile.TemporaryDirectory(prefix="zb-", dir=base) as directory:
        monkeypatch.setenv("ZBUS_DIR", directory)
        monkeypatch.delenv("ZBUS_BUS", raising=False)
        yield directory
        left = [path.name for path in Path(directory).glob("v1/*/*") if path.name not in ("token", BUS_ID)]
        if left:
            pytest.fail(f"somebody is still on a bus of this test, or was killed on it: {sorted(left)}")


def private_bus(directory: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """Yield the bus of the fixture `zbus_bus`, as the default bus; fail the test if it left another open."""
    with FaultyBus(dir=directory) as bus:
        monkeypatch.setattr(default, "bus", bus)
        yield bus
    path = str(locate(directory, bus.name))
    deadline = time.monotonic() + _CLOSE_SECONDS
    while (left := _left_open(path)) and time.monotonic() < deadline:
        sleep(0.01)  # a bus that was garbage collected closes in a thread
    if left:
        pytest.fail(f"the test should close, or drop, what it opened: {left}")


def _left_open(path: str) -> list[str]:
    """Return what this process still has open of the bus at `path`."""
    left = [f"a bus at {path}" for node in open_nodes() if str(node.path) == path]
    left += [f"a connection to {name}" for _, *names in unix_sockets() for name in names if path in name]
    return left
