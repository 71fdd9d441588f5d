"""The wire format: one ZeroMQ frame is one event or one batch.

    system NUL kind NUL path NUL stamp NUL data

`docs/spec/wire.md` is the norm and `tests/conformance/vectors/wire.json` its examples. Encoding
checks everything and raises `Invalid`, so nothing malformed is ever sent; decoding raises `Malformed`,
which the channel counts, so nothing malformed ever reaches a consumer. `decode` is complete and
plain. The channel's receive loop takes a short cut for the one commonest shape and comes here for
all others; a test holds the two to the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite
from typing import Any, NamedTuple, NoReturn

import orjson

from .errors import Invalid
from .patterns import check_name, check_text

__all__ = [
    "CONTROL",
    "Frame",
    "Malformed",
    "check_sendable",
    "decode",
    "encode_batch",
    "encode_data",
    "frame_template",
    "parse_stamp",
]

CONTROL = b"\xff"
"""First byte of a topic that is the bus's own (barriers and sentinels); no UTF-8 text begins so."""

_ORIGIN = re.compile(rb"[0-9a-f]{8,16}")
_SEQ = re.compile(rb"[0-9]{1,19}")
_BYTES_LIKE = (bytes, bytearray, memoryview)


class Malformed(ValueError):
    """A frame that is not an event; the text says which rule it breaks."""


class Frame(NamedTuple):
    """A decoded frame.

    Attributes:
        system, kind: the topic.
        origin: the publisher's incarnation, or empty if the frame is not stamped.
        seq: the number of the first item, or 0.
        born: when the origin began to number this topic, CLOCK_MONOTONIC in microseconds; -1 if untold.
        items: `(path, data)`, one for an event, one or more for a batch.
    """

    system: str
    kind: str
    origin: str
    seq: int
    born: int
    items: list[tuple[str, Any]]


def check_sendable(system: object, kind: object) -> None:
    """Raise unless `system` and `kind` are names that a user may send to.

    Raises:
        TypeError: one is not a `str`.
        Invalid: one is empty or not a name, or the system is `zbus` or below it.
    """
    name = check_name(system, "system")
    check_name(kind, "kind")
    if name == "zbus" or name.startswith("zbus."):
        raise Invalid(f"system {name!r} is reserved for the bus's own events: choose another", value=name)


def frame_template(system: str, kind: str, origin: str, born: int) -> bytes:
    """Return the bytes-format of a topic's frames; `% (path, seq, data)` completes one.

    One format operation per event costs 100 ns less than joining the parts (measured).
    """
    topic = f"{system}\0{kind}\0".replace("%", "%%")
    return f"{topic}%b\0{origin}.%d.{born}\0%b".encode()


def encode_data(data: Any) -> bytes:
    """Return the data field for `data`: any JSON value, bytes-like, or `None` for no data.

    Keys that are not strings become strings, as in the original.

    Raises:
        Invalid: JSON cannot carry it; the message names the type and where it is.
    """
    if data is None:
        return b""
    if isinstance(data, _BYTES_LIKE):
        return b"\0" + data
    try:
        text = orjson.dumps(data)
    except TypeError:
        text = _encode_odd(data)
    # orjson writes NaN and infinities as null, silently. Only then is the search worth its time.
    if text.find(b"null") >= 0:
        _refuse_non_finite(data, "data")
    return text


def _encode_odd(data: Any) -> bytes:
    try:
        text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise _unsendable(data, error) from error
    _refuse_twin_keys(data, "data")
    return text


