"""Comparing JSON values as any language has them."""

from __future__ import annotations

import json
from typing import Any

import orjson

__all__ = ["data_differs", "json_text", "parse", "same", "same_time"]

_EXACT = 2**53


def same(found: Any, value: Any) -> bool:
    """Compare JSON values: numbers beyond 2⁵³ as doubles, and `true` is not 1."""
    if isinstance(value, bool) or isinstance(found, bool):
        return found is value
    if isinstance(value, (int, float)):
        if not isinstance(found, (int, float)):
            return False
        return found == value or (abs(value) > _EXACT and float(found) == float(value))
    if isinstance(value, list):
        return isinstance(found, list) and len(found) == len(value) and all(map(same, found, value))
    if isinstance(value, dict):
        return (
            isinstance(found, dict)
            and found.keys() == value.keys()
            and all(same(found[key], value[key]) for key in value)
        )
    return bool(found == value)


def data_differs(event: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Compare the data of an event in an answer with `data` or `data_hex` of a vector."""
    if "data_hex" in expected:
        found = event.get("hex")
        return None if found == expected["data_hex"] else f"bytes {found!r}, not {expected['data_hex']!r}"
    if event.get("hex") is not None:
        return f"bytes {event['hex']!r}, not {expected['data']!r}"
    text = event.get("json")
    found = None if text is None else orjson.loads(text)
    return None if same(found, expected["data"]) else f"data {str(text)[:300]}, not {expected['data']!r}"


def same_time(found: Any, time: int | None) -> bool:
    """Compare microseconds, which a peer may hold as a double of seconds."""
    if found is None or time is None:
        return found is time
    return bool(abs(found - time) <= max(1.0, time * 2**-51))


def json_text(value: Any) -> str:
    """Return the JSON text of a value; escapes stand for lone surrogates."""
    return json.dumps(value)


def parse(text: bytes | str) -> Any:
    """Return the value of JSON text, however deep."""
    return orjson.loads(text)
