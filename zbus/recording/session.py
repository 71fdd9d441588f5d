"""One run of a recorder: from opening the bus to the end of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from .. import __version__
from ..options import Overflow
from .background import Background
from .file import Description
from .recorder import Recorder
from .sinks import Ring, Series, Sink, Split, Written, roster_of
from .tap import Tap, TapBus

__all__ = ["Request", "Session"]


class Request(NamedTuple):
    """What to record, and how.

    Attributes:
        path: of the file.
        system, kind: the patterns; `kind` is `None` for every kind.
        overflow: `block` or `drop`.
        compression: one of `chunk.COMPRESSIONS`.
        split: when to begin the next file, if ever.
        last: how many seconds to keep in memory instead; `None` to write at once.
    """

    path: str
    system: str = "*"
    kind: str | None = None
    overflow: Overflow = "block"
    compression: str = "zstd"
    split: Split | None = None
    last: float | None = None


class Session:
    """Records from the moment it is made. Signal handlers may call `stop` and `save`.

    Attributes:
        written: what was written; final once `run` has returned or raised.
        topics: how many topics had events.
    """

    def __init__(
        self,
        bus: TapBus,
        directory: str | None,
        request: Request,
        on_unsaved: Callable[[OSError], object] = lambda _: None,
    ) -> None:
        """Subscribe, and make the file.

        Args:
            on_unsaved: called when what is kept in memory could not be saved. It is kept still.

        Raises:
            Invalid, Unavailable: as for `Bus.subscribe`.
            OSError: the file exists, or cannot be made.
        """
        self._recorder = Recorder()
        self._save = self._saving = False
        self._on_unsaved = on_unsaved
        self._tap: Tap = bus.tap(request.system, request.kind, request.overflow)
        try:
            self._sink = self._open(request, bus.name, lambda: roster_of(bus.name, directory))
            self._background = Background(self._sink, request.compression)
        except BaseException:
            self._tap.close()
            raise

    def _open(self, request: Request, bus: str, roster: Callable[[], bytes]) -> Sink:
        metadata = {
            "bus": bus,
            "pattern": request.system,
            "kind": request.kind or "*",
            "overflow": request.overflow,
            "pid": str(os.getpid()),
            "host": os.uname().nodename,
        }
        description = Description(f"zbus {__version__}", metadata, self._recorder.topics)
        if request.last is not None:
            return Ring(request.path, description, roster, request.last)
        return Series(request.path, description, roster, request.split)

    @property
    def written(self) -> Written:
        """What was written so far."""
        return self._sink.written

    @property
    def topics(self) -> int:
        """How many topics had events so far."""
        return self._recorder.topic_count

    def stop(self) -> None:
        """Record what has arrived, and no more."""
        self._tap.close()

    def save(self) -> None:
        """Write what is kept in memory, up to the latest event, within a second."""
        self._save = True

    def run(self) -> None:
        """Record until `stop`, or until a file cannot be written.

        Raises:
            OSError: a file could not be written. What is in it can be read. `written` tells how many events
                have arrived and are in no file, up to those that were waiting in the queue.
        """
        try:
            self._recorder.run(self._tap, self._background, self._look)
        finally:
            self._tap.close()
            self._background.finish()

    def _look(self) -> None:
        if self._background.failed:
            self._tap.close()  # what has arrived is counted
        if (error := self._background.unsaved) is not None:
            self._background.unsaved = None
            self._on_unsaved(error)
        if self._saving:
            self._recorder.flush(self._tap, self._background)
            self._background.save()
        # Not at once: what had arrived by the signal may be read only now.
        self._saving, self._save = self._save, False
