"""The outbox: what the other side has not taken yet, in order, and what happens when it takes nothing.

accept ─► window ─► the session sends, and removes what is acknowledged
             │ the other side is down, and the window is full (with spill, at once)
             ├ block: whoever sends on this machine waits
             ├ drop:  what comes is counted, and told when the other side is back
             └ spill: window and what comes go to a file, and back in order when there is room
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..protocol.relayed import Relayed
from .dropped import Dropped
from .headers import encode, left_out
from .numbers import LinkNumbers
from .packet import Packet, Window
from .spill import Spill

__all__ = ["Outbox"]


class Outbox:
    """The events that a link carries out. Used on one event loop.

    Attributes:
        window: what the session may send.
        changed: set when there may be something to send.
        down: why the other side takes nothing; empty while it does.
    """

    def __init__(
        self, numbers: LinkNumbers, subject: Callable[[str, str], str], spill: Spill | None, drop: bool
    ) -> None:
        """Count in `numbers`; `subject` returns the subject of a system and kind."""
        self.window = Window()
        self.changed = asyncio.Event()
        self.down = "not connected yet"
        self._numbers = numbers
        self._subject = subject
        self._spill = spill
        self._drop = drop
        self._dropped = Dropped()
        self._room = asyncio.Event()
        self.refill()

    async def accept(self, item: Relayed) -> None:
        """Take an event; wait for room if that is the way of this outbox."""
        packet = self._packet(item)
        while True:
            spill = self._spill
            if spill is not None and (spill.unread or (self.down and self._move())):
                if spill.append(packet):
                    return
            elif not self.window.full:
                if self._dropped and (lost := self._dropped.take(item[:3])) is not None:
                    self._add(self._packet(lost))
                self._add(packet)
                return
            elif self._drop and self.down:
                self._numbers.dropped += packet.events
                self._dropped.note(item)
                return
            self._room.clear()
            await self._room.wait()

    def set_down(self, why: str) -> None:
        """Note that the other side takes nothing, and why; with an empty text, that it takes events again."""
        self.down = self._numbers.problem = why
        if not why:
            self.refill()
            while self._dropped:
                self._add(self._packet(self._dropped.take_any()))
        elif self._spill is not None:  # at once: a link that is killed would lose what is in memory
            self._move()
        self._room.set()

    def acknowledge(self, number: int) -> None:
        """Note that the other side has a packet."""
        packet = self.window.remove(number)
        if packet is None:
            return
        self._numbers.sent += packet.events
        if self._spill is not None:
            if packet.position:
                oldest = self.window.oldest()
                # Not up to this packet: a stream may have refused the one before, and taken this.
                self._spill.taken(oldest.begin if oldest is not None and oldest.position else None)
            self.refill()
        if not self._room.is_set() and not self.window.full:
            self._room.set()

    def leave_out(self, number: int) -> None:
        """Give a packet up that the other side will never take, and tell it so."""
        packet = self.window.remove(number)
        if packet is not None:
            if packet.events:
                self._add(Packet(packet.subject, left_out(packet.headers), b"", 0))
            self.refill()
            self._room.set()

    def refill(self) -> None:
        """Move what is in the spill file to the window, as far as there is room."""
        spill = self._spill
        while spill is not None and spill.unread and not self.window.full:
            if (packet := spill.read()) is None:
                return
            self._add(packet)

    def measure(self) -> None:
        """Bring the numbers up to date."""
        oldest = self.window.oldest()
        self._numbers.waiting = self.window.events + (self._spill.events if self._spill else 0)
        self._numbers.lag = time.monotonic() - oldest.since if oldest is not None else 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not len(self.window) and not (self._spill and self._spill.unread)

    def close(self) -> None:
        """Close the spill file. What the other side has not taken stays in it."""
        if self._spill is not None:
            self._move()
            self._spill.close()

    def _add(self, packet: Packet) -> None:
        self.window.add(packet)
        self.changed.set()

    def _packet(self, item: Relayed) -> Packet:
        headers, body = encode(item)
        return Packet(self._subject(item.system, item.kind), headers, body, 1 if item.path else 0)

    def _move(self) -> bool:
        """Move the window to the spill file; return whether there was room for it."""
        spill, window = self._spill, self.window
        assert spill is not None
        for number in range(window.begin, window.end):
            packet = window.get(number)
            if packet is not None and not packet.position and not spill.append(packet):
                return False
        for _ in window.drain():
            pass
        spill.rewind()
        return True
