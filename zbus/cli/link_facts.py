"""What a link to other machines has carried, in a few words for a column."""

from __future__ import annotations

from collections.abc import Iterator

from ..roster.numbers import LinkCounts
from ..roster.process_info import visible
from .units import age_text

__all__ = ["link_facts"]

_SHOWN_IF_ANY = ("refused", "dropped", "repeated", "waiting", "behind", "reconnects")
_PROBLEM_LETTERS = 200


def link_facts(link: LinkCounts | None) -> Iterator[str]:
    """Yield where a link is connected and what it has done so far; nothing for who is no link."""
    if link is None:
        return
    yield visible(f"link to {link.server}") if link.server else "link, not connected"
    yield f"carried {link.sent:,} out and {link.received:,} in"
    yield from (f"{name} {count:,}" for name in _SHOWN_IF_ANY if (count := getattr(link, name)))
    if link.waiting and link.lag:
        yield f"lag {age_text(link.lag)}"
    if link.problem:
        yield visible(link.problem[:_PROBLEM_LETTERS])
