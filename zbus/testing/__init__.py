"""A pytest plugin for programs that use zbus: a private bus, what was sent on it, and faults.

It is there wherever zbus and pytest are installed; nothing has to be imported. The fixtures:

- `zbus_dir`: a private directory for buses, also for processes that the test starts;
- `zbus_bus`: a bus in it, which is the default bus, too; fails a test that leaves something open;
- `zbus_capture`: what was sent on it, as a list;
- `zbus_faults`: loses, delays and denies, and has other processes to stop and to kill.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import zbus

from ..bus import default
from ..roster.location import SUN_PATH_BYTES, locate
from ..runtime.descriptors import unix_sockets
from ..runtime.lifecycle import open_nodes
from ..runtime.threads import sleep
from .capture import Capture, Sent
from .faults import Faults, FaultyBus, OtherProcess

__all__ = [
    "Capture",
    "Faults",
    "OtherProcess",
    "Sent",
    "zbus_bus",
    "zbus_capture",
    "zbus_dir",
    "zbus_faults",
]

_CLOSE_SECONDS = 3.0
_LONGEST_ENTRY = "/v1/default/0123456789abcdef.sock"


@pytest.fixture
def zbus_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the path of a private root directory, which is also set as `$ZBUS_DIR`.

    It is short enough for sockets. At the end of the test nobody may be on a bus in it any more.
    """
    base = tempfile.gettempdir()
    if len(base) + len("/zb-12345678") + len(_LONGEST_ENTRY) > SUN_PATH_BYTES:
        base = "/tmp"
    with tempfile.TemporaryDirectory(prefix="zb-", dir=base) as directory:
        monkeypatch.setenv("ZBUS_DIR", directory)
        monkeypatch.delenv("ZBUS_BUS", raising=False)
        yield directory
        left = [path.name for path in Path(directory).glob("v1/*/*") if path.name != "token"]
        if left:
            pytest.fail(f"somebody is still on a bus of this test, or was killed on it: {sorted(left)}")


@pytest.fixture
def zbus_bus(zbus_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[zbus.Bus]:
    """Open a private bus. The functions of the module, such as `zbus.send`, use it too.

    It is closed at the end of the test, with its subscriptions. Other buses that the test opened on the same
    bus must be closed by then, else the test fails.
    """
    with FaultyBus(dir=zbus_dir) as bus:
        monkeypatch.setattr(default, "bus", bus)
        yield bus
    path = str(locate(zbus_dir, bus.name))
    deadline = time.monotonic() + _CLOSE_SECONDS
    while (left := _left_open(path)) and time.monotonic() < deadline:
        sleep(0.01)  # one that was dropped is on its way
    if left:
        pytest.fail(f"the test should close, or drop, what it opened: {left}")


def _left_open(path: str) -> list[str]:
    """Return what this process still has open of the bus at `path`."""
    left = [f"a bus at {path}" for node in open_nodes() if str(node.path) == path]
    left += [f"a connection to {name}" for _, *names in unix_sockets() for name in names if path in name]
    return left


@pytest.fixture
def zbus_capture(zbus_bus: zbus.Bus) -> Iterator[Capture]:
    """Capture what is sent on the private bus from now on, by whomever."""
    assert isinstance(zbus_bus, FaultyBus)
    capture = Capture(zbus_bus)
    yield capture
    capture.close()


@pytest.fixture
def zbus_faults(zbus_bus: zbus.Bus) -> Iterator[Faults]:
    """Let things go wrong on the private bus."""
    assert isinstance(zbus_bus, FaultyBus)
    with Faults(zbus_bus) as faults:
        yield faults
