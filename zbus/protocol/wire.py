"""The wire format: one ZeroMQ frame is one event or one batch.

    system NUL kind NUL path NUL stamp NUL data

`docs/spec/wire.md` is the norm, and `tests/conformance/vectors/wire.json` has examples. Encoding checks
everything and raises `Invalid`, so nothing malformed is sent. Decoding raises `Malformed`, which the channel
counts, so nothing malformed reaches a consumer. `decode` is complete and plain. The decoder of a channel has
a short cut for the most common shape of frame and comes here for all others; a test holds both to the same
answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import repeat, starmap
from operator import countOf, itemgetter
from typing import Any, NamedTuple, NoReturn

import orjson

from ..errors import Invalid
from ..event import Event
from .exact import fragments_about, unsendable, verify
from .nulls import count_nones
from .patterns import check_name, check_text

__all__ = [
    "CONTROL",
    "EMPTY_BATCH",
    "FILLER",
    "LARGE_BYTES",
    "NOTICE",
    "TWIN",
    "Frame",
    "Malformed",
    "Stamp",
    "check_data",
    "check_sendable",
    "decode",
    "decode_batch",
    "decode_data",
    "decode_fields",
    "decode_notice",
    "decode_topic",
    "encode_batch",
    "encode_data",
    "encode_notice",
    "frame_template",
    "parse_stamp",
    "sent_at",
    "sent_in",
]

CONTROL = b"\xff"
"""The first byte of the bus's own topics (barriers, sentinels, notices). No UTF-8 text begins with it."""

NOTICE = CONTROL + b"!"
"""How a notice begins. It tells receivers how many bytes of large frames are about to arrive."""

FILLER = b"~"
"""The end of a filler: a sentinel and this make a frame that means nothing and takes a place in queues."""

TWIN = CONTROL + b"#"
"""How a twin begins: a mark once more, for the receiving process itself, whose channels may be full. It sorts
before every sentinel, so a publisher that has read the sentinel of a new connection can send twins too."""

LARGE_BYTES = 1024
"""Frames of more bytes are large. 65,536 smaller ones, the default capacity, are at most 64 MiB."""

EMPTY_BATCH = b"[]"
"""The data of a mark: a batch without items, which tells which number the next event will have."""

_ORIGIN = re.compile(rb"[0-9a-f]{8,16}")
_SEQ = re.compile(rb"[0-9]{1,19}")
_FIRST = itemgetter(0)
_BYTES_LIKE = (bytes, bytearray, memoryview)


class Malformed(ValueError):
    """A frame breaks the wire format; the text says which rule."""


class Stamp(NamedTuple):
    """Who sent a frame, and when. Times are microseconds, of CLOCK_MONOTONIC but for `time`; -1 is untold.

    Attributes:
        origin: the publisher's incarnation; empty if the frame is not stamped.
        seq: the number of the first event; 0 if the frame is not stamped.
        born: when the origin began to number this topic.
        settled: when the publisher last settled who listens.
        first: the first number of this topic that it sent after that.
        time: when the frame was sent, by CLOCK_REALTIME.
    """

    origin: str = ""
    seq: int = 0
    born: int = -1
    settled: int = -1
    first: int = -1
    time: int = -1


class Frame(NamedTuple):
    """A decoded frame: its topic, its stamp, and one event or those of a batch."""

    system: str
    kind: str
    stamp: Stamp
    events: list[Event]


def check_sendable(system: object, kind: object) -> tuple[str, str]:
    """Return `system` and `kind` as plain strings if a user may send to them.

    Raises:
        TypeError: one is not a `str`.
        Invalid: one is empty or not a name, or the system is `zbus` or begins with `zbus.`.
    """
    name = check_name(system, "system")
    which = check_name(kind, "kind")
    if name == "zbus" or name.startswith("zbus."):
        raise Invalid(f"system {name!r} is reserved for the bus's own events: choose another", value=name)
    return name, which


def frame_template(system: str, kind: str, stamp: Stamp) -> bytes:
    """Return a bytes template for the frames of a topic; `template % (path, seq, time, data)` is a frame.

    `time` is the text of the stamp's field. One format operation costs 100 ns less than joining the parts
    (measured).
    """
    topic = f"{system}\0{kind}\0".replace("%", "%%")
    born = f"{stamp.born}" if stamp.born >= 0 else ""
    since = f"{stamp.settled}.{stamp.first}" if born and stamp.settled >= 0 else "."
    return f"{topic}%b\0{stamp.origin}.%d.{born}.{since}.%b\0%b".encode()


