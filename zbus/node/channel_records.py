"""What a node knows of its channels."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from ..errors import Unavailable
from ..receiving.ingress import Ingress
from ..receiving.notices import AnnouncedBytes
from ..receiving.queue import SocketQueue
from ..receiving.source import Source
from ..roster.process_info import own_process_info

__all__ = ["ChannelRecord", "ChannelRecords"]

# A context has room for 8,192 sockets, of which a `block` channel takes seven. And the time to close them all
# grows with the square of their number: a second for 1,000 with topics of 250 bytes, minutes for 8,000.
_MAX_CHANNELS = 1000
_PATTERNS_SHOWN = 100
_PATTERN_BYTES_SHOWN = 32_768  # nobody reads more than 64 KiB of an entry


class ChannelRecord(NamedTuple):
    """What a node knows of one of its channels: not the channel itself, so that it can be dropped."""

    source: Source
    ingress: Ingress
    patterns: tuple[str, str, str]  # of systems and kinds, and its overflow


class ChannelRecords(dict[SocketQueue, ChannelRecord]):
    """The channels of a node, by their queues. Other threads may change it meanwhile."""

    def check_quota(self) -> None:
        """Refuse one more when there are too many.

        Raises:
            Unavailable: there are. Retryable.
        """
        if len(self) >= _MAX_CHANNELS:
            raise Unavailable(
                f"this bus has {_MAX_CHANNELS:,} subscriptions, as many as it may: use wider patterns, or"
                " close some",
                retryable=True,
                limit=_MAX_CHANNELS,
            )

    def ingresses(self) -> set[Ingress]:
        """Return the ingresses that they receive by."""
        return {record.ingress for record in [*self.values()]}

    def describe(self, ingress: Ingress, member: str) -> dict[str, Any]:
        """Return what the entry of an ingress says about itself; `member` is the id of the process's."""
        patterns = [record.patterns for record in [*self.values()] if record.ingress is ingress]
        sizes = itertools.accumulate(len(orjson.dumps(pattern)) for pattern in patterns)
        shown = [
            pattern for pattern, size in zip(patterns, sizes, strict=True) if size <= _PATTERN_BYTES_SHOWN
        ]
        about = {**own_process_info(), "member": member, "channels": len(patterns)}
        return {**about, "patterns": shown[:_PATTERNS_SHOWN]}

    def on_notice(self, ingress: Ingress, topics: AnnouncedBytes) -> float:
        """Tell the channels of an ingress which large frames are about to come; see `NoticeListener`."""
        sources = [record.source for record in [*self.values()] if record.ingress is ingress]
        return min(filter(None, (source.expect(topics) for source in sources)), default=0.0)

    def end(self) -> None:
        """End all channels; what they hold can still be received."""
        for queue in [*self]:  # makes nothing that garbage collection could come amid
            record = self.get(queue)
            record.source.close() if record else queue.close()

    def after_fork_in_child(self, reason: str) -> None:
        """In a forked child: have every use of a channel fail at once."""
        for record in [*self.values()]:
            with suppress(Exception):  # another thread of the parent was about to change it
                record.source.after_fork_in_child(reason)
