"""A node: everything that one `Bus` object has open, and the order in which it is closed.

A `Bus` is only a handle on a node. The handle may be garbage collected; the node lives until it is closed, so
that its sockets never become garbage, which Python would finalize in any order.

A node owns one ZeroMQ context, its publisher (the sending half) and its channels (the receiving half). Each
part is created when it is first needed: a bus that only sends has no forwarder, an unused bus has no threads.

The end of a node, in this order:

1. `refuse`: every new call raises `Canceled`. What `coalesce` holds is handed over, until `linger` is over.
2. `withdraw`: the ingresses leave the roster, so publishers that look next disconnect.
3. The publisher sends its last marks, and the sending sockets close. libzmq still writes what they hold.
   Duplicates of their connections show when the peers have read it (`PendingConnections`).
4. The channels end. They can still be drained: a channel's socket closes once nobody is receiving from it.
5. When the last of those sockets is closed, `_finish` closes the ingresses, the member file, the roster and
   the context. That may be after `close` has returned.
6. `close` waits until the peers have read everything, or until `linger` is over.

A signal handler that raises may interrupt any step. The next `close` then starts again at the first one, so
each step may run twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

import zmq

from ..errors import Canceled, Unavailable
from ..options import BusOptions, SubscriptionOptions, SubscriptionRequest
from ..policy import SEND, SUBSCRIBE
from ..receiving.channel_base import ChannelBase
from ..receiving.queue import SocketQueue
from ..roster.bus_id import bus_id
from ..roster.location import bus_name
from ..runtime import housekeeping
from ..runtime.context import LazyContext
from ..runtime.deferred_calls import DeferredCalls
from ..runtime.descriptors import close_connections, raise_limit
from ..runtime.lifecycle import check_subscribing, close_in_background, process_exiting, register, unregister
from ..runtime.locks import Lock
from ..runtime.malloc_trim import trim_memory
from ..runtime.os_errors import map_os_errors
from ..runtime.reports import emit_reports
from ..runtime.threads import sleep
from ..sending.attempts import Attempts
from ..sending.blockers import name_blockers
from ..sending.exit_bus import ExitContext, FlushEachSend
from ..sending.flush import FirstWrites, flush_timeout_error, flushing
from ..sending.links import Links
from ..sending.publisher import Publisher
from .channels import Channels
from .numbers import LiveNumbers
from .policy_check import PolicyCheck
from .presence import Presence

__all__ = ["Node"]

_HOUSEKEEPING_TIMEOUT = 0.1
# The pause between two rounds of removing dead files; each takes 0.02 s at most, so a tenth of the time.
_REAP_PAUSE = 0.18
_CLOSE_TRIES = 5  # each waits 0.2 s for a send of another thread to end; then a thread goes on trying

SendResult = TypeVar("SendResult")
ChannelT = TypeVar("ChannelT", bound=ChannelBase)


class Node(Generic[SendResult]):
    """What one `Bus` object has open.

    Attributes:
        name: of the bus.
        options: of the bus, checked.
        path: the directory of the bus.
        publisher: the sending half.
        numbers: what it publishes of itself.
        closed: why it is closed; empty while it is open.
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
        # Re-entrant: garbage collection may close a channel while this thread opens another.
        self._lock, self._close_lock = Lock(), Lock()
        self._deferred = DeferredCalls(self._lock)
        self._channels = Channels(
            self._roster,
            self._member,
            self._context,
            self.options,
            on_closed=self._on_channel_closed,
            on_dropped=self._on_channel_dropped,
        )
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
            coalesce=self.options.coalesce or 0.0,
            drive=drive,
            try_seconds=try_seconds,
            await_written=FirstWrites(self._context.threads).wait,
        )
        self.numbers = LiveNumbers(self.publisher, self._links, self._channels, self._member)
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
                self._presence.restore(self._channels.ingresses(), self._channels.describe, create=True)
                return self._channels.join(request, partial(make_channel, bus))
        finally:
            self._deferred.run()
            emit_reports()

    def _check_send(self, system: str) -> None:
        self._watch_presence()
        self._policy_check.check(SEND, "send events to system", system)

    def bus_id(self) -> str:
        """Return the id of the bus directory; give it one if it has none. Raises `Unavailable`."""
        return bus_id(self._roster.path, self._roster.permissions)

    def show_link(self, numbers: Callable[[], dict[str, object]]) -> None:
        """Publish what a link has carried, from now on, also if the bus is not used yet."""
        self.numbers.link = numbers
        self._watch_presence()

    def _watch_presence(self) -> None:
        """From the first use on, check once a second that this process is still on the roster."""
        with suppress(Unavailable):  # without a thread, that is checked at each join only
            housekeeping.register(self._housekeep)

    def _housekeep(self) -> None:
        def restore() -> None:
            if not self.closed:
                self._presence.restore_or_report(self._channels.ingresses(), self._channels.describe)

        self._lock.run(restore, _HOUSEKEEPING_TIMEOUT)
        self._deferred.run()
        self.publisher.housekeep()
        self._channels.tell_marks()
        if not self.closed:
            self.numbers.publish()
        trim_memory()
        self._reap()

    def _reap(self) -> None:
        if not self.closed and self._roster.continue_reaping():
            with suppress(Unavailable):  # the interpreter is about to end
                housekeeping.schedule(self._reap, _REAP_PAUSE)

    def _on_channel_closed(self, queue: SocketQueue) -> None:
        """Forget a channel whose socket is closed."""
        self._deferred.run(partial(self._forget, queue))

    def _on_channel_dropped(self, queue: SocketQueue) -> None:
        """Close the queue of a channel that was garbage collected."""
        if not self.inherited:
            self._deferred.run(queue.close)

    def _forget(self, queue: SocketQueue) -> None:
        if self._channels.remove(queue) and self._channels.closing:
            self._finish()

    def flushing(self, timeout: float | None) -> Iterator[float]:
        """Yield how long to wait until the peers have taken what was sent; see `Bus.flush`."""
        seconds = self.options.seconds(timeout)
        self._check_open()
        coalescer = self.publisher.coalescer
        if coalescer is not None and coalescer.rows and self.publisher.in_use_here:
            why = "a signal handler cannot flush while its thread sends"
            raise Unavailable(f"{why}: have a thread flush", retryable=True)
        return name_blockers(self._flushing(seconds), self._links.snapshot)

    def writing(self, seconds: float) -> Iterator[float]:
        """Yield how long to wait until what was sent outlives this process, for a link.

        The kernel has it, but for what a full `drop` subscriber may lose, and the `block` subscribers of
        other processes have read it. Raises `Timeout`.
        """

        def idents() -> set[str]:
            return self._links.blocking() - {ingress.id for ingress in self._channels.ingresses()}

        return name_blockers(flushing(self._context.threads(), idents, seconds), self._links.snapshot)

    def _flushing(self, seconds: float) -> Iterator[float]:
        begun = time.monotonic()
        if (coalescer := self.publisher.coalescer) is not None:
            yield from coalescer.handing_over(begun + seconds)
            if coalescer.rows:
                raise flush_timeout_error(seconds)
        yield from flushing(self._context.threads(), self._links.idents, seconds, begun)

    def hand_over(self, since: float) -> Callable[[], None]:
        """Wait until the peers have taken what was sent, and stop others from sending; see `lifecycle`.

        Called just before the process exits, at `since` or later. Returns what lets others send again.
        """
        resume = self.publisher.pause()
        deadline = since + self.options.linger
        with suppress(BaseException):  # a second Ctrl-C must not keep the process from exiting
            self.hand_over_held(deadline)  # first, so that the last marks tell of it
            self.publisher.finish(deadline)
            for pause in self._flushing(max(0.0, deadline - time.monotonic())):
                sleep(pause)
        return resume

    def hand_over_held(self, deadline: float) -> None:
        """Wait until nothing is held any more, or it is `deadline` (monotonic)."""
        if (coalescer := self.publisher.coalescer) is not None:
            for pause in coalescer.handing_over(deadline):
                sleep(pause)

    def close(self) -> None:
        """Leave the bus; see `Bus.close` and the head of this file. A second caller waits for the first.

        A signal handler may call this while its thread is using the node. What it interrupts has to finish
        first, so new calls are refused at once, and a thread closes the rest as soon as it can.
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
        """Whether this thread is opening or closing a channel: then this is a signal handler."""
        return self._lock.held() or self._channels.in_use_here

    def _close_until_done(self) -> None:
        while not self._try_to_close():
            pass  # a try takes a while

    def _try_to_close(self) -> bool:
        try:
            with self._close_lock:
                return self._close_once()
        finally:
            self._deferred.run()
            emit_reports()

    def _refuse(self) -> None:
        self.closed = self.closed or f"the bus {self.name!r} is closed: open a new one"
        self.publisher.refuse(self.closed)

    def _close_once(self) -> bool:
        deadline = time.monotonic() + self.options.linger
        self._refuse()
        self.hand_over_held(deadline)
        with self._lock:
            if self._finished:
                return True
            self._channels.withdraw()
        self.publisher.finish(deadline)
        with self._lock:
            connections = self.publisher.close(deadline)
            if connections is None:
                return False
            self._channels.start_closing()
        try:
            housekeeping.unschedule(self._reap)
            housekeeping.unregister(self._housekeep)
            self._channels.end()
            with self._lock:
                self._finish()
            connections.wait(deadline)
        finally:  # also if the wait is interrupted
            connections.close()
        return True

    def leave(self) -> None:
        """Remove this process from the roster, in a process that exits without closing the node."""
        self._channels.withdraw()
        self._member.close()

    def end_channels(self) -> None:
        """Close all channels; what they have queued can still be received, and the bus can still send."""
        self._channels.end()

    def _finish(self) -> None:
        """Close what is left, unless a channel's socket is still open: then its end calls this.

        That may be after `close` has returned: if a signal handler calls `close` while its thread waits in a
        channel, the channel ends when the handler has returned.
        """
        if len(self._channels) or self._finished:
            return
        self._channels.close()
        self._member.close()
        self._roster.close()
        self._context.term()  # waits for libzmq's own linger
        unregister(self)
        self._finished = True  # last, so that the next close finishes one that was interrupted

    def _check_open(self) -> None:
        if self.closed:
            raise Canceled(self.closed)

    def after_fork_in_child(self) -> None:
        """In a forked child: make every use raise, because the sockets are the parent's."""
        self.closed = f"the bus {self.name!r} belongs to the parent process: open a new one after fork"
        self._finished = True  # nothing here belongs to the child
        self._lock = Lock()
        self._channels.after_fork_in_child(self.closed)
        steps = self._member.after_fork_in_child, self._roster.after_fork_in_child, self._disconnect
        for step in (partial(self.publisher.after_fork_in_child, self.closed), *steps):
            with suppress(Exception):  # a thread of the parent may have been changing it
                step()

    def _disconnect(self) -> None:
        # Otherwise the parent's ingress would seem to listen, and its peers to be connected, after its death.
        close_connections(str(self.path), {*self._links.idents(), *self._channels.idents()})

    @property
    def inherited(self) -> bool:
        """Whether it is the parent's. A finalizer in a child may ask before `after_fork_in_child` has run."""
        return self._pid != os.getpid()
