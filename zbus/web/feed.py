"""The thread that keeps the page current: it reads a tap and the roster, and wakes the browsers.

All browsers share it. It subscribes with `drop`, so it never holds a publisher back; what it misses is shown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import zbus

from ..observe.snapshot import Snapshot, look, snapshot
from ..recording.tap import Tap
from ..runtime.locks import Lock
from ..runtime.threads import Thread, start
from .graph import graph
from .model import Model
from .viewer import Viewer

__all__ = ["Feed"]

# An event is shown at once, but after that nothing for so long, however many come.
_BETWEEN_SECONDS = 0.2
# Members publish once a second.
_LOOK_SECONDS = 1.0


class Feed:
    """What the browsers are told.

    Attributes:
        error: what ended the thread, if not `close`.
    """

    def __init__(self, tap: Tap, bus: str, directory: str | None) -> None:
        """Prepare to read `tap`, which is of the bus `bus`; call `begin`."""
        self.error: BaseException | None = None
        self._tap = tap
        self._where = bus, directory
        self._lock = Lock()
        self._model = Model(tap.system, tap.kind)
        self._seen: Snapshot | None = None
        self._trouble = ""
        self._viewers: set[Viewer] = set()
        self._told = self._looked = 0.0
        self._ended = False
        self._thread: Thread | None = None
        self._at_end: Callable[[], object] = lambda: None

    def begin(self, at_end: Callable[[], object]) -> None:
        """Look for the first time, and start the thread, which calls `at_end` if it ends by itself."""
        self._at_end = at_end
        self._looked = time.monotonic()
        self._see()
        self._thread = start("zbus-web", self._work)

    def close(self) -> None:
        """End the thread, and let the viewers know."""
        self._tap.close()
        if self._thread is not None:
            self._thread.join()
        self.end()

    def end(self) -> None:
        """Have `newest` return `None` for good, so that no response goes on. Any thread may call this."""
        self._ended = True
        for viewer in [*self._viewers]:
            viewer.wake()

    def join(self) -> Viewer:
        """Add a browser. Call this in the event loop."""
        with self._lock:
            viewer = Viewer(self._about(), self._model)
            viewer.note((), (), self._bus())
            self._viewers.add(viewer)
        viewer.news.set()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a browser."""
        with self._lock:
            self._viewers.discard(viewer)

    async def newest(self, viewer: Viewer) -> bytes | None:
        """Wait for what is new, and return it as a server-sent event; `None` if it ended."""
        while not self._ended:
            await viewer.news.wait()
            viewer.news.clear()
            with self._lock:
                news = viewer.newest(time.time())
            if news is not None and not self._ended:
                return news
        return None

    def detail(self, id: int) -> dict[str, Any] | None:
        """Return all that is known of a topic, or `None` if it was forgotten."""
        with self._lock:
            topic = self._model.topic(id)
            return None if topic is None else topic.detail()

    def graph(self) -> dict[str, Any]:
        """Return who sends what to whom, but for the page itself."""
        seen = self._seen
        return graph(seen, os.getpid()) if seen else {"members": {}, "topics": []}

    def _about(self) -> dict[str, Any]:
        seen = self._seen
        return {
            "bus": seen.bus if seen else self._where[0],
            "path": seen.path if seen else "",
            "system": self._tap.system,
            "kind": self._tap.kind,
            "pid": os.getpid(),
            "version": zbus.__version__,
        }

    def _bus(self) -> dict[str, Any]:
        model = self._model
        return {
            "rate": model.rate,
            "missed": model.missed,
            "malformed": self._tap.malformed,
            "full": model.full,
            "trouble": self._trouble,
            "members": [_member(row) for row in model.members],
        }

    def _work(self) -> None:
        try:
            while (items := self._tap.items(self._seconds())) is not None:
                with self._lock:
                    if items:
                        self._model.fold(items, time.time())
                self._keep_current(time.monotonic())
        except BaseException as error:  # for the thread that serves
            self.error = error
        finally:
            self._at_end()

    def _seconds(self) -> float:
        """Return how long to wait for events."""
        due = self._looked + _LOOK_SECONDS
        if self._model.is_changed:
            due = min(due, self._told + _BETWEEN_SECONDS)
        return max(0.0, due - time.monotonic())

    def _keep_current(self, now: float) -> None:
        """Look at the roster if it is time to, and tell the viewers what has changed."""
        bus: dict[str, Any] | None = None
        if (since := now - self._looked) >= _LOOK_SECONDS:
            self._looked = now
            self._see()
            with self._lock:
                self._model.turn(since)
                bus = self._bus()
        elif not self._model.is_changed or now < self._told + _BETWEEN_SECONDS:
            return
        self._told = now
        with self._lock:
            changed, gone = self._model.changes()
            for viewer in self._viewers:
                viewer.note(changed, gone, bus)
                viewer.wake()

    def _see(self) -> None:
        """Look at the roster. It may be gone, or unreadable for a while: the page says so."""
        try:
            seen = snapshot(look(*self._where))
        except zbus.Error as error:
            self._trouble = error.message
            return
        with self._lock:
            self._trouble, self._seen = "", seen
            self._model.see(seen)


def _member(row: Any) -> dict[str, Any]:
    found = row._asdict()
    found["patterns"] = [[*pattern] for pattern in row.patterns]
    return {name: value for name, value in found.items() if name not in ("sent_total", "received_total")}
