"""A node: one process's place on a bus, and its end.

A `Bus` is only a handle on it. The handle may be garbage collected; the node stays until it is closed, so
that its sockets are never garbage, which Python would finalize in any order.

It owns one ZeroMQ context, one publisher, one ingress shared by its `drop` and `latest` channels and one for
each `block` channel. Nothing of ZeroMQ is created before it is needed, so a bus that only sends has no
forwarder and one that never does anything has no threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import zmq

from ..errors import Canceled, Unavailable
from ..options import BusOptions, SubscriptionOptions, SubscriptionRequest
from ..policy import SEND, SUBSCRIBE
from ..protocol.decoder import Decoder
from ..protocol.patterns import prefixes
from ..receiving.channel_base import ChannelBase
from ..receiving.ingress import Ingress
from ..receiving.overflow import OVERFLOW_POLICIES
from ..receiving.queue import SocketQueue
from ..roster.directory import clock
from ..roster.location import bus_name
from ..runtime import housekeeping
from ..runtime.context import LazyContext
from ..runtime.deferred_calls import DeferredCalls
from ..runtime.descriptors import CHANNEL, INGRESS, check_headroom, close_connections, raise_limit
from ..runtime.lifecycle import check_subscribing, close_in_background, process_exiting, register, unregister
from ..runtime.locks import Lock
from ..runtime.malloc_trim import trim_memory
from ..runtime.os_errors import map_os_errors
from ..runtime.reports import emit_reports
from ..runtime.threads import sleep
from ..sending.blockers import name_blockers
from ..sending.exit_bus import ExitContext, FlushEachSend
from ..sending.flush import FirstWrites, flushing
from ..sending.links import Links
from ..sending.publisher import Attempts, Publisher
from .channel_records import ChannelRecord, ChannelRecords
from .policy_check import PolicyCheck
from .presence import Presence

__all__ = ["Node"]

_HOUSEKEEPING_TIMEOUT = 0.1
# How often, and with which pauses, what is left of cleaning up goes on each second: a tenth of the time.
_REAP_ROUNDS = 5
_REAP_PAUSE = 0.08
_CLOSE_TRIES = 5  # each waits a while for a send to end; more only if that one hangs
_MIN_FRAME_BYTES = 276  # libzmq's handshake needs as much

SendResult = TypeVar("SendResult")
ChannelT = TypeVar("ChannelT", bound=ChannelBase)


class Node(Generic[SendResult]):
    """One process's place on a bus.

    Attributes:
        name: of the bus.
        options: of the bus, checked.
        path: the directory.
        publisher: the sending half.
        closed: why it is closed, or empty.
    """

    def __init__(
        self,
        name: str | None,
        dir: str | os.PathLike[str] | None,
        options: BusOptions,
        *,
        drive: Callable[[Attempts], SendResult],
        try_seconds: float,
    ) -> None:
        """Open the bus; see `Bus`. For `drive` and `try_seconds` see `Publisher`."""
        self._pid = os.getpid()
        self.name = bus_name(name)
        self.options = options.checked()
        self._policy_check = PolicyCheck(self.options.policy)
        raise_limit()
        exiting = process_exiting()
        self._presence = Presence(dir, self.name, listed=not exiting)
        self._roster, self._member = self._presence.roster, self._presence.member
        self.path = self._roster.path
        self._context = LazyContext(ExitContext if exiting else zmq.Context)
        # Re-entrant: garbage collection may close a channel while this thread joins another.
        self._lock, self._close_lock = Lock(), Lock()
        self._shared: Ingress | None = None
        self._records = ChannelRecords()
        self._deferred = DeferredCalls(self._lock)
        self._closing_ingresses: list[Ingress] | None = None  # what `close` is to close in the end
        self.closed, self._finished = "", False
        self._links = Links(
            self._roster,
            self._context,
            capacity=self.options.capacity,
            capacity_bytes=self.options.capacity_bytes,
            join_timeout=self.options.join_timeout,
            send_timeout=self.options.seconds(),
            gave_up=partial(self._member.add, "join_timeouts"),
        )
        self.publisher = Publisher(
            self._roster,
            self._links,
            check_policy=self._check_send,
            count_timeout=partial(self._member.add, "send_timeouts"),
            new_origin=self._member.new_origin,
            capacity_bytes=self.options.capacity_bytes,
            max_event_bytes=self.options.max_event_bytes,
            send_timeout=self.options.send_timeout,
            drive=drive,
            try_seconds=try_seconds,
            await_written=FirstWrites(self._context.threads).wait,
        )
        self._open(exiting)

    def _open(self, exiting: bool) -> None:
        if exiting:
            each = FlushEachSend(self._context.threads, self._links.idents, self.options.linger)
            self.publisher.flush_each(each.wait, self.options.linger)
            return
        register(self)

    def check_subscription(
        self, system: str, kind: str | None, options: SubscriptionOptions
    ) -> SubscriptionRequest:
        """Check what a subscription asks for; see `Bus.subscribe`."""
        request = options.request(self.options, system, kind)
        self._policy_check.check(SUBSCRIBE, "subscribe to events from system", request.system.pattern)
        return request

    def join(
        self, request: SubscriptionRequest, make_channel: Callable[..., ChannelT], bus: object
    ) -> ChannelT:
        """Return a channel, made by `make_channel`, that gets every event sent after this returns."""
        if self._in_use_here:
            why = "a signal handler cannot subscribe while its thread opens or closes a subscription"
            raise Unavailable(f"{why}: have a thread subscribe", retryable=True)
        try:
            with map_os_errors("subscribe"), self._lock:
                self._check_open()
                check_subscribing()
                self._watch_presence()
                self._presence.restore(self._all_ingresses(), self._describe, create=True)
                return self._join_by(self._ingress_for(request), request, partial(make_channel, bus))
        finally:
            self._deferred.run()
            emit_reports()

    def _check_send(self, system: str) -> None:
        self._watch_presence()
        self._policy_check.check(SEND, "send events to system", system)

    def _watch_presence(self) -> None:
        """See once a second, from the first use on, that others still find this process."""
        with suppress(Unavailable):  # no thread: then at each join only
            housekeeping.register(self._housekeep)

    def _housekeep(self) -> None:
        def restore() -> None:
            if not self.closed:
                self._presence.restore_or_report(self._all_ingresses(), self._describe)

        self._lock.run(restore, _HOUSEKEEPING_TIMEOUT)
        self._deferred.run()
        self.publisher.process_commands()
        trim_memory()
        for _ in range(_REAP_ROUNDS):
            if self.closed or not self._roster.continue_reaping():
                break
            sleep(_REAP_PAUSE)

    def _ingress_for(self, request: SubscriptionRequest) -> Ingress:
        blocking = OVERFLOW_POLICIES[request.overflow].blocking
        self._records.check_quota()
        # Its own publisher may still connect to each ingress, the new one too: a descriptor at either end.
        own = 2 * (len(self._all_ingresses()) + 1)
        if self._shared is not None and not blocking:
            check_headroom(CHANNEL + own)
            return self._shared
        check_headroom(INGRESS + own)
        return Ingress(
            self._context.get(),
            self._roster,
            blocking=blocking,
            capacity=request.capacity if blocking else self.options.capacity,
            max_event_bytes=max(self.options.max_event_bytes, _MIN_FRAME_BYTES),
            on_notice=self._records.on_notice,
        )

    def _join_by(
        self, ingress: Ingress, request: SubscriptionRequest, make_channel: Callable[..., ChannelT]
    ) -> ChannelT:
        fresh = not ingress.entry.epoch
        overflow = OVERFLOW_POLICIES[request.overflow]
        own = request if overflow.queues_frames else self.options
        try:
            queued, barrier = ingress.connect(
                prefixes(request.system, request.kind), own.capacity, own.capacity_bytes
            )
            queue = SocketQueue(queued, partial(ingress.wake, barrier), self._leave)
            decoder = Decoder(request.system, request.kind, request.fit, self._member.add)
            try:
                source = overflow.source(queue, decoder, request.capacity, request.capacity_bytes)
                channel = make_channel(request, source, self._discard)
                patterns = (channel.system, channel.kind or "*", request.overflow)
                self._records[queue] = ChannelRecord(source, ingress, patterns)
                announced_at = ingress.publish(queued.socket, self._describe(ingress))
            except BaseException:
                self._records.pop(queue, None)
                queue.close()
                raise
        except BaseException:
            if fresh:
                ingress.withdraw()
                ingress.close()
            raise
        if fresh:
            self._roster.reap()
        if not overflow.blocking:
            self._shared = ingress
        decoder.joined(announced_at, clock())
        return channel

    def _describe(self, ingress: Ingress) -> dict[str, Any]:
        return self._records.describe(ingress, self._member.id)

    def _leave(self, queue: SocketQueue) -> None:
        """Forget a channel whose socket is closed."""
        self._deferred.run(partial(self._forget, queue))

    def _discard(self, queue: SocketQueue) -> None:
        """Close the queue of a channel that nobody refers to any more."""
        if not self.inherited:
            self._deferred.run(queue.close)

    def _forget(self, queue: SocketQueue) -> None:
        record = self._records.get(queue)
        if record is None:
            return
        if self._closing_ingresses is None and record.ingress is not self._shared:
            record.ingress.withdraw()  # first: what an interrupt cuts short is left to the next close
            record.ingress.close()
        del self._records[queue]
        if self._closing_ingresses is not None:
            self._finish()
        elif record.ingress is self._shared:
            record.ingress.describe(self._describe(record.ingress))

    def flushing(self, timeout: float | None) -> Iterator[float]:
        """Look until what was sent is handed over, see `Bus.flush`; yield how long to wait meanwhile."""
        seconds = self.options.seconds(timeout)
        self._check_open()
        return name_blockers(
            flushing(self._context.threads(), self._links.idents, seconds), self._links.snapshot
        )

    def hand_over(self, since: float) -> Callable[[], None]:
        """Hand over what was sent, and keep others from sending; see `ends`. The process is about to end."""
        resume = self.publisher.pause()
        seconds = max(0.0, since + self.options.linger - time.monotonic())
        with suppress(BaseException):  # not even a second Ctrl-C keeps it from its end
            for pause in flushing(self._context.threads(), self._links.idents, seconds):
                sleep(pause)
        return resume

    def close(self) -> None:
        """Leave the bus; see `Bus.close`. Who calls it meanwhile waits for the end.

        A signal handler may call it amid anything that its thread does here. What it interrupts must go on
        first, so then new uses are refused at once, and a helper closes the rest as soon as it may.
        """
        if self.inherited or self._close_lock.held():
            return
        if self._in_use_here or self.publisher.in_use_here:
            self._refuse()
        else:
            for _ in range(_CLOSE_TRIES):
                if self._try_to_close():
                    return
        close_in_background(self._close_until_done)

    @property
    def _in_use_here(self) -> bool:
        """Whether this thread is amid a join or the end of a channel: then this is a signal handler."""
        return self._lock.held() or any(ingress.in_use_here for ingress in self._all_ingresses())

    def _close_until_done(self) -> None:
        while not self._try_to_close():
            pass  # a try takes a while

    def _try_to_close(self) -> bool:
        try:
            with self._close_lock:
                return self._close_once()
        finally:
            self._deferred.run()

    def _refuse(self) -> None:
        self.closed = self.closed or f"the bus {self.name!r} is closed: open a new one"
        self.publisher.refuse(self.closed)

    def _close_once(self) -> bool:
        with self._lock:
            if self._finished:
                return True
            deadline = time.monotonic() + self.options.linger
            self._refuse()
            self._withdraw()
            connections = self.publisher.close(deadline)
            if connections is None:
                return False
            self._closing_ingresses = [*self._all_ingresses()]
        try:
            housekeeping.unregister(self._housekeep)
            self.end_channels()
            with self._lock:
                self._finish()
            connections.wait(deadline)
        finally:  # also when somebody will not wait
            connections.close()
        return True

    def leave(self) -> None:
        """Remove this process from the roster, when nobody waits for a close any more."""
        self._withdraw()
        self._member.close()

    def _withdraw(self) -> None:
        for ingress in self._all_ingresses():
            ingress.withdraw()

    def end_channels(self) -> None:
        """End all channels; what they hold can still be received, and the bus still sends."""
        self._records.end()

    def _all_ingresses(self) -> set[Ingress]:
        return self._records.ingresses() | ({self._shared} if self._shared else set())

    def _finish(self) -> None:
        """Free what is left, once every channel's socket is closed.

        That may be later than `close`: if it was called in a signal handler while this very thread waits in
        a channel, that channel comes here when the handler has returned.
        """
        if self._records or self._finished:
            return
        for ingress in self._closing_ingresses or ():
            ingress.close()
        self._member.close()
        self._roster.close()
        self._context.term()  # takes as long as it lingers
        unregister(self)
        self._finished = True  # last: what an interrupt cuts short is left to the next close

    def _check_open(self) -> None:
        if self.closed:
            raise Canceled(self.closed)

    def after_fork_in_child(self) -> None:
        """In a forked child: the sockets are the parent's, so every use fails at once."""
        self.closed = f"the bus {self.name!r} belongs to the parent process: open a new one after fork"
        self._finished = True  # there is nothing of ours to close
        self._lock = Lock()
        self._records.after_fork_in_child(self.closed)
        steps = self._member.after_fork_in_child, self._roster.after_fork_in_child, self._disconnect
        for step in (partial(self.publisher.after_fork_in_child, self.closed), *steps):
            with suppress(Exception):  # another thread of the parent was about to change it
                step()

    def _disconnect(self) -> None:
        # Else the parent's ingress would seem to listen, and its peers to be connected, when it is long gone.
        ingresses = (*self._all_ingresses(), *(self._closing_ingresses or ()))
        idents = {*self._links.idents(), *(ingress.id for ingress in ingresses)}
        close_connections(str(self.path), idents)

    @property
    def inherited(self) -> bool:
        """Whether it is the parent's. A forked child may collect garbage before anything is disowned."""
        return self._pid != os.getpid()
