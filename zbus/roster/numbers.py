"""Live numbers: what a process has sent and received so far, for others to read in its member file.

    offset 40        which publication is the latest: a number n, 0 for none
    offset 65,536    slot of the even publications: 8 bytes length, then JSON
    offset 327,680   slot of the odd ones

The owner writes the slot first, and then n. So the slot of the latest publication is complete even if its
owner is killed while it writes the other one. A reader that finds the same n before and after it has read the
slot has read all of one publication. The other slot holds the publication before, until the owner writes the
next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple, TypeGuard

import orjson

from .file_access import open_regular

__all__ = [
    "MEMBER_BYTES",
    "SLOT_BYTES",
    "TEXT_END",
    "ChannelNumbers",
    "LinkCounts",
    "Numbers",
    "Publications",
    "TopicNumbers",
    "read_numbers",
    "read_publications",
    "write_numbers",
]

TEXT_END = 65_536
"""The text of a member file ends before this offset, and the first slot begins here."""

SLOT_BYTES = 262_144
MEMBER_BYTES = TEXT_END + 2 * SLOT_BYTES
"""No member file is larger."""

_LATEST_OFFSET = 40
_LENGTH_BYTES = 8
_BEGIN_BYTES = 4096
# A process publishes once a second, so the second try succeeds, unless somebody plays tricks.
_TRIES = 100


class TopicNumbers(NamedTuple):
    """What a process has sent to one topic, under its latest origin.

    Attributes:
        system, kind: the topic.
        events: how many events.
        bytes: how many bytes of frames. A batch is one frame.
    """

    system: str
    kind: str
    events: int
    bytes: int


class ChannelNumbers(NamedTuple):
    """What a channel has received.

    Attributes:
        id: 1 for the first subscription of the process, 2 for the next; it tells channels with the same
            patterns apart.
        system, kind: its patterns; kind is `*` if every kind matches.
        overflow: `"drop"`, `"block"` or `"latest"`.
        received: events that were taken out of its queue, including those superseded and mismatched. With
            `latest` these may still wait for the reader.
        lost, malformed, superseded, mismatched: as the attributes of `Channel`.
        unread: how many seconds the oldest event that waits for the reader has waited: 0 if none waits,
            `None` if unknown. See `docs/spec/roster.md`, R55, for how exact it is.
    """

    id: int
    system: str
    kind: str
    overflow: str
    received: int
    lost: int
    malformed: int
    superseded: int
    mismatched: int
    unread: float | None


class LinkCounts(NamedTuple):
    """What a link to other machines has done so far.

    Attributes:
        server: where it is connected; empty while it is not.
        sent: events that the other side has taken.
        received: events that were sent on here.
        refused: events left out: denied by the policy, malformed, or too large.
        dropped: events that were not carried because the other side was down.
        repeated: events that came again and were left out.
        waiting: events that the other side has not taken yet.
        behind: messages that wait on the other side for this link.
        reconnects: how often the connection was made again.
        lag: how many seconds the oldest event that is waiting has waited.
        problem: what keeps events from being carried now; empty if nothing does.
    """

    server: str
    sent: int
    received: int
    refused: int
    dropped: int
    repeated: int
    waiting: int
    behind: int
    reconnects: int
    lag: float
    problem: str


class Numbers(NamedTuple):
    """What a process has sent and received so far, as of `time`.

    A process counts once a second, and publishes only what has changed. So an old `time` means that it is
    idle.

    Attributes:
        time: when it was counted, in seconds since the epoch.
        events, bytes: how many events, and bytes of frames, the process has sent.
        topics: how many topics it has sent to; a topic counts again under each origin.
        received: how many events its open channels have received.
        channels: how many channels are open.
        joins: how often a subscriber has joined that the process sends to.
        by_topic: the topics, the busiest first, at most 1,000.
        by_channel: the open channels, in the order of their subscriptions. If patterns are long, some are
            left out.
        link: what it has carried, if it is a link to other machines; else `None`.
    """

    time: float
    events: int
    bytes: int
    topics: int
    received: int
    channels: int
    joins: int
    by_topic: tuple[TopicNumbers, ...]
    by_channel: tuple[ChannelNumbers, ...]
    link: LinkCounts | None = None


def write_numbers(fd: int, number: int, text: bytes) -> None:
    """Write publication `number` into a member file; `text` has at most `SLOT_BYTES` - 8 bytes.

    Raises:
        OSError: the file system, or a limit of this process, refused. The publication before is still there.
    """
    offset = _slot(number)
    data = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    done = 0
    while done < len(data):  # at a limit the first write is cut short; only the next fails
        done += os.pwrite(fd, data[done:], offset + done)
    os.pwrite(fd, number.to_bytes(8, "little"), _LATEST_OFFSET)


def _slot(number: int) -> int:
    return TEXT_END + number % 2 * SLOT_BYTES


class Publications(NamedTuple):
    """The last two publications of a process; `None` for one that is missing.

    Attributes:
        latest: the latest.
        former: the one before: a second older, or more if the process was idle in between.
    """

    latest: Numbers | None
    former: Numbers | None


def read_numbers(path: str | os.PathLike[str]) -> Numbers | None:
    """Return the latest publication in the member file at `path`; `None` if there is none."""
    return _numbers(_read(path)[0])


def read_publications(path: str | os.PathLike[str]) -> Publications:
    """Return the last two publications in the member file at `path`."""
    latest, former = map(_numbers, _read(path))
    if latest and former and former.time >= latest.time:  # its slot has the next one already
        former = None
    return Publications(latest, former)


def _read(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """Return the texts of the latest publication and of the one before; a missing one is empty."""
    with suppress(OSError):
        fd = open_regular(path)
        try:
            if os.fstat(fd).st_size <= MEMBER_BYTES:
                number, text = _latest(fd)
                return text, _former(fd, number)
        finally:
            os.close(fd)
    return b"", b""


def _latest(fd: int) -> tuple[int, bytes]:
    for _ in range(_TRIES):
        number = _unsigned(fd, _LATEST_OFFSET)
        if not number:
            break
        text = _text(fd, number)
        # The owner writes this slot again only once it has published another number.
        if _unsigned(fd, _LATEST_OFFSET) == number:
            return number, text
    return 0, b""


def _former(fd: int, number: int) -> bytes:
    """Return the text of the publication before `number`, if its owner has not begun to write over it.

    It writes from the beginning of the slot, so that is what changes first.
    """
    if number < 2:
        return b""
    begin = os.pread(fd, _BEGIN_BYTES, _slot(number - 1))
    text = _text(fd, number - 1)
    return text if os.pread(fd, _BEGIN_BYTES, _slot(number - 1)) == begin else b""


def _text(fd: int, number: int) -> bytes:
    """Return what the slot of a publication holds, or nothing if it ends early."""
    offset = _slot(number)
    length = _unsigned(fd, offset)
    text = os.pread(fd, min(length, SLOT_BYTES - _LENGTH_BYTES), offset + _LENGTH_BYTES)
    return text if len(text) == length else b""


def _numbers(text: bytes) -> Numbers | None:
    with suppress(ValueError):
        info = orjson.loads(text)
        if isinstance(info, dict) and (time := _count(info.get("time"))):
            return _parse(info, time)
    return None


def _unsigned(fd: int, offset: int) -> int:
    return int.from_bytes(os.pread(fd, 8, offset), "little")


def _parse(info: dict[str, Any], time: int) -> Numbers:
    sent, received = _object(info.get("sent")), _object(info.get("received"))
    return Numbers(
        time=time / 1_000_000,
        events=_count(sent.get("events")),
        bytes=_count(sent.get("bytes")),
        topics=_count(sent.get("topics")),
        received=_count(received.get("events")),
        channels=_count(received.get("channels")),
        joins=_count(info.get("joins")),
        by_topic=tuple(_topics(info.get("topics"))),
        by_channel=tuple(_channels(info.get("channels"))),
        link=_link(info["link"]) if isinstance(info.get("link"), dict) else None,
    )


def _link(row: dict[str, Any]) -> LinkCounts:
    known: dict[str, Any] = {name: _count(row.get(name)) for name in LinkCounts._fields}
    for name in ("server", "problem"):
        known[name] = row[name] if _name(row.get(name)) else ""
    known["lag"] = _seconds(row.get("lag")) or 0.0
    return LinkCounts(**known)


def _topics(rows: object) -> Iterator[TopicNumbers]:
    for row in _list(rows):
        system, kind, events, size = [*_list(row), "", "", 0, 0][:4]
        if _name(system) and _name(kind):
            yield TopicNumbers(system, kind, _count(events), _count(size))


def _channels(rows: object) -> Iterator[ChannelNumbers]:
    for row in map(_object, _list(rows)):
        system, kind, overflow = (row.get(field) for field in ("system", "kind", "overflow"))
        if _name(system) and _name(kind) and _name(overflow):
            yield ChannelNumbers(
                id=_count(row.get("id")),
                system=system,
                kind=kind,
                overflow=overflow,
                received=_count(row.get("received")),
                lost=_count(row.get("lost")),
                malformed=_count(row.get("malformed")),
                superseded=_count(row.get("superseded")),
                mismatched=_count(row.get("mismatched")),
                unread=_seconds(row.get("unread")),
            )


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value)


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        return None
    return float(value)
