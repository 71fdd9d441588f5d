"""What a link has dropped of each stream, until the other side can be told."""

from __future__ import annotations

from ..protocol.relayed import Relayed

__all__ = ["Dropped"]

_STREAMS_KEPT = 65_536

Key = tuple[str, str, str]


class Dropped:
    """The numbers that were dropped, by stream. It is true while there are any."""

    def __init__(self) -> None:
        self._streams: dict[Key, Relayed] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def note(self, item: Relayed) -> None:
        """Note what is dropped; within a stream, in order."""
        key = item[:3]
        before = self._streams.pop(key, None)
        begin = before if before is not None else item
        first, end = begin.first or begin.seq, item.seq + bool(item.path)
        self._streams[key] = Relayed(*key, end, item.via, first=first if first < end else 0)
        if len(self._streams) > _STREAMS_KEPT:  # the next event of that stream tells
            self._streams.pop(next(iter(self._streams)))

    def take(self, key: Key) -> Relayed | None:
        """Return what is to be told of a stream before its next event, and forget it; `None` if nothing."""
        return self._streams.pop(key, None)

    def take_any(self) -> Relayed:
        """Return what is to be told of some stream, and forget it."""
        return self._streams.pop(next(iter(self._streams)))
