"""A pytest plugin for programs that use zbus: a private bus, what was sent on it, and faults.

It is there wherever zbus and pytest are installed; nothing has to be imported. The fixtures:

- `zbus_dir`: a private directory for buses, also for processes that the test starts;
- `zbus_bus`: a bus in it, which is the default bus, too; fails a test that leaves something open;
- `zbus_capture`: what was sent on it, as a list;
- `zbus_faults`: loses, delays and denies, and has other processes to stop and to kill.
"""

from __future__ import annotations

from .capture import Capture, Sent
from .faults import Faults, OtherProcess
from .plugin import zbus_bus, zbus_capture, zbus_dir, zbus_faults

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
