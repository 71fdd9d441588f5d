"""What a recording holds: names, schemas, and the JSON of its messages.

    channel  system/kind   a message an event     {"system", "kind", "path", "data", "origin", "seq"}
    channel  zbus/lost     a message a gap        {"origin", "system", "kind", "first", "last", "events"}

An event with bytes has `base64` instead of `data`: JSON has no bytes, and this is how Foxglove wants them in
JSON. An encoding of their own would be faster, but no viewer would show them. The system `zbus` is reserved
for the bus, so no topic has the name of the channel of losses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from pybase64 import b64encode  # that of the standard library takes as long as compression

from ..event import Gap

__all__ = [
    "END",
    "EVENT",
    "LOSSES",
    "LOST",
    "LOST_TOPIC",
    "OTHER_TOPICS",
    "RECORDING",
    "UNWRITTEN",
    "Schema",
    "body_template",
    "bytes_body",
    "gap_body",
    "topic_name",
]

RECORDING = "zbus.recording"
"""The metadata at the beginning: what is recorded, and by whom."""

LOSSES = "zbus.losses"
"""The metadata at the end, one for each origin and topic of which events were lost."""

UNWRITTEN = "zbus.unwritten"
"""The metadata at the end, one for each origin and topic of which events arrived and could not be written."""

END = "zbus.end"
"""The last metadata: how much was recorded."""

LOST_TOPIC = "zbus/lost"
OTHER_TOPICS = "zbus/other"
"""The channel of the topics beyond as many as MCAP can number."""


class Schema(NamedTuple):
    """A schema of MCAP, whose encoding is `jsonschema`."""

    id: int
    name: str
    properties: dict[str, Any]
    required: tuple[str, ...]

    def text(self) -> bytes:
        """Return the JSON Schema. Viewers want an object."""
        return orjson.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": self.name,
                "type": "object",
                "properties": self.properties,
                "required": self.required,
            }
        )


_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}
_TOPIC = {"system": _TEXT, "kind": _TEXT, "origin": _TEXT}

EVENT = Schema(
    1,
    "zbus.Event",
    {
        "system": _TEXT,
        "kind": _TEXT,
        "path": _TEXT,
        "data": {"description": "any JSON value; null if the event has no data"},
        "base64": {
            "type": "string",
            "contentEncoding": "base64",
            "description": "data that was sent as bytes",
        },
        "origin": {"type": "string", "description": "the publisher; empty if it does not number its events"},
        "seq": _NUMBER,
    },
    ("system", "kind", "path", "origin", "seq"),
)
LOST = Schema(
    2,
    "zbus.Lost",
    {**_TOPIC, "first": _NUMBER, "last": _NUMBER, "events": _NUMBER},
    ("origin", "system", "kind", "first", "last", "events"),
)


def topic_name(system: str, kind: str) -> str:
    """Return the name of the channel of a topic."""
    return f"{system}/{kind}"


def body_template(system: str, kind: str, origin: str) -> bytes:
    """Return a template for the messages of a stream; `template % (path, data, seq)` is one.

    `path` and `data` are JSON.
    """
    names = b'{"system":%b,"kind":%b,"path":' % (orjson.dumps(system), orjson.dumps(kind))
    return b'%b%%b,"data":%%b,"origin":"%b","seq":%%d}' % (names.replace(b"%", b"%%"), origin.encode())


def bytes_body(template: bytes, path: bytes, data: bytes | memoryview, seq: int) -> bytes:
    """Return the message of an event with bytes. They are large, so they are copied as seldom as possible."""
    front, _, back = (template % (path, b"null", seq)).rpartition(b'"data":null')
    return b"".join((front, b'"base64":"', b64encode(data), b'"', back))


def gap_body(gap: Gap) -> bytes:
    """Return the message of a gap."""
    return orjson.dumps({**gap._asdict(), "events": gap.events})
