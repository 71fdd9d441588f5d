"""What a node knows about its channels."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from ..errors import Unavailable
from ..receiving.ingress import Ingress
from ..receiving.notices import AnnouncedBytes
from ..receiving.observer import Observer
from ..receiving.queue import SocketQueue
from ..receiving.source import Source
from ..roster.process_info import own_process_info

__all__ = ["ChannelRecord", "ChannelRecords"]

# A context has room for 8,192 sockets, and a `block` channel takes seven. Besides, the time to close all
# channels grows with their number squared: 1 s for 1,000 with topics of 250 bytes, minutes for 8,000.
_MAX_CHANNELS = 1000
_PATTERNS_SHOWN = 100
_PATTERN_BYTES_SHOWN = 32_768  # nobody reads more than 64 KiB of an entry


class ChannelRecord(NamedTuple):
    """What a node knows about one channel: not the channel itself, so that it can be garbage collected."""

    source: Source
    ingress: Ingress
    patterns: tuple[str, str, str]  # of systems and kinds, and its overflow
    number: int  # 1 for the first subscription of the node
    observer: Observer

    def numbers(self, now: float) -> dict[str, Any]:
        """Return what the channel has received so far, as R55 says; `now` is the monotonic time."""
        names = dict(zip(("system", "kind", "overflow"), self.patterns, strict=True))
        return {"id": self.number, **names, **self.observer.look(now)}


class ChannelRecords(dict[SocketQueue, ChannelRecord]):
    """The channels of a node, by their queues. Other threads may change it at any time."""

    def check_quota(self) -> None:
        """Check that one more channel is allowed.

        Raises:
            Unavailable: there are too many. Retryable.
        """
        if len(self) >= _MAX_CHANNELS:
            raise Unavailable(
                f"this bus has {_MAX_CHANNELS:,} subscriptions, as many as it may: use wider patterns, or"
                " close some",
                retryable=True,
                limit=_MAX_CHANNELS,
            )

    def ingresses(self) -> set[Ingress]:
        """Return the ingresses of all channels."""
        return {record.ingress for record in [*self.values()]}

    def describe(self, ingress: Ingress, member: str) -> dict[str, Any]:
        """Return the description for the entry of an ingress; `member` is the id of the member file."""
        patterns = [record.patterns for record in [*self.values()] if record.ingress is ingress]
        sizes = itertools.accumulate(len(orjson.dumps(pattern)) for pattern in patterns)
        shown = [
            pattern for pattern, size in zip(patterns, sizes, strict=True) if size <= _PATTERN_BYTES_SHOWN
        ]
        about = {**own_process_info(), "member": member, "channels": len(patterns)}
        return {**about, "patterns": shown[:_PATTERNS_SHOWN]}

    def numbers(self, now: float) -> list[dict[str, Any]]:
        """Return what each channel has received, in the order of the subscriptions."""
        return [record.numbers(now) for record in [*self.values()]]

    def on_notice(self, ingress: Ingress, topics: AnnouncedBytes) -> float:
        """Tell the channels of an ingress which large frames are about to come; see `NoticeListener`."""
        return min(filter(None, (source.expect(topics) for source in self.sources(ingress))), default=0.0)

    def sources(self, ingress: Ingress) -> list[Source]:
        """Return the sources of the channels of an ingress."""
        return [record.source for record in [*self.values()] if record.ingress is ingress]

    def end(self) -> None:
        """Close all channels; what they have queued can still be received."""
        for queue in [*self]:  # copied without running Python code, so no finalizer interferes
            record = self.get(queue)
            record.source.close() if record else queue.close()

    def after_fork_in_child(self, reason: str) -> None:
        """In a forked child: make every use of a channel raise."""
        for record in [*self.values()]:
            with suppress(Exception):  # a thread of the parent may have been changing it
                record.source.after_fork_in_child(reason)
