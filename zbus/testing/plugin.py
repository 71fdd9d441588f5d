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
    """Return the path of a private root directory, which `$ZBUS_DIR` names too.

    It is short enough for sockets. The test fails if somebody is still on a bus in it at the end.
    """
    from zbus.testing.private_bus import private_directory

    yield from private_directory(monkeypatch)


@pytest.fixture
def zbus_bus(zbus_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[zbus.Bus]:
    """Return a private bus. The functions of the module, such as `zbus.send`, use it too.

        def test_an_order_is_announced(zbus_bus, zbus_capture):
            place_order(123)
            assert [evt.path for evt in zbus_capture] == ["/orders/123"]

    It is closed at the end of the test, together with its subscriptions. The test fails if other bus objects
    that it opened on the same bus are still open then.
    """
    from zbus.testing.private_bus import private_bus

    yield from private_bus(zbus_dir, monkeypatch)


@pytest.fixture
def zbus_capture(zbus_bus: zbus.Bus) -> Iterator[Capture]:
    """Return a list of what any process sends on the private bus from now on; see `Capture`."""
    from zbus.testing.capture import Capture
    from zbus.testing.faults import FaultyBus

    assert isinstance(zbus_bus, FaultyBus)
    capture = Capture(zbus_bus)
    yield capture
    capture.close()


@pytest.fixture
def zbus_faults(zbus_bus: zbus.Bus) -> Iterator[Faults]:
    """Return an object that causes faults on the private bus; see `Faults`."""
    from zbus.testing.faults import Faults, FaultyBus

    assert isinstance(zbus_bus, FaultyBus)
    with Faults(zbus_bus) as faults:
        yield faults