def encode_data(data: Any) -> bytes:
    """Return the data field for `data`: any JSON value, bytes-like, or `None` for no data.

    Keys that are not strings become strings.

    Raises:
        Invalid: JSON cannot carry it; the message names the type and the place.
    """
    if data is None:
        return b""
    if isinstance(data, _BYTES_LIKE):
        try:
            return b"".join((b"\0", data.tobytes() if isinstance(data, memoryview) else data))
        except ValueError as error:
            raise Invalid(f"data is a memoryview that cannot be read: {error}", where="data") from error
    try:
        text = orjson.dumps(data)
    except TypeError:
        return _encode_odd(data, "data")
    return check_data(data, text)


def check_data(data: Any, text: bytes) -> bytes:
    """Return the data field for `data`, which orjson has encoded as `text`; raise as `encode_data` does."""
    if data is None:
        return b""
    if fragments_about() or ((nulls := text.count(b"null")) and count_nones((data,)) != nulls):
        verify(data, text, "data")
    return text


def _encode_odd(data: Any, where: str) -> bytes:
    try:
        text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise unsendable(data, where, error) from error
    verify(data, text, where, odd=True)
    return text


def encode_batch(items: Iterable[tuple[str, Any]]) -> tuple[bytes, int]:
    """Return the data field of a batch frame and the number of events in it.

    Raises:
        TypeError: an item is not a `(path, data)` pair, or a path is not a `str`.
        Invalid: an empty path, or data that a batch cannot carry (`bytes` need `send`).
    """
    try:
        rows = items if type(items) is list else list(items)
    except TypeError as error:
        raise TypeError(f"items must be (path, data) pairs, not {items!r}") from error
    if not rows:
        return b"", 0
    # Columns instead of a loop: 60 instead of 110 ns an event (measured). `_encode_rows` deals with all that
    # is not plain.
    try:
        paths, datas = zip(*rows, strict=True)
        # Check the text itself, whatever a subclass of `str` pretends: one NUL between any two paths, no NUL
        # in a path, and no empty path.
        joined = "\0".join(paths)
        if joined.count("\0") != len(rows) - 1 or joined.rfind("\0\0") >= 0:
            raise ValueError
        if not joined or "\0" in (joined[0], joined[-1]):
            raise ValueError
        # Counting is faster than making a set, and nearly always all rows are tuples.
        if countOf(map(type, rows), tuple) != len(rows) and not {*map(type, rows)} <= {tuple, list}:
            raise ValueError
        text = orjson.dumps(rows)
    except (TypeError, ValueError):
        text = _encode_rows(rows)
        return text, len(rows)
    if fragments_about() or ((nulls := text.count(b"null")) and count_nones(datas) != nulls):
        verify(rows, text, "items")
    return text, len(rows)


def _encode_rows(rows: list[Any]) -> bytes:
    """Encode a batch row by row, or say which item is wrong."""
    pairs = []
    for index, row in enumerate(rows):
        pair = tuple(row) if isinstance(row, (tuple, list)) else ()
        if len(pair) != 2:
            raise TypeError(f"items[{index}] must be a (path, data) pair, not {row!r}")
        path, data = pair
        if isinstance(data, _BYTES_LIKE):
            raise Invalid(f"items[{index}] has bytes, which a batch cannot carry: use send()", index=index)
        pairs.append((check_text(path, f"path of items[{index}]"), data))
    return _encode_odd(pairs, "items")


def decode(frame: bytes) -> Frame:
    """Decode a frame of any shape.

    Raises:
        Malformed: it breaks the format.
    """
    return decode_fields(frame.split(b"\0", 4))


def decode_fields(fields: list[bytes]) -> Frame:
    """Decode a frame that was split at its first four NULs, as `decode` does."""
    system, kind = decode_topic(fields)
    stamp = parse_stamp(fields[3])
    time = stamp.time / 1e6 if stamp.time >= 0 else None
    if fields[2]:
        path = _utf8(fields[2], "path")
        events = [Event(system, kind, path, decode_data(fields[4]), stamp.origin, stamp.seq, time)]
    else:
        events = decode_batch(system, kind, stamp.origin, stamp.seq, time, fields[4])
    return Frame(system, kind, stamp, events)


def decode_topic(fields: list[bytes]) -> tuple[str, str]:
    """Return the system and kind of a frame that was split at its first four NULs.

    Raises:
        Malformed: there are fewer NULs, or one of the two is not a name.
    """
    if len(fields) < 5:
        raise Malformed(f"{len(fields) - 1} separators where 4 are needed")
    return _name(fields[0], "system"), _name(fields[1], "kind")


def decode_data(data: bytes) -> Any:
    """Return the data in a data field.

    Raises:
        Malformed: it is neither empty, nor NUL and bytes, nor JSON.
    """
    if not data:
        return None
    if not data[0]:
        return data[1:]
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        _no("data is not JSON")


