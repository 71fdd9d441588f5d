"""Live numbers: what a node has sent and received so far, published once a second in its member file.

Everything is taken from what exists anyway: the numbers of topics and of streams, and the counts of channels.
So `send` only adds up bytes, and `receive` does nothing. Where there is much to look at (60,000 topics), it
is looked at less often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, TypeVar

import orjson

from ..roster.members import Member
from ..roster.numbers import SLOT_BYTES
from ..sending.links import Links
from ..sending.publisher import Publisher
from .channels import Channels

__all__ = ["LiveNumbers"]

_TOPICS_SHOWN = 1000
_CHANNEL_BYTES = SLOT_BYTES // 2
_TOPIC_BYTES = SLOT_BYTES // 2 - 1024
_NAME_CHARS = 4096
# Counting takes this share of a core at most.
_CPU_SHARE = 0.005

Row = TypeVar("Row")


class LiveNumbers:
    """Counts and publishes for one node.

    Attributes:
        link: returns what a link has carried, by name; `None` if this node is not of one.
    """

    link: Callable[[], dict[str, object]] | None = None

    def __init__(self, publisher: Publisher[Any], links: Links, channels: Channels, member: Member) -> None:
        """Publish what these have counted in the file of `member`."""
        self._publisher = publisher
        self._links = links
        self._channels = channels
        self._member = member
        self._due = 0.0
        self._published = b""

    def publish(self) -> None:
        """Publish what has changed. Called once a second, it looks less often if a look takes long."""
        if (now := time.monotonic()) < self._due:
            return
        begun = time.thread_time()
        text = self._text(now)
        if text != self._published:
            self._published = text
            self._member.publish(b'{"time":%d,%b' % (time.time_ns() // 1000, text[1:]))
        self._due = now + (time.thread_time() - begun) / _CPU_SHARE

    def _text(self, now: float) -> bytes:
        sent = self._publisher.streams.numbers(_TOPICS_SHOWN)
        channels = self._channels.numbers(now)
        link = {} if self.link is None else {"link": self.link()}
        return orjson.dumps(
            link
            | {
                "sent": {"events": sent.events, "bytes": sent.bytes, "topics": sent.topics},
                "received": {
                    "events": sum(channel["received"] for channel in channels),
                    "channels": len(channels),
                },
                "joins": self._links.joins,
                "topics": _fitting(((row, row[0], row[1]) for row in sent.busiest), _TOPIC_BYTES),
                "channels": _fitting(((row, row["system"], row["kind"]) for row in channels), _CHANNEL_BYTES),
            }
        )


def _fitting(rows: Iterable[tuple[Row, str, str]], most: int) -> list[Row]:
    """Return the first rows that take up to `most` bytes, without any whose names are very long."""
    shown = [row for row, *names in rows if max(map(len, names)) <= _NAME_CHARS]
    sizes = accumulate(len(orjson.dumps(row)) + 1 for row in shown)
    return [row for row, size in zip(shown, sizes, strict=True) if size <= most]
