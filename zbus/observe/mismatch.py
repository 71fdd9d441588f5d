"""Why a pattern does not select a name, and the nearest pattern that does.

Pattern and name are aligned segment by segment, as a spelling checker aligns letters. The cheapest alignment
says what differs: letter case, a misspelt segment, one that is missing or that is too many.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from ..protocol.patterns import Matcher

__all__ = ["Mismatch", "compare", "similar_names"]

_CASE, _OTHER, _MISSING = 0.1, 1.5, 1.0
# What one more or one less word costs beside a wildcard: there the pattern nearly says it.
_NEXT_TO_WILDCARD = 0.4
# Words with less in common than this are different words.
_ALIKE = 0.6
_FAR = 1.0  # from here on nobody means one by the other
_ONE_EXACTLY = "'*' takes exactly one segment, '**' any number"


class Mismatch(NamedTuple):
    """How a pattern and a name differ.

    Attributes:
        distance: 0 if the pattern selects the name; below 1 if they differ in a detail.
        why: what differs, for people; empty if the pattern selects the name.
        instead: a pattern as near to this one as possible that selects the name; empty if they have so
            little in common that there is none.
    """

    distance: float
    why: str
    instead: str


class _Step(NamedTuple):
    """A part of an alignment: a segment and a word, or one of them alone."""

    cost: float
    fixed: str  # the segment that would select the word; empty for none
    why: str = ""


def compare(pattern: str, name: str) -> Mismatch:
    """Return how a pattern and a name differ.

    Raises:
        Invalid: the pattern breaks the grammar.
    """
    if Matcher(pattern).matches(name):
        return Mismatch(0.0, "", pattern)
    steps = _align(pattern.split("."), name.split("."))
    distance = sum(step.cost for step in steps)
    if distance > _FAR:
        return Mismatch(distance, "it selects other names", "")
    why = dict.fromkeys(step.why for step in steps if step.why)
    return Mismatch(distance, "; ".join(why), _joined(step.fixed for step in steps))


def similar_names(name: str, names: Iterable[str]) -> list[str]:
    """Return those `names` that somebody may have meant by `name`, the nearest first."""
    ranked = sorted((_distance(name, other), other) for other in set(names) - {name})
    return [other for distance, other in ranked if distance <= _FAR]


def _distance(name: str, other: str) -> float:
    return sum(step.cost for step in _align(other.split("."), name.split(".")))


def _align(segments: list[str], words: list[str]) -> list[_Step]:
    """Return the cheapest alignment."""
    row = [(0.0, [_Step(0.0, "")])]
    for word in words:
        row.append(_with(row[-1], _no_segment(segments, 0, word)))
    for i, segment in enumerate(segments, start=1):
        above, row = row, [_with(row[0], _no_word(segment))]
        for j, word in enumerate(words, start=1):
            options = (
                _with(above[j - 1], _both(segment, word)),
                _with(row[j - 1], _no_segment(segments, i, word)),
                _with(above[j], _no_word(segment)),
            )
            row.append(min(options, key=lambda option: option[0]))
    return row[-1][1]


def _with(start: tuple[float, list[_Step]], step: _Step) -> tuple[float, list[_Step]]:
    return start[0] + step.cost, [*start[1], step]


def _both(segment: str, word: str) -> _Step:
    if segment in ("*", "**"):
        return _Step(0.0, segment)
    cost, choice = min((_unlike(choice, word), choice) for choice in _choices(segment))
    if not cost:
        return _Step(0.0, segment)
    case = "letter case: " if cost == _CASE else ""
    return _Step(cost, word, f"{case}{choice!r} is not {word!r}")


def _no_word(segment: str) -> _Step:
    """Align a segment with nothing."""
    if segment == "**":
        return _Step(0.0, segment)
    if segment == "*":
        return _Step(_NEXT_TO_WILDCARD, "**", _ONE_EXACTLY)
    return _Step(_MISSING, "", f"the name has no {segment!r} there")


def _no_segment(segments: list[str], at: int, word: str) -> _Step:
    """Align a word with nothing: it stands between the segments `at - 1` and `at`."""
    beside = segments[max(at - 1, 0) : at + 1]
    if "**" in beside:
        return _Step(0.0, "**")
    if "*" in beside:
        return _Step(_NEXT_TO_WILDCARD, "**", _ONE_EXACTLY)
    if at == len(segments):
        return _Step(_NEXT_TO_WILDCARD, "**", f"{segments[-1]!r} does not select what is below it")
    return _Step(_MISSING, word, f"nothing in the pattern stands for {word!r}")


def _choices(segment: str) -> list[str]:
    return segment[1:-1].split("|") if segment.startswith("(") else [segment]


def _unlike(text: str, word: str) -> float:
    if text == word:
        return 0.0
    if text.casefold() == word.casefold():
        return _CASE
    ratio = SequenceMatcher(None, text.casefold(), word.casefold()).ratio()
    return 1.0 - ratio if ratio >= _ALIKE else _OTHER


def _joined(segments: Iterable[str]) -> str:
    """Return a pattern of these segments; what stands beside `**` and is a wildcard, too, goes into it."""
    parts: list[str] = []
    for segment in filter(None, segments):
        if "**" in (segment, *parts[-1:]) and {segment, *parts[-1:]} <= {"*", "**"}:
            parts[-1:] = ["**"]
        else:
            parts.append(segment)
    return ".".join(parts)
