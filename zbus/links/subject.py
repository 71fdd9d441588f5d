"""NATS subjects: `zbus.<bus>.<system>.<kind>`.

A system keeps its dots, so each of its segments is a token. The kind is always the last token, with its dots
escaped. A fixed place makes it possible to select by kind, because a JetStream consumer filters by subject
and by nothing else: `zbus.main.orders.*` is every kind of `orders`, and not one of `orders.eu`.

What NATS gives a meaning of its own, or does not allow, is percent-encoded: a space, `*`, `>`, a dot within a
token, control characters, and everything that is not ASCII.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, unquote

from ..protocol.patterns import Matcher

__all__ = ["PREFIX", "filter_for", "parse_subject", "subject", "subjects_of"]

PREFIX = "zbus"
_SAFE = "!#$&'+,/:;=?@[]^`{|}~"


@lru_cache(4096)
def subject(bus: str, system: str, kind: str) -> str:
    """Return the subject of a topic of a bus."""
    return ".".join((PREFIX, _token(bus), *map(_token, system.split(".")), _token(kind)))


def subjects_of(bus: str) -> str:
    """Return the subject filter that admits all topics of a bus."""
    return f"{PREFIX}.{_token(bus)}.>"


@lru_cache(4096)
def parse_subject(text: str) -> tuple[str, str, str] | None:
    """Return the bus, system and kind that a subject stands for; `None` if it is none of a link.

    The names are not checked.
    """
    prefix, _, rest = text.partition(".")
    tokens = rest.split(".")
    if prefix != PREFIX or len(tokens) < 3:
        return None
    try:
        bus, *system, kind = (unquote(token, errors="strict") for token in tokens)
    except UnicodeDecodeError:
        return None
    return bus, ".".join(system), kind


def filter_for(systems: Iterable[Matcher]) -> str:
    """Return the subject filter that admits all systems that any of these patterns selects, of every bus.

    It may admit more, since a consumer has one filter: whoever receives decides with the patterns.
    """
    common = min((_literal(matcher.pattern) for matcher in systems), key=len, default=[])
    for matcher in systems:
        other = _literal(matcher.pattern)
        common = common[: next((i for i, x in enumerate(common) if other[i : i + 1] != [x]), len(common))]
    return ".".join((PREFIX, "*", *map(_token, common), ">"))


def _literal(pattern: str) -> list[str]:
    """Return the segments of a pattern before its first wildcard."""
    found: list[str] = []
    for segment in pattern.split("."):
        if segment in ("*", "**") or segment.startswith("("):
            break
        found.append(segment)
    return found


def _token(text: str) -> str:
    return quote(text, safe=_SAFE).replace(".", "%2E")
