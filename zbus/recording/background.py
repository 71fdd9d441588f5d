"""The thread that compresses and writes chunks, so that a slow disk does not hold up the bus at once."""

from __future__ import annotations

from collections import deque

from ..runtime.threads import Condition, start
from .chunk import Chunk, pack
from .sinks import Sink

__all__ = ["Background"]

# How much may wait for the disk. When it is more, the recorder reads no further, and publishers have to wait.
_MOST_BYTES = 128 * 1024 * 1024


class Background:
    """Passes chunks to a sink, in order."""

    def __init__(self, sink: Sink, compression: str) -> None:
        """Begin; `sink` is used by the thread alone until `finish` has returned."""
        self._sink = sink
        self._compression = compression
        self._news = Condition()
        self._jobs: deque[Chunk | None] = deque()  # `None` is a request to save
        self._waiting_bytes = 0
        self._ending = False
        self._error: BaseException | None = None
        self._thread = start("zbus-record", self._work)

    def write(self, chunk: Chunk) -> None:
        """Have a chunk written; wait while too much waits already.

        Raises:
            OSError: an earlier one could not be written.
        """
        with self._news:
            self._news.wait_for(lambda: self._waiting_bytes < _MOST_BYTES or self._error is not None)
            self._waiting_bytes += chunk.size
            self._add(chunk)

    def save(self) -> None:
        """Have what is only in memory written; raise as `write` does."""
        with self._news:
            self._add(None)

    def _add(self, job: Chunk | None) -> None:
        if self._error is not None:
            raise self._error
        self._jobs.append(job)
        self._news.notify_all()

    def finish(self) -> None:
        """Wait until everything is written and the file complete; raise as `write` does."""
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
                self._error = error
                self._news.notify_all()
        try:
            self._sink.finish()  # after an error too: there may be room for the end
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
            self._sink.save()
            return True
        self._sink.write(pack(job, self._compression))
        with self._news:
            self._waiting_bytes -= job.size
            self._news.notify_all()
        return True
