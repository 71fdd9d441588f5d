"""The thread that compresses and writes chunks, so that a slow disk does not hold up the bus at once."""

from __future__ import annotations

from collections import deque

from ..runtime.threads import Condition, start
from .chunk import Chunk, pack
from .sinks import Sink
from .unwritten import Unwritten

__all__ = ["Background"]

# How much may wait for the disk. When it is more, the recorder reads no further, and publishers have to wait.
_MOST_BYTES = 128 * 1024 * 1024


class Background:
    """Passes chunks to a sink, in order. Once one could not be written, it counts what is in the others.

    Attributes:
        failed: whether a chunk could not be written.
        unsaved: why the sink could not save; `None` if it could. Whoever reads this may reset it.
    """

    def __init__(self, sink: Sink, compression: str) -> None:
        """Begin; `sink` is used by the thread alone until `finish` has returned."""
        self.failed = False
        self.unsaved: OSError | None = None
        self._sink = sink
        self._compression = compression
        self._news = Condition()
        self._jobs: deque[Chunk | None] = deque()  # `None` is a request to save
        self._waiting_bytes = 0
        self._ending = self._broken = False
        self._error: BaseException | None = None
        self._unwritten = Unwritten()
        self._thread = start("zbus-record", self._work)

    def write(self, chunk: Chunk) -> None:
        """Have a chunk written; wait while too much waits already."""
        with self._news:
            self._news.wait_for(lambda: self._waiting_bytes < _MOST_BYTES or self._broken)
            self._waiting_bytes += chunk.size
            self._add(chunk)

    def save(self) -> None:
        """Have what is only in memory written."""
        with self._news:
            self._add(None)

    def _add(self, job: Chunk | None) -> None:
        if self._broken and self._error is not None:
            raise self._error
        self._jobs.append(job)
        self._news.notify_all()

    def finish(self) -> None:
        """Wait until everything is written and the file complete.

        Raises:
            OSError: something could not be written. The sink knows how much, and so does the file if there
                was room for it.
        """
        with self._news:
            self._ending = True
            self._news.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while self._next():
                pass
        except BaseException as error:  # for the thread that records
            with self._news:
                self._error, self._broken = self._error or error, True
                self._news.notify_all()
        try:
            self._sink.finish(self._unwritten)  # after an error too: there is room for the end
        except BaseException as error:
            self._error = self._error or error

    def _next(self) -> bool:
        """Do the next job; return whether there was one."""
        with self._news:
            self._news.wait_for(lambda: bool(self._jobs) or self._ending)
            if not self._jobs:
                return False
            job = self._jobs.popleft()
        if job is None:
            self._save()
            return True
        self._write(job)
        with self._news:
            self._waiting_bytes -= job.size
            self._news.notify_all()
        return True

    def _write(self, chunk: Chunk) -> None:
        """Write a chunk, or count what is in it."""
        packed = pack(chunk, "none" if self.failed else self._compression)
        if not self.failed:
            try:
                self._sink.write(packed)
                return
            except OSError as error:
                self._error, self.failed = error, True
        self._unwritten.add(packed)

    def _save(self) -> None:
        try:
            self._sink.save()
        except OSError as error:
            self.unsaved = error
