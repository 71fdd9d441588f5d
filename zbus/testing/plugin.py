"""The pytest plugin: fixtures that import zbus when a test first uses one.

It imports nothing of zbus outside the fixtures, and there by its full name: `zbus_pytest.py` says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import zbus
    from zbus.testing.capture import Capture
    from zbus.testing.faults import Faults

__all__ = ["zbus_bus", "zbus_capture", "zbus_dir", "zbus_faults"]


@pytest.fixture
def zbus_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the path of a private root directory, which is also set as `$ZBUS_DIR`.

    It is short enough for sockets. At the end of the test nobody may be on a bus in it any more.
    """
    from zbus.testing.private_bus import private_directory

    yield from private_directory(monkeypatch)


@pytest.fixture
def zbus_bus(zbus_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[zbus.Bus]:
    """Open a private bus. The functions of the module, such as `zbus.send`, use it too.

    It is closed at the end of the test, with its subscriptions. Other buses that the test opened on the same
    bus must be closed by then, else the test fails.
    """
    from zbus.testing.private_bus import private_bus

    yield from private_bus(zbus_dir, monkeypatch)


@pytest.fixture
def zbus_capture(zbus_bus: zbus.Bus) -> Iterator[Capture]:
    """Capture what is sent on the private bus from now on, by whomever."""
    from zbus.testing.capture import Capture
    from zbus.testing.faults import FaultyBus

    assert isinstance(zbus_bus, FaultyBus)
    capture = Capture(zbus_bus)
    yield capture
    capture.close()


@pytest.fixture
def zbus_faults(zbus_bus: zbus.Bus) -> Iterator[Faults]:
    """Let things go wrong on the private bus."""
    from zbus.testing.faults import Faults, FaultyBus

    assert isinstance(zbus_bus, FaultyBus)
    with Faults(zbus_bus) as faults:
        yield faults
