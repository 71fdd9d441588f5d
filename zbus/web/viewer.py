"""What one browser has yet to be told.

However slow a browser is, this is bounded: it gets the newest state, not a queue of states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson

from .model import Model

__all__ = ["Viewer"]

# Of so many a browser draws what is in sight within a few milliseconds.
_ROWS_AT_ONCE = 1_000


class Viewer:
    """The state of one browser. Its methods are called under the lock of the feed, but `news` is awaited."""

    def __init__(self, about: dict[str, Any], model: Model) -> None:
        """Begin with everything that is there; `about` is told first, once."""
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._about: dict[str, Any] | None = about
        self._model = model
        self._pending = dict.fromkeys(model.topics())
        self._known: set[int] = set()
        self._gone: list[int] = []
        self._bus: dict[str, Any] | None = None

    def note(self, changed: Iterable[int], gone: Iterable[int], bus: dict[str, Any] | None) -> None:
        """Note what has changed: topics, and what is told of the whole bus."""
        self._pending.update(dict.fromkeys(changed))
        for topic in gone:
            self._pending.pop(topic, None)
            if topic in self._known:
                self._known.remove(topic)
                self._gone.append(topic)
        self._bus = bus or self._bus

    def wake(self) -> None:
        """Have `news` set, from any thread."""
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self.news.set)

    def newest(self, now: float) -> bytes | None:
        """Return what is new as a server-sent event, or `None`. What does not fit comes the next time.

        Those that have waited for longest come first, so that every topic gets its turn.
        """
        rows = [*islice(self._pending, _ROWS_AT_ONCE)]
        if not (rows or self._gone or self._bus or self._about):
            return None
        message: dict[str, Any] = {"now": now, "topics": [*map(self._row, rows)]}
        for name, value in (("gone", self._gone), ("bus", self._bus), ("about", self._about)):
            if value:
                message[name] = value
        self._gone, self._bus, self._about = [], None, None
        return b"data: " + orjson.dumps(message) + b"\n\n"

    def _row(self, id: int) -> list[Any]:
        del self._pending[id]
        self._known.add(id)
        topic = self._model.topic(id)
        assert topic is not None  # `note` has been told of those that are forgotten
        return topic.row()
