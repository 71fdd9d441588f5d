"""The receiving half of a node: its channels, and the ingresses through which they receive.

All `drop` and `latest` channels of a node share one ingress. Each `block` channel has its own, because a full
one stops its forwarder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ..options import BusOptions, SubscriptionRequest
from ..protocol.decoder import Decoder
from ..protocol.patterns import prefixes
from ..receiving.channel_base import ChannelBase
from ..receiving.ingress import Ingress
from ..receiving.observer import Observer
from ..receiving.overflow import OVERFLOW_POLICIES
from ..receiving.queue import SocketQueue
from ..roster.directory import Roster, clock
from ..roster.members import Member
from ..runtime.context import LazyContext
from ..runtime.descriptors import CHANNEL, INGRESS, check_headroom
from .channel_records import ChannelRecord, ChannelRecords

__all__ = ["Channels"]

_MIN_FRAME_BYTES = 276  # libzmq's handshake needs as much

ChannelT = TypeVar("ChannelT", bound=ChannelBase)


class Channels:
    """The channels and ingresses of one node. Joining and removing happen under the node's lock."""

    def __init__(
        self,
        roster: Roster,
        member: Member,
        context: LazyContext,
        options: BusOptions,
        *,
        on_closed: Callable[[SocketQueue], None],
        on_dropped: Callable[[SocketQueue], None],
    ) -> None:
        """Prepare for channels.

        Args:
            roster: where ingresses are announced.
            member: counts what goes wrong in the channels.
            context: is started with the first channel.
            options: of the bus.
            on_closed: called once the socket of a channel is closed.
            on_dropped: called when a channel that is still open is garbage collected.
        """
        self._roster = roster
        self._member = member
        self._context = context
        self._options = options
        self._on_closed = on_closed
        self._on_dropped = on_dropped
        self._records = ChannelRecords()
        self._joined = 0
        self._shared: Ingress | None = None
        self._closing: list[Ingress] | None = None

    def join(self, request: SubscriptionRequest, make_channel: Callable[..., ChannelT]) -> ChannelT:
        """Return a new channel, made by `make_channel`, that gets every event sent after this returns."""
        ingress = self._ingress_for(request)
        fresh = not ingress.entry.epoch
        try:
            channel, decoder, announced_at = self._connect(ingress, request, make_channel)
        except BaseException:
            if fresh:
                ingress.withdraw()
                ingress.close()
            raise
        if fresh:
            self._roster.reap()
        if not OVERFLOW_POLICIES[request.overflow].blocking:
            self._shared = ingress
        decoder.joined(announced_at, clock())
        return channel

    def _ingress_for(self, request: SubscriptionRequest) -> Ingress:
        blocking = OVERFLOW_POLICIES[request.overflow].blocking
        self._records.check_quota()
        # The publisher of this process may yet connect to each ingress, with a descriptor at either end.
        own = 2 * (len(self.ingresses()) + 1)
        if self._shared is not None and not blocking:
            check_headroom(CHANNEL + own)
            return self._shared
        check_headroom(INGRESS + own)
        return Ingress(
            self._context.get(),
            self._roster,
            blocking=blocking,
            capacity=request.capacity if blocking else self._options.capacity,
            max_event_bytes=max(self._options.max_event_bytes, _MIN_FRAME_BYTES),
            on_notice=self._records.on_notice,
            sources=self._records.sources,
        )

    def _connect(
        self, ingress: Ingress, request: SubscriptionRequest, make_channel: Callable[..., ChannelT]
    ) -> tuple[ChannelT, Decoder, int]:
        """Connect a new channel to an ingress; return it, its decoder, and when it was announced."""
        overflow = OVERFLOW_POLICIES[request.overflow]
        own = request if overflow.queues_frames else self._options
        queued, barrier = ingress.connect(
            prefixes(request.system, request.kind), own.capacity, own.capacity_bytes
        )
        queue = SocketQueue(queued, partial(ingress.wake, barrier), self._on_closed)
        decoder = Decoder(request.system, request.kind, request.fit, self._member.add)
        queue.marks_at_end = partial(ingress.marks.lacking, decoder)
        try:
            source = overflow.source(queue, decoder, request.capacity, request.capacity_bytes)
            channel = make_channel(request, source, self._on_dropped)
            patterns = (channel.system, channel.kind or "*", request.overflow)
            self._joined += 1
            self._records[queue] = ChannelRecord(source, ingress, patterns, self._joined, Observer(source))
            announced_at = ingress.publish(queued.socket, self.describe(ingress))
        except BaseException:
            self._records.pop(queue, None)
            queue.close()
            raise
        return channel, decoder, announced_at

    def describe(self, ingress: Ingress) -> dict[str, Any]:
        """Return the description for the entry of an ingress."""
        return self._records.describe(ingress, self._member.id)

    def ingresses(self) -> set[Ingress]:
        """Return all ingresses; the shared one stays when its last channel ends."""
        return self._records.ingresses() | ({self._shared} if self._shared else set())

    def numbers(self, now: float) -> list[dict[str, Any]]:
        """Return what each channel has received so far. Any thread may call this, without the lock."""
        return self._records.numbers(now)

    @property
    def in_use_here(self) -> bool:
        """Whether this thread is using an ingress: then this is a signal handler."""
        return any(ingress.in_use_here for ingress in self.ingresses())

    def tell_marks(self) -> None:
        """Tell channels that have emptied their queues what they lost; called once a second."""
        if self._shared is not None:
            self._shared.marks.look()

    def remove(self, queue: SocketQueue) -> bool:
        """Forget the channel whose socket is closed, and close an ingress of its own.

        Returns:
            Whether there was such a channel.
        """
        record = self._records.get(queue)
        if record is None:
            return False
        own = record.ingress is not self._shared
        if self._closing is None and own:
            record.ingress.withdraw()  # before the record goes, so that the next close finishes this
            record.ingress.close()
        del self._records[queue]
        if self._closing is None and not own:
            record.ingress.describe(self.describe(record.ingress))
        return True

    def __len__(self) -> int:
        return len(self._records)

    def withdraw(self) -> None:
        """Remove all ingresses from the roster: publishers that look next disconnect."""
        for ingress in self.ingresses():
            ingress.withdraw()

    def end(self) -> None:
        """Close all channels; what they have queued can still be received."""
        self._records.end()

    @property
    def closing(self) -> bool:
        """Whether `start_closing` was called."""
        return self._closing is not None

    def start_closing(self) -> None:
        """Leave the ingresses to `close`, from now on, when their channels end."""
        self._closing = self._closing or [*self.ingresses()]

    def close(self) -> None:
        """Close the ingresses. All channels must have been removed, or a full one may stop a forwarder."""
        for ingress in self._closing or ():
            ingress.close()

    def idents(self) -> set[str]:
        """Return the ids of all ingresses, also of those that are closing."""
        return {ingress.id for ingress in (*self.ingresses(), *(self._closing or ()))}

    def after_fork_in_child(self, reason: str) -> None:
        """In a forked child: make every use of a channel raise."""
        self._records.after_fork_in_child(reason)
