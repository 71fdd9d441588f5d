"""What is sent in a soak, who selects it, and how to tell that it arrived as it was sent.

The path of an event says who sent it and the how-manyeth of that publisher it is; its data follow from
that. So a receiver can judge an event alone, and the checker needs no copy of it.
"""

from __future__ import annotations

import base64
from typing import Any

__all__ = [
    "PATTERNS",
    "TOOL_TOPIC",
    "TOPICS",
    "TOPIC_NUMBER",
    "capacity_of",
    "data_of",
    "identify",
    "path_of",
    "queues",
    "selects",
]

TOPICS = (
    ("tool", "sent"),
    ("soak", "tick"),
    ("soak.eu", "order.created"),
    ("soak.eu", "order.paid"),
    ("soak.eu.west", "order.created"),
    ("soak.us", "order.created"),
    ("soak.us", "stock"),
    ("soak.jp.east", "stock"),
    ("metrics", "cpu"),
    ("metrics", "memory"),
)
TOPIC_NUMBER = {topic: number for number, topic in enumerate(TOPICS)}
TOOL_TOPIC = 0
"""Sent by `zbus send` only, one event a process."""

PATTERNS = (
    ("*", "*"),
    ("soak", "tick"),
    ("soak.**", "*"),
    ("soak.eu", "*"),
    ("soak.eu", "order.created"),
    ("soak.*", "order.*"),
    ("soak.(eu|us)", "*.created"),
    ("soak.**", "(stock|tick)"),
    ("(metrics|tool)", "*"),
    ("tool", "sent"),
    ("**", "order.paid"),
)

_LARGE_EVERY, _LARGE_CHARACTERS = 499, 20_000


def selects(pattern: str, name: str) -> bool:
    """Return whether a pattern selects a name: the grammar once more, so that zbus is not its own judge."""
    return pattern in ("*", "**") or _selects(pattern.split("."), name.split("."))


def _selects(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_selects(rest, name[skip:]) for skip in range(len(name) + 1))
    if not name or (first != "*" and name[0] not in first.strip("()").split("|")):
        return False
    return _selects(rest, name[1:])


def queues(system: str, kind: str, topic: int) -> bool:
    """Return whether events of a topic can take room in the queue of a channel with these patterns.

    ZeroMQ compares beginnings only, and the channel decides when it has taken the frame (W20): with `** paid`
    everything queues.
    """
    patterns = f"{system}\0{kind}"
    wildcards = [place for place, letter in enumerate(patterns) if letter in "*("]
    literal = patterns[: wildcards[0]].rstrip(".") if wildcards else patterns
    return "\0".join(TOPICS[topic]).startswith(literal)


def capacity_of(publisher: int) -> int:
    """Return how many events may wait in a publisher for each subscriber: in every third of them, few."""
    return 65_536 if publisher % 3 else 64


def path_of(publisher: int, event: int) -> str:
    """Return the path of an event."""
    return f"/{publisher}/{event}"


def data_of(publisher: int, event: int, raw: bool = False) -> Any:
    """Return the data of an event, as bytes or as JSON: of many lengths, now and then a large one."""
    length = _LARGE_CHARACTERS if event % _LARGE_EVERY == 0 else event * 7 % 120
    text = f"{publisher}.{event}." + "x" * length
    return text.encode() if raw else {"publisher": publisher, "event": event, "text": text}


def identify(path: str, data: Any) -> tuple[int, int, bool]:
    """Return publisher, event, and whether the data are what was sent; zeros if the path tells nothing."""
    try:
        _, publisher, event = path.split("/")
        number, count = int(publisher), int(event)
    except ValueError:
        return 0, 0, False
    if isinstance(data, dict) and "base64" in data:  # as `zbus sub --json` prints bytes
        data = base64.b64decode(data["base64"])
    return number, count, data == data_of(number, count, isinstance(data, bytes))
