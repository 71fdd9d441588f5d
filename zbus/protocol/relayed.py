"""Relayed events: those of another bus, sent on by a link under the origin and number that they have (W55).

A relayed frame is like any other. Two things differ in its stamp. It has no `born`: that is a time of the
machine of its publisher. And after `time` it has `via`, the ids of the buses on which the event has been, so
that no link brings it back to one of them.

    origin.seq..settled.first.time.via
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .marks import Topic

__all__ = [
    "MAX_BUSES",
    "Relayed",
    "RelayedTopic",
    "is_relayed",
    "is_via",
    "relayed_template",
    "via_after",
    "via_in",
]

MAX_BUSES = 32
"""On more buses no event has been; a longer `via` is not one."""

_VIA = re.compile(rf"[0-9a-f]{{16}}(?:-[0-9a-f]{{16}}){{0,{MAX_BUSES - 1}}}")

Key = tuple[str, str, str]


class Relayed(NamedTuple):
    """What crosses a link: an event, or if `path` is empty, what is known of events that are missing.

    Attributes:
        origin, system, kind: its stream.
        seq: its number. Without an event, the number that the next event will have.
        via: the buses on which it has been, joined by `-`.
        path: its path, encoded.
        time: when it was sent, in microseconds since the epoch as text; empty if untold.
        body: its data field.
        first: without an event, from which number on those before `seq` are lost; 0 if that is not known.
    """

    origin: str
    system: str
    kind: str
    seq: int
    via: str
    path: bytes = b""
    time: bytes = b""
    body: bytes = b""
    first: int = 0


class RelayedTopic(Topic):
    """A stream of another bus that a link sends on.

    Attributes:
        key: its origin, system and kind.
        via: what its template says of the buses on which its events have been.
        settled: as of when its template says that all subscribers are known.
    """

    __slots__ = ("key", "settled", "via")

    def __init__(self, key: Key, seq: int) -> None:
        """Continue after the number `seq`."""
        super().__init__(-1)
        self.key = key
        self.via = ""
        self.settled = -2
        self.seq = self.marked = seq
        self.first = seq + 1

    def renew(self, via: str, settled: int) -> None:
        """Make a new template; `settled` is as of when all subscribers are known, -1 if no clock tells."""
        self.via, self.settled = via, settled
        self.first = self.seq + 1
        self.template = relayed_template(self.key, via, settled, self.first)


def relayed_template(key: Key, via: str, settled: int, first: int) -> bytes:
    """Return a template for the frames of a stream. It takes the values that `frame_template` takes."""
    origin, system, kind = key
    topic = f"{system}\0{kind}\0".replace("%", "%%")
    since = f"{settled}.{first}" if settled >= 0 else "."
    return f"{topic}%b\0{origin}.%d..{since}.%b.{via}\0%b".encode()


@lru_cache(4096)
def is_via(text: str) -> bool:
    """Return whether a text names the buses on which an event has been."""
    return _VIA.fullmatch(text) is not None


def via_in(rest: bytes) -> str:
    """Return the buses that the end of a stamp names, given from after `time` on; empty if it names none."""
    text = rest.partition(b".")[0].decode("latin-1")
    return text if is_via(text) else ""


def is_relayed(stamp: bytes) -> bool:
    """Return whether the stamp of a frame says that a link has sent it on."""
    fields = stamp.split(b".", 6)
    return len(fields) > 6 and via_in(fields[6]) != ""


def via_after(via: str, bus: str) -> str:
    """Return the buses of an event that has been on `bus`, too."""
    return f"{via}-{bus}" if via else bus
