"""An event as one line: text for people, or JSON."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from typing import Any

import orjson

import zbus

from ..roster.process_info import visible

__all__ = ["human_line", "json_line"]

_BYTES_SHOWN = 32


def human_line(evt: zbus.Event) -> str:
    """Return time, system, kind, path and data, two spaces apart, with control characters as escapes."""
    fields = [_time_of_day(evt.time), evt.system, evt.kind, evt.path]
    if isinstance(evt.data, bytes):
        more = "…" if len(evt.data) > _BYTES_SHOWN else ""
        fields.append(f"<{len(evt.data)} bytes> {evt.data[:_BYTES_SHOWN].hex()}{more}")
    elif evt.data is not None:
        fields.append(orjson.dumps(evt.data).decode())
    return visible("  ".join(fields))


def json_line(evt: zbus.Event) -> str:
    """Return a JSON object with the seven fields of an event. Bytes become `{"base64": ...}`."""
    fields: dict[str, Any] = {
        "system": evt.system,
        "kind": evt.kind,
        "path": evt.path,
        "data": {"base64": b64encode(evt.data).decode()} if isinstance(evt.data, bytes) else evt.data,
        "origin": evt.origin,
        "seq": evt.seq,
        "time": evt.time,
    }
    return orjson.dumps(fields).decode()


def _time_of_day(seconds: float | None) -> str:
    """Return local time to the millisecond, or a dash if it is not told or no time that a calendar has."""
    try:
        return "-" if seconds is None else datetime.fromtimestamp(seconds).time().isoformat("milliseconds")
    except (ValueError, OverflowError, OSError):  # any peer may send any number
        return "-"
