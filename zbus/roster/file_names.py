"""The names of the files in a bus directory, and what they mean.

Anything may lie in the directory, by mistake or by malice. Only a file that has exactly one of these names is
looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Entry", "entries_by_id", "is_member", "is_scratch", "is_socket", "newest", "parse_entry"]

_ENTRY = re.compile(r"([0-9a-f]{8,32})\.([1-9][0-9]{0,17})\.(drop|block)")
_OTHER = re.compile(r"[0-9a-f]{8,32}\.(?:sock|member|new)")
# Comparing the end of a name is five times as fast as the expression, and rules out most foreign files.
_ENTRY_ENDS = (".drop", ".block")


class Entry(NamedTuple):
    """One listening ingress: its id, subscription epoch, and overflow policy (`drop` or `block`)."""

    id: str
    epoch: int
    overflow: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.id}.{self.epoch}.{self.overflow}"


def parse_entry(name: str) -> Entry | None:
    """Return the entry that the name of a file stands for; `None` if it is another file."""
    if name.endswith(_ENTRY_ENDS) and (match := _ENTRY.fullmatch(name)) is not None:
        return Entry(match[1], int(match[2]), match[3])
    return None


def entries_by_id(names: Iterable[str]) -> dict[str, list[Entry]]:
    """Return the entries among the names of files, by the id of their ingress."""
    found: dict[str, list[Entry]] = {}
    for name in names:
        if (entry := parse_entry(name)) is not None:
            found.setdefault(entry.id, []).append(entry)
    return found


def newest(entries: Iterable[Entry]) -> Entry:
    """Return the entry that counts, of several of one ingress: the one with the highest epoch."""
    return max(entries, key=lambda entry: entry.epoch)


def is_socket(name: str) -> bool:
    """Return whether this is the name of an ingress's socket."""
    return name.endswith(".sock") and _OTHER.fullmatch(name) is not None


def is_member(name: str) -> bool:
    """Return whether this is the name of a member file."""
    return name.endswith(".member") and _OTHER.fullmatch(name) is not None


def is_scratch(name: str) -> bool:
    """Return whether this is the name of a file that is about to be renamed."""
    return name.endswith(".new") and _OTHER.fullmatch(name) is not None
