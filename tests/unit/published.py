"""Live numbers as a process publishes them, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

import zbus

__all__ = ["channel", "numbers", "topic"]


def topic(system: str, events: int, size: int = 0, kind: str = "k") -> zbus.TopicNumbers:
    return zbus.TopicNumbers(system, kind, events, size)


def channel(id: int = 1, system: str = "a", **fields: Any) -> zbus.ChannelNumbers:
    return zbus.ChannelNumbers(id, system, "*", "drop", 0, 0, 0, 0, 0, 0.0)._replace(**fields)


def numbers(
    time: float, topics: tuple[zbus.TopicNumbers, ...] = (), channels: tuple[zbus.ChannelNumbers, ...] = ()
) -> zbus.Numbers:
    events, size = sum(row.events for row in topics), sum(row.bytes for row in topics)
    received = sum(row.received for row in channels)
    return zbus.Numbers(time, events, size, len(topics), received, len(channels), 0, topics, channels)