def _children(value: Any, where: str) -> Iterable[tuple[Any, str]]:
    if isinstance(value, dict):
        return ((item, f"{where}[{key!r}]") for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ((item, f"{where}[{index}]") for index, item in enumerate(value))
    return ()


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise Invalid(f"{where} is {value!r}, which JSON cannot carry: send None or a string", where=where)
    for item, place in _children(value, where):
        _refuse_non_finite(item, place)


def _refuse_twin_keys(value: Any, where: str) -> None:
    if isinstance(value, dict):
        names = {str(key): key for key in value if isinstance(key, str)}
        for key in value:
            if isinstance(key, int) and not isinstance(key, bool) and str(key) in names:
                raise Invalid(f"{where} has both {key!r} and {str(key)!r}, one key in JSON", where=where)
    for item, place in _children(value, where):
        _refuse_twin_keys(item, place)


def _unsendable(data: Any, error: TypeError) -> Invalid:
    """Find the first value that orjson refuses and say where it is."""
    value, where = data, "data"
    reason = str(error)
    # Walk down: the culprit is a child that fails alone, else the value itself. The depth limit of
    # orjson ends the walk for a structure that contains itself.
    for _ in range(256):
        for item, place in _children(value, where):
            try:
                orjson.dumps(item, option=orjson.OPT_NON_STR_KEYS)
            except TypeError as inner:
                value, where, reason = item, place, str(inner)
                break
        else:
            break
    if "Recursion" in reason:
        return Invalid("data is nested more than 254 deep, or contains itself: flatten it", where="data")
    if isinstance(value, int):
        return Invalid(f"{where} is {value}, beyond 64 bits: send it as a string", where=where)
    if isinstance(value, str):
        return Invalid(f"{where} holds a lone surrogate, which UTF-8 cannot carry: {value!r}", where=where)
    if isinstance(value, _BYTES_LIKE):
        return Invalid(f"{where} is bytes: send bytes as the whole data, or encode them as text", where=where)
    if isinstance(value, dict):
        return Invalid(f"{where} has a key that JSON cannot carry: {reason}", where=where)
    kind = type(value).__name__
    return Invalid(f"{where} is of type {kind}, which JSON cannot carry: convert it first", where=where)


def encode_batch(items: Iterable[tuple[str, Any]]) -> tuple[bytes, int]:
    """Return the data field of a batch frame and the number of events in it.

    Raises:
        TypeError: an item is not a `(path, data)` pair, or a path is not a `str`.
        Invalid: an empty path, or data that a batch cannot carry (bytes go by `send`).
    """
    rows: list[tuple[Any, ...]] = []
    for index, item in enumerate(items):
        try:
            path, data = item
        except (TypeError, ValueError):
            raise TypeError(f"items[{index}] must be a (path, data) pair, not {item!r}") from None
        check_text(path, f"path of items[{index}]")
        if isinstance(data, _BYTES_LIKE):
            raise Invalid(f"items[{index}] has bytes, which a batch cannot carry: use send()", index=index)
        rows.append((path,) if data is None else (path, data))
    return (encode_data(rows), len(rows)) if rows else (b"", 0)


def decode(frame: bytes) -> Frame:
    """Decode a frame of any shape.

    Raises:
        Malformed: it breaks a rule of the format.
    """
    # Bytes data begins with NUL, so one split more than there are separators sets it free without
    # copying it twice.
    parts = frame.split(b"\0", 5)
    if len(parts) < 5:
        raise Malformed(f"{len(parts) - 1} separators where 4 are needed")
    system = _name(parts[0], "system")
    kind = _name(parts[1], "kind")
    origin, seq, born = parse_stamp(parts[3])
    if not parts[2]:
        return Frame(system, kind, origin, seq, born, _batch(parts))
    path = _utf8(parts[2], "path")
    return Frame(system, kind, origin, seq, born, [(path, _data(parts))])


def _data(parts: list[bytes]) -> Any:
    if len(parts) == 6:
        if parts[4]:
            raise Malformed("JSON text contains NUL")
        return parts[5]
    return _json(parts[4]) if parts[4] else None


def _batch(parts: list[bytes]) -> list[tuple[str, Any]]:
    if len(parts) == 6:
        raise Malformed("a batch is JSON, not bytes")
    rows = _json(parts[4])
    if not isinstance(rows, list) or not rows:
        raise Malformed("a batch is a JSON array with at least one item")
    return [_row(row) for row in rows]


def _row(row: Any) -> tuple[str, Any]:
    if not isinstance(row, list) or len(row) not in (1, 2):
        raise Malformed("a batch item is [path, data] or [path]")
    path = row[0]
    if not isinstance(path, str) or not path or "\0" in path:
        raise Malformed("a batch item's path is a non-empty string without NUL")
    return (path, row[1] if len(row) == 2 else None)


def parse_stamp(stamp: bytes) -> tuple[str, int, int]:
    """Return `(origin, seq, born)`: `("", 0, -1)` if empty; unknown further fields are ignored.

    Raises:
        Malformed: not of the form `origin.seq` with optional further fields.
    """
    if not stamp:
        return "", 0, -1
    origin, *numbers = stamp.split(b".", 3)[:3]
    if not _ORIGIN.fullmatch(origin):
        raise Malformed("origin is not 8 to 16 lowercase hex digits")
    if not numbers or not _SEQ.fullmatch(numbers[0]) or int(numbers[0]) < 1:
        raise Malformed("seq is not a decimal number from 1")
    born = int(numbers[1]) if len(numbers) == 2 and _SEQ.fullmatch(numbers[1]) else -1
    return origin.decode(), int(numbers[0]), born


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


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        _no("data is not JSON")


def _no(reason: str) -> NoReturn:
    raise Malformed(reason) from None
