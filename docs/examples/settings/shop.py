"""A program that takes its settings from the bus, and sends what it logs there."""

from __future__ import annotations

import logging
import signal
from typing import Any

import zbus

log = logging.getLogger("shop")


def main() -> None:
    log.setLevel(logging.INFO)
    log.addHandler(zbus.logging.Handler())
    current: dict[str, Any] = {"/shop/discount": 0.0}  # until it is told otherwise
    # Only the newest value of a setting counts: `latest` keeps one for each path.
    with zbus.subscribe("settings", "setting.changed", overflow="latest") as changes:
        signal.signal(signal.SIGTERM, lambda *_: changes.close())
        signal.signal(signal.SIGINT, lambda *_: changes.close())
        # First subscribe, then ask: no change falls in between. If nobody answers, the program goes on with
        # what it has; when the settings start later, they announce all values.
        zbus.send("settings", "setting.asked", "/shop/")
        for evt in changes:
            # Values come again whenever another program asks.
            if current.get(evt.path) != evt.data:
                current[evt.path] = evt.data
                log.info("%s is now %r", evt.path, evt.data)
        log.warning("stopped")


if __name__ == "__main__":
    main()
