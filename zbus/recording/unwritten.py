"""The events that arrived after the file could not be written any more: how many, and which."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from .chunk import PackedChunk, bodies

__all__ = ["Unwritten", "UnwrittenStream"]


class UnwrittenStream(NamedTuple):
    """What is missing of one publisher and topic.

    Attributes:
        events: how many arrived.
        first, last: the numbers of the first and the last that are missing, lost ones among them.
    """

    events: int
    first: int
    last: int


class Unwritten:
    """Counts the events of chunks that are not in the file.

    Attributes:
        streams: what is missing, by origin, system and kind.
    """

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str, str], UnwrittenStream] = {}

    @property
    def events(self) -> int:
        """How many events arrived and are not in the file."""
        return sum(stream.events for stream in self.streams.values())

    def add(self, chunk: PackedChunk) -> None:
        """Count what is in a chunk. Chunks come in the order in which they were recorded."""
        for text in bodies(chunk):
            body = orjson.loads(text)
            is_event = "seq" in body
            first, last = (body["seq"],) * 2 if is_event else (body["first"], body["last"])
            key = body["origin"], body["system"], body["kind"]
            was = self.streams.get(key) or UnwrittenStream(0, first, last)
            self.streams[key] = UnwrittenStream(was.events + is_event, was.first, max(was.last, last))
