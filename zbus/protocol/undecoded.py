"""From frames to what they say, with their data as it came: for readers that pass events on.

Losses are counted as for any channel. Only the data is left alone, so an event costs half of what decoding it
costs. Whoever uses the data has to check that it is JSON.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..event import Event, Gap, Mismatch
from .loss import Stream, Streams

__all__ = ["Item", "Undecoded", "reader"]

Undecoded = tuple[Stream, int, bytes, bytes, bytes]
"""An event: its stream, its number, its path, the stamp from `born` on, and its data field."""

Item = Undecoded | Event | Gap
"""Events of a batch, and those of a stream that was not known, are decoded."""


def reader(
    streams: Streams,
    batch: Callable[[Stream, list[bytes]], object],
    otherwise: Callable[[list[bytes]], object],
    rest: Callable[[], Event | None],
    reports: deque[Gap | Mismatch],
) -> Callable[[list[bytes]], list[Item]]:
    """Return a function that reads frames, in the order in which they arrived.

    It is the short cut of `Decoder` without the decoding, and for many frames at once, which saves a call for
    each. What has another shape goes to `batch` or `otherwise`, as there; the events that are then left for
    `rest` follow the `reports` of what was lost before them.
    """
    find = streams.find
    stream = unknown = Stream((b"", b"", b""), False)

    def left(items: list[Item]) -> None:
        items += (report for report in reports if isinstance(report, Gap))
        reports.clear()
        while (evt := rest()) is not None:
            items.append(evt)

    def read(frames: list[bytes]) -> list[Item]:
        nonlocal stream
        items: list[Item] = []
        left(items)  # what a mark told that came by another way
        for frame in frames:
            fields = frame.split(b"\0", 4)
            try:
                system, kind, path, stamp, data = fields
                origin, digits, more = stamp.split(b".", 2)
                if origin != stream.origin_key or kind != stream.kind_key or system != stream.system_key:
                    stream = find((system, kind, origin)) or unknown
                seq = int(digits)
                if seq != stream.next or len(digits) > stream.width or seq < 1:
                    raise ValueError
                if path:
                    stream.next = seq + 1
                    items.append((stream, seq, path, more, data))
                    continue
                batch(stream, fields)
            except ValueError:
                otherwise(fields)
            left(items)
        return items

    return read
