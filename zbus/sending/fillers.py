"""Fillers make a large frame take several places in the queue of a `block` subscriber (W43).

A filler reaches its ingress whatever topic the frame has. Where the topic is not wanted it would be all that
the queue holds: the queue would look full although nothing waits in it, and stop all who have yet to join it.
So only those get fillers that get frames of the topic, as far as their entries tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path

from ..errors import Invalid
from ..protocol.patterns import Matcher, prefixes
from ..protocol.sentinels import sentinel
from ..protocol.wire import FILLER
from ..roster.process_info import read_process_info
from .sockets import Link

__all__ = ["Fillers"]

_TOPICS = 1024  # whose fillers are kept
_EVERYTHING = (b"",)


class Fillers:
    """The fillers that a frame of each topic needs. Not thread-safe."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._prefixes: dict[str, tuple[bytes, ...]] = {}
        self.of = lru_cache(_TOPICS)(self._of)
        """Return the fillers that must follow a large frame of this system and kind."""

    def update(self, links: Iterable[Link]) -> None:
        """Learn which links there are, and which epochs they have shown."""
        self._links = [link for link in links if link.lane.blocking and link.shown]
        names = {link.entry.name for link in self._links}
        self._prefixes = {name: known for name, known in self._prefixes.items() if name in names}
        self.of.cache_clear()

    def _of(self, system: str, kind: str) -> list[bytes]:
        topic = f"{system}\0{kind}\0".encode()
        return [
            sentinel(link.entry.id, link.shown) + FILLER
            for link in self._links
            if topic.startswith(self._prefixes_of(link))
        ]

    def _prefixes_of(self, link: Link) -> tuple[bytes, ...]:
        name = link.entry.name
        if name not in self._prefixes:
            self._prefixes[name] = _read_prefixes(Path(link.path).with_name(name))
        return self._prefixes[name]


def _read_prefixes(path: Path) -> tuple[bytes, ...]:
    """Return what an ingress subscribes to, as its entry says: everything if it does not."""
    try:
        about = read_process_info(path)
        found = [prefixes(Matcher(system), Matcher(kind)) for system, kind, _ in about.patterns]
    except (OSError, Invalid):
        return _EVERYTHING
    return tuple(chain.from_iterable(found)) if 0 < len(found) == about.channels else _EVERYTHING
