"""Packets: events on their way out, in the form in which NATS takes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

__all__ = ["Packet", "Window"]

_PACKETS = 4096
_BYTES = 16 * 1024 * 1024
_OVERHEAD = 500  # of headers and objects, about


class Packet:
    """A message for the other side, and what is known of it.

    Attributes:
        subject, headers, body: the message.
        events: 1 for an event, 0 for what tells of missing ones.
        since: when it was made, by the monotonic clock.
        begin, position: where it begins and ends in the spill file; 0 if it has not been there.
    """

    __slots__ = ("begin", "body", "events", "headers", "position", "since", "subject")

    def __init__(
        self,
        subject: str,
        headers: dict[str, str],
        body: bytes,
        events: int,
        begin: int = 0,
        position: int = 0,
    ) -> None:
        self.subject = subject
        self.headers = headers
        self.body = body
        self.events = events
        self.begin = begin
        self.position = position
        self.since = time.monotonic()

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return len(self.body) + _OVERHEAD


class Window:
    """The packets that the other side has not acknowledged, in order, each under a number of its own.

    Attributes:
        begin: no packet has a lower number.
        end: the number of the next packet that is added.
        events: how many events are in it.
    """

    def __init__(self) -> None:
        self._packets: dict[int, Packet] = {}
        self._bytes = 0
        self.begin = self.end = 0
        self.events = 0

    def __len__(self) -> int:
        return len(self._packets)

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return len(self._packets) >= _PACKETS or self._bytes >= _BYTES

    def add(self, packet: Packet) -> None:
        """Add a packet at the end."""
        self._packets[self.end] = packet
        self._bytes += packet.bytes
        self.events += packet.events
        self.end += 1

    def get(self, number: int) -> Packet | None:
        """Return a packet; `None` if it is acknowledged."""
        return self._packets.get(number)

    def remove(self, number: int) -> Packet | None:
        """Remove a packet, and return it unless it is gone already."""
        if (packet := self._packets.pop(number, None)) is not None:
            self._bytes -= packet.bytes
            self.events -= packet.events
            while self.begin < self.end and self.begin not in self._packets:
                self.begin += 1
        return packet

    def oldest(self) -> Packet | None:
        """Return the first packet, or `None` if there is none."""
        return self._packets.get(self.begin)

    def drain(self) -> Iterator[Packet]:
        """Remove all packets, in order."""
        while self._packets:
            packet = self.remove(next(islice(self._packets, 1)))
            if packet is not None:
                yield packet
