"""The verbs of the driver that need no bus: patterns, frames, names and numbers."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from zbus.errors import Invalid
from zbus.event import Event
from zbus.protocol import decoder as decoding
from zbus.protocol.decoder import Decoder
from zbus.protocol.loss import MAX_TOPICS, Streams
from zbus.protocol.patterns import Matcher, check_text, prefixes
from zbus.protocol.sentinels import parse_sentinel
from zbus.protocol.wire import (
    Malformed,
    check_sendable,
    encode_batch,
    encode_data,
    frame_template,
    parse_stamp,
)
from zbus.roster.file_names import is_member, is_scratch, is_socket, parse_entry
from zbus.roster.location import default_root, locate
from zbus.roster.numbers import read_numbers

__all__ = ["RULES", "data_of", "name_of", "told"]

Fields = dict[str, Any]
_KINDS = {"socket": is_socket, "member": is_member, "new": is_scratch, "token": "token".__eq__}
_ROOT_VARIABLES = ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME")


def data_of(fields: Fields) -> Any:
    """Return the data of a request, as a user would pass it."""
    if "hex" in fields:
        return bytes.fromhex(fields["hex"])
    if "json" not in fields:
        return None
    try:
        return json.loads(fields["json"])
    except ValueError as error:
        raise Invalid(f"data is not JSON: {error}") from error


def name_of(fields: Fields, field: str) -> Any:
    """Return a name of a request; what is not UTF-8 comes as bytes."""
    raw = fields.get(f"{field}_hex")
    return fields.get(field) if raw is None else bytes.fromhex(raw).decode(errors="surrogatepass")


def told(evt: Event) -> Fields:
    """Return an event as the kit wants to see it."""
    answer = {"system": evt.system, "kind": evt.kind, "path": evt.path, "origin": evt.origin, "seq": evt.seq}
    if isinstance(evt.data, bytes):
        answer["hex"] = evt.data.hex()
    elif evt.data is not None:
        answer["json"] = _text(evt.data)
    answer["time"] = None if evt.time is None else round(evt.time * 1e6)
    return answer


def _text(data: Any) -> str:
    try:
        return orjson.dumps(data).decode()
    except TypeError:  # nested too deep for orjson
        sys.setrecursionlimit(20_000)
        return json.dumps(data)


def _refuses(action: Callable[[], object]) -> bool:
    try:
        action()
        return False
    except Invalid:
        return True


def _or_none(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Invalid:
        return None


def _patterns(fields: Fields) -> Fields:
    def found(system: str, kind: str | None) -> list[str]:
        admitted = prefixes(Matcher(system), Matcher(kind) if kind else None)
        return sorted(prefix.hex() for prefix in admitted)

    cases, asked, invalid = (fields.get(name, ()) for name in ("cases", "prefixes", "invalid"))
    return {
        "matches": [_or_none(lambda c=c: Matcher(c["pattern"]).matches(c["name"])) for c in cases],
        "prefixes": [_or_none(lambda c=c: found(c["system"], c.get("kind"))) for c in asked],
        "refused": [_refuses(lambda c=c: Matcher(c["pattern"])) for c in invalid],
    }


@contextmanager
def _knowing(limit: int) -> Iterator[None]:
    """Have channels know so many streams; no user can choose that."""
    decoding.Streams = lambda wants: Streams(wants, limit)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        decoding.Streams = Streams  # type: ignore[misc]


def _decode(fields: Fields) -> Fields:
    kind = fields.get("kind")
    with _knowing(fields.get("limit") or MAX_TOPICS):
        channel = Decoder(Matcher(fields["system"]), Matcher(kind) if kind else None)
    announced, joined = fields.get("announced"), fields.get("joined")
    channel.joined(*((-1, -1) if announced is None or joined is None else (announced, joined)))
    return {"frames": [_frame(channel, bytes.fromhex(row["hex"])) for row in fields["frames"]]}


def _frame(channel: Decoder, frame: bytes) -> Fields:
    channel.gaps.clear()
    event = channel.decode(frame)
    events = [] if event is None else [event]
    while channel.batch is not None:
        events += filter(None, [channel.rest()])
    row: Fields = {
        "events": [told(evt) for evt in events],
        "gaps": [[gap.first, gap.last] for gap in channel.gaps],
        "lost": channel.lost,
        "malformed": channel.malformed,
    }
    try:
        stamp = parse_stamp(frame.split(b"\0", 4)[3])
        row.update(born=stamp.born, settled=stamp.settled, first=stamp.first)
    except (IndexError, Malformed):
        pass
    return row


def _encode(fields: Fields) -> Fields:
    system, kind = check_sendable(name_of(fields, "system"), name_of(fields, "kind"))
    if "items" in fields:
        items = [(name_of(item, "path"), data_of(item)) for item in fields["items"]]
        path, (data, _) = b"", encode_batch(items)
    else:
        path = check_text(name_of(fields, "path"), "path").encode()
        data = encode_data(data_of(fields))
    if "stamp" not in fields:
        return {"hex": b"\0".join([system.encode(), kind.encode(), path, b"", data]).hex()}
    stamp = parse_stamp(fields["stamp"].encode())
    time = b"" if stamp.time < 0 else b"%d" % stamp.time
    return {"hex": (frame_template(system, kind, stamp) % (path, stamp.seq, time, data)).hex()}


def _file(name: str) -> Fields | None:
    entry = parse_entry(name)
    if entry is not None:
        return dict(entry._asdict())
    return next(({"is": what} for what, test in _KINDS.items() if test(name)), None)


def _sentinel(topic: bytes) -> Fields | None:
    found = parse_sentinel(topic)
    return None if found is None else {"ingress": found[0], "epoch": found[1]}


def _root(variables: dict[str, str]) -> str:
    before = dict(os.environ)
    try:
        for variable in _ROOT_VARIABLES:
            os.environ.pop(variable, None)
        os.environ.update(variables)
        return str(default_root())
    finally:
        os.environ.clear()
        os.environ.update(before)


def _names(fields: Fields) -> Fields:
    return {
        "files": [_file(os.fsdecode(bytes.fromhex(row["hex"]))) for row in fields.get("files", ())],
        "sentinels": [_sentinel(bytes.fromhex(row["hex"])) for row in fields.get("sentinels", ())],
        "buses": [
            not _refuses(lambda row=row: locate("/run/zbus", row["name"])) for row in fields.get("buses", ())
        ],
        "roots": [_root(row["env"]) for row in fields.get("roots", ())],
    }


def _numbers(fields: Fields) -> Fields:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0123456789abcdef.member"
        path.write_bytes(bytes.fromhex(fields["hex"]))
        found = read_numbers(path)
    if found is None:
        return {"numbers": None}
    told = found._asdict()
    told["time"] = round(told["time"] * 1_000_000)
    told["by_topic"] = [[*row] for row in told["by_topic"]]
    told["by_channel"] = [row._asdict() for row in told["by_channel"]]
    del told["link"]  # which no other peer has
    return {"numbers": told}


RULES: dict[str, Callable[[Fields], Fields]] = {
    "patterns": _patterns,
    "decode": _decode,
    "encode": _encode,
    "names": _names,
    "numbers": _numbers,
}
"""The verbs of this module."""
