"""A receiver in the plainest way, written from docs/spec/wire.md alone; it uses nothing of the package.

The modules `test_wrong_*` make in it the mistakes that a peer in another language could make. The vectors
must notice.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["Malformed", "PlainPeer", "decode_json", "matches", "parse_stamp", "prefixes"]

MAX_DEPTH = 1024
MAX_GAP = 2**40
MAX_PREFIXES = 16

Stream = tuple[str, str, str]
Gap = tuple[int, int]

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
# An escaped backslash, or a pair, or half of one.
_ESCAPE = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


class Malformed(Exception):
    """A frame has not the form of W2 to W7, W9 or W12."""


class PlainPeer:
    """One channel (W27 to W41, W56).

    Attributes:
        gaps: what the latest frame showed as lost.
        lost, malformed: how many so far.
    """

    def __init__(
        self,
        pattern: str,
        kind_pattern: str | None = None,
        announced: int | None = None,
        joined: int | None = None,
        limit: int = 65_536,
    ) -> None:
        self.pattern, self.kind_pattern = pattern, kind_pattern
        self.announced = -1 if announced is None else announced
        self.joined: float = math.inf if joined is None else joined
        self.forgetful = joined is None
        self.limit = limit
        self.latest_born = -1
        self.due: dict[Stream, int] = {}
        self.begin: dict[Stream, int] = {}
        self.gaps: list[Gap] = []
        self.lost = self.malformed = 0

    def receive(self, frame: bytes) -> list[tuple[str, Any]]:
        """Return the path and data of each event in a frame."""
        self.gaps = []
        if frame.startswith(b"\xff"):
            return []
        try:
            return self.decode(frame)
        except Malformed:
            self.malformed += 1
            return []

    def decode(self, frame: bytes) -> list[tuple[str, Any]]:
        fields = frame.split(b"\0", 4)
        if len(fields) < 5:
            raise Malformed
        system, kind = name(fields[0]), name(fields[1])
        if not self.selects(system, kind):
            return []
        stamp = parse_stamp(fields[3])
        events = self.events(utf8(fields[2]), fields[4], stamped=bool(stamp))
        if stamp:
            stream = (stamp["origin"], system, kind)
            if self.came_before(stream, stamp["seq"], len(events), via(fields[3])):
                return []
            self.count(stream, stamp, len(events))
        return events

    def selects(self, system: str, kind: str) -> bool:
        return matches(self.pattern, system) and matches(self.kind_pattern or "**", kind)

    def events(self, path: str, data: bytes, *, stamped: bool) -> list[tuple[str, Any]]:
        if path:
            return [(path, data[1:] if data.startswith(b"\0") else self.json(data) if data else None)]
        rows = None if data.startswith(b"\0") or not data else self.json(data)
        if type(rows) is not list or not (rows or stamped):
            raise Malformed
        for row in rows:
            if type(row) is not list or len(row) not in (1, 2):
                raise Malformed
            if type(row[0]) is not str or not row[0] or "\0" in row[0]:
                raise Malformed
        return [(row[0], row[1] if len(row) == 2 else None) for row in rows]

    def json(self, data: bytes) -> Any:
        return decode_json(data)

    def came_before(self, stream: Stream, seq: int, events: int, via: bytes) -> bool:
        """Return whether a link has sent the events again (W56)."""
        return bool(via and events) and seq + events <= self.due.get(stream, 0)

    def count(self, stream: Stream, stamp: dict[str, Any], events: int) -> None:
        seq = stamp["seq"]
        known = stream in self.due
        due = self.due[stream] if known else self.first_due(stamp)
        self.check_jump(due, seq)
        if not known:
            self.latest_born = max(self.latest_born, stamp.get("born", -1))
        if due is None:
            return
        if known and not events:
            self.head(stream, stamp)
        self.begin.setdefault(stream, due)
        self.lose(due, seq)
        self.due.pop(stream, None)  # to the end, as the one used last
        self.due[stream] = self.next_due(due, seq, events)
        self.forget()

    def check_jump(self, due: int | None, seq: int) -> None:
        if due is not None and seq - due > MAX_GAP:
            raise Malformed

    def next_due(self, due: int, seq: int, events: int) -> int:
        return seq + events if events else max(due, seq)

    def first_due(self, stamp: dict[str, Any]) -> int | None:
        """Return the number that is due when a stream is first seen, `None` for nothing (W29)."""
        born, settled, first = (stamp.get(field, -1) for field in ("born", "settled", "first"))
        if born > self.joined:
            return 1
        if settled < 0:
            return int(stamp["seq"])
        if settled <= self.announced:
            return None
        return first if 0 < first <= stamp["seq"] and not self.forgetful else int(stamp["seq"])

    def head(self, stream: Stream, stamp: dict[str, Any]) -> None:
        """Count what a mark shows that was lost before the stream was counted (W40)."""
        settled, first, begin = stamp.get("settled", -1), stamp.get("first", -1), self.begin[stream]
        if settled > self.announced and 0 < first < begin <= first + MAX_GAP and not self.forgetful:
            self.lose(first, begin)
            self.begin[stream] = first

    def lose(self, due: int, seq: int) -> None:
        if due < seq:
            self.gaps.append((due, seq - 1))
            self.lost += seq - due

    def forget(self) -> None:
        if len(self.due) > self.limit:
            oldest = next(iter(self.due))
            del self.due[oldest], self.begin[oldest]
            self.joined = max(self.joined, self.latest_born)
            self.forgetful = True


def parse_stamp(stamp: bytes) -> dict[str, Any]:
    """Return the fields that are told (W5 to W8, W37)."""
    if not stamp:
        return {}
    origin, *rest = stamp.split(b".")
    if not re.fullmatch(rb"[0-9a-f]{8,16}", origin) or not rest:
        raise Malformed
    told = {
        field: int(text)
        for field, text in zip(("seq", "born", "settled", "first", "time"), rest, strict=False)
        if re.fullmatch(rb"[0-9]{1,19}", text)
    }
    if told.get("seq", 0) < 1:
        raise Malformed
    return {"origin": origin.decode(), **told}


def via(stamp: bytes) -> bytes:
    """Return the buses on which the events of a frame have been (W55)."""
    text = b"".join(stamp.split(b".")[6:7])
    return text if re.fullmatch(rb"([0-9a-f]{16}-){0,31}[0-9a-f]{16}", text) else b""


def utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed from None


def name(raw: bytes) -> str:
    text = utf8(raw)
    if any(char in text for char in "*()|") or not all(text.split(".")):
        raise Malformed
    return text


def decode_json(data: bytes) -> Any:
    """Return the value of JSON text (W9, W10, W51), by a parser that takes too much."""
    text = utf8(data)
    bare = without_strings(text)
    if depth(bare) > MAX_DEPTH or overflows(bare) or has_half_pair(text):
        raise Malformed
    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:  # this parser does not go so deep
        return None
    except ValueError:
        raise Malformed from None


def without_strings(text: str) -> str:
    """Return JSON text with its strings empty."""
    return _STRING.sub('""', text)


def refuse(_: str) -> None:
    raise ValueError


def depth(bare: str) -> int:
    """Return how deep JSON text without its strings is nested."""
    found = deepest = 0
    for char in bare:
        found += (char in "[{") - (char in "]}")
        deepest = max(deepest, found)
    return deepest


def overflows(bare: str) -> bool:
    """Return whether JSON text without its strings has a number that no double can hold."""
    return any(math.isinf(float(number)) for number in _NUMBER.findall(bare))


def has_half_pair(text: str) -> bool:
    """Return whether JSON text has an escaped surrogate that is not half of a pair."""
    return any(match[1] for match in _ESCAPE.finditer(text))


def segments(pattern: str) -> list[str]:
    return ["**"] if pattern == "*" else pattern.split(".")


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern selects a name (W16, W17)."""
    parts = (
        "(?:[^.]+\\.)*"
        if part == "**"
        else "[^.]+\\."
        if part == "*"
        else "(?:" + "|".join(map(re.escape, part.strip("()").split("|"))) + ")\\."
        for part in segments(pattern)
    )
    return re.fullmatch("".join(parts), f"{text}.") is not None


def prefixes(system: str, kind: str | None) -> list[str]:
    """Return what a channel subscribes to (W22)."""
    heads, literal = literal_heads(system)
    if not literal:
        return sorted(heads)
    tails, ended = literal_heads(kind or "**")
    if set(segments(kind or "**")) == {"**"} or len(heads) * len(tails) > MAX_PREFIXES:
        return sorted(f"{head}\0" for head in heads)
    return sorted(f"{head}\0{tail}" + "\0" * ended for head in heads for tail in tails)


def literal_heads(pattern: str) -> tuple[set[str], bool]:
    """Return the texts before the first wildcard, and whether there is none."""
    heads = {""}
    for number, part in enumerate(segments(pattern)):
        dot = "." if number else ""
        options = set(part.strip("()").split("|"))
        if part == "**":
            return heads, False
        if part == "*" or len(heads) * len(options) > MAX_PREFIXES:
            return {head + dot for head in heads}, False
        heads = {head + dot + option for head in heads for option in options}
    return heads, True