def decode_batch(
    system: str, kind: str, origin: str, seq: int, time: bytes | float | None, data: bytes
) -> list[Event]:
    """Return the events of a batch, numbered from `seq` on; for `time` see `Event.raw_time`.

    Raises:
        Malformed: `data` is not a batch.
    """
    rows = decode_data(data)
    if not isinstance(rows, list):
        raise Malformed("a batch is a JSON array with at least one item")
    if not rows and origin:
        return []  # a mark
    if not rows:
        raise Malformed("a batch is a JSON array with at least one item, unless a stamp makes it a mark")
    head = system, kind, origin, seq, time
    try:
        # 40 ns an event for all that is checked here (measured); `_row` deals with what is not plain.
        paths = list(map(_FIRST, rows))
        if countOf(map(type, rows), list) != len(rows) or not all(paths) or "\0" in "".join(paths):
            raise TypeError
        return _numbered(rows, *head)
    except (TypeError, ValueError, LookupError):
        return _numbered(list(map(_row, rows)), *head)


def _numbered(
    rows: list[Any], system: str, kind: str, origin: str, seq: int, time: bytes | float | None
) -> list[Event]:
    """Return the events of [path, data] rows."""
    count = len(rows)
    numbers = range(seq, seq + count) if origin else repeat(0, count)
    # `Event(...)` in a loop takes 400 ns an event, this 110: `starmap` makes them without a tuple for each
    # call, and rows are unpacked straight into the slots (measured).
    events: list[Event] = list(starmap(object.__new__, repeat((Event,), count)))
    evt: Event
    for evt, (evt.path, evt.data), evt.seq in zip(events, rows, numbers, strict=True):
        evt.system = system
        evt.kind = kind
        evt.origin = origin
        evt.raw_time = time
    return events


def _row(row: Any) -> tuple[str, Any]:
    """Return the path and data of a batch item, which may be just `[path]`."""
    if not isinstance(row, list) or len(row) not in (1, 2):
        raise Malformed("a batch item is [path, data] or [path]")
    if not isinstance(row[0], str) or not row[0] or "\0" in row[0]:
        raise Malformed("a batch item's path is a non-empty string without NUL")
    return row[0], row[1] if len(row) == 2 else None


def encode_notice(system: str, kind: str, size: int) -> bytes:
    """Return the notice that `size` bytes of large frames of a topic are about to arrive."""
    return b"%b%b\0%b\0%d" % (NOTICE, system.encode(), kind.encode(), size)


def decode_notice(frame: bytes) -> tuple[str, str, int] | None:
    """Return the system, kind and bytes in a notice, or `None` if `frame` is not a notice."""
    fields = frame.removeprefix(NOTICE).split(b"\0")
    if len(fields) != 3 or not _SEQ.fullmatch(fields[2]):
        return None
    try:
        return fields[0].decode(), fields[1].decode(), int(fields[2])
    except UnicodeDecodeError:
        return None


def parse_stamp(stamp: bytes) -> Stamp:
    """Return the fields of a stamp, which may be empty; ignore unknown further fields.

    Raises:
        Malformed: it is not `origin.seq` with optional further fields.
    """
    if not stamp:
        return Stamp()
    origin, *numbers = stamp.split(b".", 6)[:6]
    if not _ORIGIN.fullmatch(origin):
        raise Malformed("origin is not 8 to 16 lowercase hex digits")
    if not numbers or not _SEQ.fullmatch(numbers[0]) or int(numbers[0]) < 1:
        raise Malformed("seq is not a decimal number from 1")
    return Stamp(origin.decode(), *(int(text) if _SEQ.fullmatch(text) else -1 for text in numbers))


def sent_at(frame: bytes) -> float | None:
    """Return when a frame with events was sent, in seconds since the epoch; `None` if it does not tell."""
    fields = frame.split(b"\0", 4)
    if len(fields) < 5 or (not fields[2] and fields[4] == EMPTY_BATCH):  # a control frame, or a mark
        return None
    try:
        time = parse_stamp(fields[3]).time
    except Malformed:
        return None
    return None if time < 0 else time / 1e6


def sent_in(stamp: bytes) -> float | None:
    """Return the time in a well-formed stamp, in seconds since the epoch; `None` if it does not tell."""
    fields = stamp.split(b".", 6)
    digits = fields[5] if len(fields) > 5 else b""
    return int(digits) / 1e6 if digits.isdigit() and len(digits) <= 19 else None


def _utf8(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _no(f"{what} is not UTF-8")


def _name(raw: bytes, what: str) -> str:
    try:
        return check_name(_utf8(raw, what), what)
    except Invalid as error:
        raise Malformed(error.message) from None


def _no(reason: str) -> NoReturn:
    raise Malformed(reason) from None
