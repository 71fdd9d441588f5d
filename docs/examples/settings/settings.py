"""The settings: one program owns the values, announces every change, and answers programs that start.

Change one:  zbus send settings setting.set /shop/discount 0.2
"""

from __future__ import annotations

import signal
from typing import Any

import zbus

values: dict[str, Any] = {"/shop/discount": 0.0, "/shop/greeting": "hello"}


def announce(bus: zbus.Bus, prefix: str = "/") -> None:
    """Send the values below `prefix`, as one frame."""
    found = [(path, value) for path, value in values.items() if path.startswith(prefix)]
    bus.send_many("settings", "setting.changed", found)


def main() -> None:
    with zbus.Bus() as bus:
        # First subscribe, then announce: whoever starts meanwhile may get a value twice, but always gets it.
        requests = bus.subscribe("settings", "setting.(asked|set)")
        signal.signal(signal.SIGTERM, lambda *_: requests.close())
        signal.signal(signal.SIGINT, lambda *_: requests.close())
        announce(bus)
        for evt in requests:
            if evt.kind == "setting.set":
                values[evt.path] = evt.data
            # The bus stores nothing. A program that starts asks for the last values, and they are sent again.
            announce(bus, evt.path)


if __name__ == "__main__":
    main()
