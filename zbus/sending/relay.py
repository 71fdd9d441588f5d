"""The relay: sends events of other buses under their own origin and number, for a link.

So numbers keep their meaning across the link: a hole in them is a loss, whichever side lost the event, and a
subscriber counts it at its true origin. What depends on this machine is stamped here: as of when all
subscribers are known, and from which number on they should have the stream (W55).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..errors import Invalid
from ..options import DEFAULT
from ..protocol.loss import MAX_GAP, MAX_TOPICS
from ..protocol.marks import mark_frame, mark_frames
from ..protocol.relayed import Relayed, RelayedTopic
from ..runtime.locks import Lock
from .attempts import Unsent, too_large_error
from .backlog import Backlog
from .links import Links
from .sockets import WOULD_BLOCK
from .tails import Tails

__all__ = ["Relay"]


class Sending(Protocol):
    """What this module needs of a publisher; see `Publisher`."""

    lock: Lock
    token: memoryview
    settled_token: int
    small_bytes: int
    block: Callable[[bytes], object] | None

    def drive(self, unsent: Unsent, timeout: float | None) -> Any:
        """Send the long way."""

    def emit(self, frame: bytes) -> None:
        """Send a frame."""


class Relay:
    """The streams of other buses that one publisher sends on. Any thread may call `send`.

    Attributes:
        events: how many events were sent on.
        repeated: how many were not, because a number as high was sent on before.
    """

    def __init__(self, publisher: Sending, links: Links, backlog: Backlog, max_event_bytes: int) -> None:
        """Send by `publisher`."""
        self._publisher = publisher
        self._links = links
        self._backlog = backlog
        self._max = max_event_bytes
        self._topics: dict[tuple[str, str, str], RelayedTopic] = {}
        self.events = 0
        self.repeated = 0

    def topics(self) -> Iterable[RelayedTopic]:
        """Return the streams that were sent on."""
        return self._topics.values()

    def knows(self, key: tuple[str, str, str], seq: int) -> bool:
        """Return whether this relay has sent on the number `seq` of a stream, or a higher one."""
        topic = self._topics.get(key)
        return topic is not None and seq <= topic.seq

    def send(self, item: Relayed, timeout: float | None = DEFAULT) -> Any:
        """Send an event on, or tell subscribers what is missing. The caller has checked all of it.

        What was sent on before is left out, and so is what has a lower number.

        Raises:
            Invalid: the frame is too large, or its number is further ahead than a stream can lose.
            Timeout, Canceled: as for `Sender.send`.
        """
        publisher = self._publisher
        try:
            with publisher.lock:
                if publisher.token[0] == publisher.settled_token and item.path:
                    topic = self._topics[item[:3]]
                    if topic.settled == self._links.settled and topic.via == item.via:
                        frame = self._frame(topic, item)
                        if frame is None or len(frame) <= publisher.small_bytes:
                            self._emit(topic, item, frame)
                            return None
        except (KeyError, *WOULD_BLOCK):
            pass
        return publisher.drive(Unsent(*item[1:3], item.path, item.body, 1, item), timeout)

    def transmit(self, item: Relayed, tails: Tails) -> None:
        """Send under the lock, when the links are settled; raise `zmq.Again` for want of room."""
        key = item[:3]
        topic = self._topics.get(key)
        if topic is None:
            topic = self._add(RelayedTopic(key, (item.first or item.seq) - 1), tails)
        if topic.settled != self._links.settled or topic.via != item.via:
            tails.tell(topic, twin_only=True)
            topic.renew(item.via, self._links.settled)
        frame = self._frame(topic, item)
        if not item.path:
            self._tell(topic, item, tails)
        large = 0 if frame is None or len(frame) <= self._publisher.small_bytes else len(frame)
        if large:
            self._backlog.announce(topic, item.system, item.kind, large)
        self._emit(topic, item, frame)
        if large:
            self._backlog.add(topic, large)
            self._links.pad(large, item.system, item.kind)

    def _tell(self, topic: RelayedTopic, item: Relayed, tails: Tails) -> None:
        """Tell `block` subscribers what is lost. The marks of a publisher at rest are for the others."""
        if self._publisher.block is not None:
            due = max(topic.seq + 1, item.seq)
            self._publisher.block(mark_frame(topic.template, due, item.time))
        if not item.first and topic.seq == topic.marked == item.seq - 1:
            # Those who have had the stream by another link, before this one, may have missed its end.
            for mark in mark_frames(topic.template, topic, item.time):
                tails.force(mark)

    def _frame(self, topic: RelayedTopic, item: Relayed) -> bytes | None:
        """Return the frame of an event; `None` if there is none to send."""
        if item.seq > topic.seq + MAX_GAP:
            raise Invalid(f"number {item.seq} is beyond what a stream can lose at once", number=item.seq)
        if not item.path or item.seq <= topic.seq:
            return None
        frame: bytes = topic.template % (item.path, item.seq, item.time, item.body)
        if len(frame) > self._max:
            raise too_large_error(len(frame), self._max)
        return frame

    def _emit(self, topic: RelayedTopic, item: Relayed, frame: bytes | None) -> None:
        if frame is not None:
            self._publisher.emit(frame)
            topic.seq = item.seq
            topic.bytes += len(frame)
            self.events += 1
        elif item.path:
            self.repeated += 1
        else:  # the next event tells, or a mark when the publisher is at rest
            topic.seq = max(topic.seq, item.seq - 1)

    def _add(self, topic: RelayedTopic, tails: Tails) -> RelayedTopic:
        if len(self._topics) >= MAX_TOPICS:
            oldest = self._topics.pop(next(iter(self._topics)))
            tails.tell(oldest)
        self._topics[topic.key] = topic
        return topic
