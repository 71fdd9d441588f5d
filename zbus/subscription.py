"""What `subscribe` returns: a handle on a channel, as the original has it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

from .channel import Channel
from .event import D, Event
from .inbox import Inbox
from .single import Single

__all__ = ["Subscription", "SubscriptionBase"]

C = TypeVar("C", bound=Inbox)


class SubscriptionBase(Single, Generic[C]):
    """What the subscriptions of both twins share."""

    _instead = Inbox._instead

    def __init__(self, channel: C) -> None:
        """Made by `Bus.subscribe`."""
        self._channel = channel

    def channel(self) -> C:
        """Return the channel, always the same object, also after `close`."""
        return self._channel

    @property
    def lost(self) -> int:
        """How many events were dropped because the channel was full."""
        return self._channel.lost


class Subscription(SubscriptionBase[Channel[D]], Generic[D]):
    """A subscription: a channel of events until it is closed. Also a context manager and iterable."""

    def close(self) -> None:
        """Stop new events; what is buffered stays receivable. Closing twice is fine."""
        self._channel.close()

    def __iter__(self) -> Iterator[Event[D]]:
        return iter(self._channel)

    def __enter__(self) -> Subscription[D]:
        return self

    def __exit__(self, kind: object, value: object, trace: TracebackType | None) -> None:
        self.close()
