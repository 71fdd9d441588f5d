"""The headers of a NATS message: an event in the binary mode of CloudEvents, and what only zbus knows of it.

    Nats-Msg-Id, ce-id        origin.system.kind.seq: what is sent twice is stored once
    ce-source, ce-type        /zbus/<system>, and the kind
    ce-subject, ce-time       the path, and when it was sent
    ce-datacontenttype        application/json or application/octet-stream; none for an event without data
    zbus-origin, zbus-seq     who sent it, and its number
    zbus-via                  the buses on which it has been
    zbus-lost                 instead of an event, `first-last`: numbers that the link, or its bus, has lost
    zbus-next                 instead of an event: the number that the next event will have

The data is the body as it is. Values are percent-encoded as CloudEvents has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote, unquote

from ..errors import Invalid
from ..protocol.patterns import check_text
from ..protocol.relayed import Relayed, is_via
from ..protocol.wire import Malformed, check_sendable, decode_data

__all__ = ["decode", "encode", "left_out"]

JSON, BYTES = "application/json", "application/octet-stream"
_PLAIN = re.compile(r"[!#-$&-~]*")
_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")
_ORIGIN = re.compile(r"[0-9a-f]{8,16}")
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_LOST = re.compile(r"([1-9][0-9]{0,18})-([1-9][0-9]{0,18})")
_SHARED = "ce-specversion", "ce-source", "ce-type", "zbus-origin", "zbus-via"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode(item: Relayed) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a message."""
    name, headers = _of_stream(item[:3])
    headers = headers.copy()
    headers["zbus-via"] = item.via
    if not item.path:
        if item.first:
            headers["zbus-lost"] = f"{item.first}-{item.seq - 1}"
            headers["Nats-Msg-Id"] = f"{name}.lost.{item.first}-{item.seq - 1}"
        else:
            headers["zbus-next"] = str(item.seq)
        return headers, b""
    headers["Nats-Msg-Id"] = headers["ce-id"] = f"{name}.{item.seq}"
    headers["zbus-seq"] = str(item.seq)
    headers["ce-subject"] = _path_text(item.path)
    if item.time:
        headers["ce-time"] = _time_text(item.time)
    if not item.body:
        return headers, b""
    headers["ce-datacontenttype"] = BYTES if item.body[:1] == b"\0" else JSON
    return headers, item.body.removeprefix(b"\0")


def left_out(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that tell that the event with these headers is lost."""
    name, _, seq = headers["ce-id"].rpartition(".")
    told = {key: headers[key] for key in _SHARED}
    return told | {"zbus-lost": f"{seq}-{seq}", "Nats-Msg-Id": f"{name}.lost.{seq}-{seq}"}


def decode(names: tuple[str, str], headers: Mapping[str, str], body: bytes) -> Relayed:
    """Return what a message says of a topic, checked like a frame of another process.

    Raises:
        Malformed: it breaks a rule of the format; the text says which.
    """
    try:
        system, kind = _names(names)
    except Invalid as error:
        raise Malformed(error.message) from None
    origin, via = headers.get("zbus-origin", ""), headers.get("zbus-via", "")
    if not _is_source(origin, via):
        raise Malformed("no link has sent it: zbus-origin or zbus-via is missing or malformed")
    if (lost := headers.get("zbus-lost")) is not None:
        return _lost(Relayed(origin, system, kind, 0, via), lost)
    event = "zbus-next" not in headers
    seq = headers.get("zbus-seq" if event else "zbus-next", "")
    if not _NUMBER.fullmatch(seq):
        raise Malformed("zbus-seq or zbus-next is no number from 1")
    if not event:
        return Relayed(origin, system, kind, int(seq), via)
    try:
        path = _path(headers.get("ce-subject", ""))
    except (Invalid, ValueError) as error:
        raise Malformed(f"ce-subject is no path: {error}") from None
    time = _time(headers.get("ce-time", ""))
    return Relayed(origin, system, kind, int(seq), via, path, time, _data(headers, body))


# What many messages share is checked once.


@lru_cache(4096)
def _names(names: tuple[str, str]) -> tuple[str, str]:
    return check_sendable(*names)


@lru_cache(4096)
def _is_source(origin: str, via: str) -> bool:
    return _ORIGIN.fullmatch(origin) is not None and is_via(via)


@lru_cache(4096)
def _path(text: str) -> bytes:
    return check_text(unquote(text, errors="strict"), "path").encode()


def _data(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the data field for a body, which is checked if it claims to be JSON."""
    kind = headers.get("ce-datacontenttype", "")
    if kind == JSON and body[:1] not in (b"", b"\0"):
        decode_data(body)
        return body
    if kind == BYTES:
        return b"\0" + body
    if not kind and not body:
        return b""
    if kind.split(";")[0].strip() != JSON or body[:1] in (b"", b"\0"):
        raise Malformed(f"ce-datacontenttype {kind!r} is not {JSON} or {BYTES}, or there is no such data")
    decode_data(body)
    return body


def _lost(item: Relayed, text: str) -> Relayed:
    match = _LOST.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise Malformed("zbus-lost is not two numbers, the first and the last")
    return item._replace(first=int(match[1]), seq=int(match[2]) + 1)


@lru_cache(4096)
def _of_stream(key: tuple[str, str, str]) -> tuple[str, dict[str, str]]:
    """Return the name of a stream and the headers that all of its messages share."""
    origin, system, kind = key
    shared = {
        "ce-specversion": "1.0",
        "ce-source": f"/zbus/{_value(system)}",
        "ce-type": _value(kind),
        "zbus-origin": origin,
    }
    return f"{origin}.{_value(system)}.{_value(kind)}", shared


@lru_cache(4096)
def _path_text(path: bytes) -> str:
    return _value(path.decode())


def _value(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)


def _time_text(digits: bytes) -> str:
    text = digits.decode()
    return f"{_second(text[:-6])}.{text[-6:]:0>6}Z"


@lru_cache(16)
def _second(digits: str) -> str:
    try:
        return datetime.fromtimestamp(int(digits or "0"), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):  # no year that a calendar has
        return "9999-12-31T23:59:59"


def _time(text: str) -> bytes:
    """Return the field of a stamp for a time; empty if there is none, or none that can be read."""
    fraction = text[20:26]
    if text[26:] == "Z" and text[19] == "." and fraction.isdigit() and fraction.isascii():
        micros = _micros(f"{text[:19]}Z") + int(fraction)
    else:
        micros = _micros(text)
    return b"%d" % micros if micros >= 0 else b""


@lru_cache(16)
def _micros(text: str) -> int:
    """Return a time in microseconds since the epoch; below -1,000,000 if it cannot be read."""
    try:
        delta = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, TypeError, OverflowError):  # no time, or one without a zone
        return -2_000_000
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
