"""Which of many topics a pattern selects; each pattern is compared with each name once."""

from __future__ import annotations

from collections.abc import Iterable

import zbus

from ..protocol.patterns import Matcher

__all__ = ["Selection", "Topic"]

Topic = tuple[str, str]
"""A system and a kind."""


class Selection:
    """The topics of a bus, and which of them a channel selects."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        """Select from `topics`."""
        self._topics = tuple(topics)
        self._names = tuple({system for system, _ in self._topics}), tuple({kind for _, kind in self._topics})
        self._matched: dict[tuple[str, int], frozenset[str]] = {}
        self._selected: dict[tuple[str, str], tuple[Topic, ...]] = {}

    def of(self, system: str, kind: str) -> tuple[Topic, ...]:
        """Return the topics that a channel with these patterns selects; none if one of them is no pattern."""
        found = self._selected.get((system, kind))
        if found is None:
            systems, kinds = self._match(system, 0), self._match(kind, 1)
            found = tuple(topic for topic in self._topics if topic[0] in systems and topic[1] in kinds)
            self._selected[system, kind] = found
        return found

    def _match(self, pattern: str, field: int) -> frozenset[str]:
        found = self._matched.get((pattern, field))
        if found is None:
            names = self._names[field]
            try:
                matcher = Matcher(pattern)
                found = frozenset(names if matcher.everything else filter(matcher.matches, names))
            except zbus.Invalid:  # anybody may have written it
                found = frozenset()
            self._matched[pattern, field] = found
        return found
