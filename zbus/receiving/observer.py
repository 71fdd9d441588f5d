"""What a channel has received, as another thread sees it that disturbs neither the reader nor a waiting task.

The counts are those of the decoder. The age of the oldest event that waits is not so plain, because nobody
can ask libzmq for it. What is known at a look is this:

- Nothing but marks waits, or a receiver waits for the channel and has taken nothing since the last look: 0.
- The source holds the next frame, or the reader has taken one since the last look: it tells when it was sent.
- The reader takes nothing: since the look that knew last, else since the one that first saw it unread.
"""

from __future__ import annotations

from .source import Source

__all__ = ["Observer"]

_LEAST_AGE = 0.001
_MOST = 2**64 - 1


class Observer:
    """Looks at one channel about once a second. Not thread-safe."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._received = 0
        self._since: float | None = None

    def look(self, now: float) -> dict[str, int | float]:
        """Return what the channel has received so far, by the names of R55; `now` is the monotonic time."""
        decoder = self._source.decoder
        before, received = self._received, decoder.received()
        if received is None:  # it changed too fast, and the next look comes soon enough
            received = before
        self._received = received
        seen: dict[str, int | float] = {
            "received": received,
            "lost": min(decoder.lost, _MOST),  # a forger can make it grow
            "malformed": decoder.malformed,
            "superseded": self._source.superseded,
            "mismatched": decoder.mismatched,
        }
        if (age := self._age(received != before, now)) is not None:
            seen["unread"] = round(age, 3)
        return seen

    def _age(self, moved: bool, now: float) -> float | None:
        """Return for how many seconds the oldest event that waits has waited, or `None` if it is unknown.

        `moved` says whether the reader has taken anything since the last look.
        """
        waiting, lag = self._source.waiting(), self._source.lag()
        if waiting is False or (waiting is None and not moved):
            self._since = None
            return 0.0
        if lag is not None:
            self._since = now - lag
        elif moved:
            self._since = None
        elif self._since is None:
            self._since = now
        if self._since is None:
            return None
        return max(now - self._since, _LEAST_AGE if waiting else 0.0)  # 0 means that nothing waits
