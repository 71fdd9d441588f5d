"""What `subscribe` returns: a handle on a channel, as the original has it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from .channel import Channel
from .event import Event

__all__ = ["Subscription"]


class Subscription:
    """A subscription: a channel of events until it is closed. Also a context manager and iterable."""

    def __init__(self, channel: Channel) -> None:
        """Made by `Bus.subscribe`."""
        self._channel = channel

    def channel(self) -> Channel:
        """Return the channel, always the same object, also after `close`."""
        return self._channel

    def close(self) -> None:
        """Stop new events; what is buffered stays receivable. Closing twice is fine."""
        self._channel.close()

    @property
    def lost(self) -> int:
        """How many events were dropped because the channel was full."""
        return self._channel.lost

    def __iter__(self) -> Iterator[Event]:
        return iter(self._channel)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        self.close()
