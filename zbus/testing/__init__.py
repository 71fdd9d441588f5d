"""A pytest plugin for programs that use zbus: a private bus, what was sent on it, and faults.

pytest loads it wherever zbus is installed; nothing has to be imported. The fixtures:

- `zbus_dir`: a private directory for buses, which processes that the test starts use as well;
- `zbus_bus`: a bus in it, which is also the default bus; a test that leaves something open fails;
- `zbus_capture`: what was sent on that bus, as a list;
- `zbus_faults`: drops, delays and denies events, and starts other processes to stop and to kill.
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
