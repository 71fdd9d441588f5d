"""The publisher: what every send goes through that is not the fast path of `Sender.send`.

The token is a number in shared memory that moves when somebody joins or leaves. While it has the value that
the links were settled at, a send fills in a template and hands the frame to the sockets, and that is all.

    token moved ─► settle: list the roster, link, wait for joiners ─► new templates ─► marks that are owed
                   └ nobody is sent to until this is done, or those who do not answer are given up

The `block` socket goes first. If it has no room, it raises before anybody got the frame, so the send can be
tried again under the same number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Generic, TypeVar

from ..errors import Canceled, Invalid, Unavailable
from ..options import DEFAULT, check_timeout
from ..protocol.marks import Topic
from ..protocol.wire import LARGE_BYTES, check_sendable, encode_batch
from ..roster.directory import Roster, clock
from ..runtime.locks import TIMEOUT_MAX, Lock
from ..runtime.os_errors import map_os_errors
from ..runtime.reports import emit_reports
from .attempts import Attempts, Unsent, too_large_error
from .backlog import Backlog
from .blockers import BUSY, JOINING, NO_ROOM, send_timeout_error
from .coalescer import BEHIND, Coalescer, EmitHeld
from .crowd import Crowd
from .exit_bus import ExitLock
from .join_wait import MAX_TIMEOUTS
from .linger import PendingConnections
from .links import NEVER, Full, Links
from .relay import Relay
from .sockets import WOULD_BLOCK
from .streams import Streams
from .tails import Tails
from .time_field import TimeField

__all__ = ["Publisher"]

_CLOSE_SECONDS = 0.2
# How long a send without time left waits for one in another thread. That one takes microseconds.
_TURN_SECONDS = 0.005
# The longest that a send waits for large frames to be written; a tenth of it on an event loop.
_ROOM_SECONDS = 0.5
# The longest that the first send of a topic waits until the frame has left this process; likewise.
_WRITE_SECONDS = 0.25

_MAPPED = map_os_errors("send")

SendResult = TypeVar("SendResult")


class Publisher(Generic[SendResult]):
    """The sending half of a bus. Any thread may call it.

    Attributes:
        lock: guards everything here.
        sending: whether a thread sends or waits to; a hint, since the first of several that ends says no. A
            count costs 25 ns more (measured).
        token, settled_token: the bus's token, and the value that the links are settled at.
        streams: its topics and their numbers.
        current: by system and by kind, the topics whose template is up to date.
        time: what the stamp of the next frame says of the time.
        small_bytes: larger frames are announced and counted.
        closed: why it is closed, or empty.
        block, drop: send a frame to all `block` ingresses, and to all others; `None` if there are none.
        coalescer: what holds events for a moment; `None` if this bus does not.
        relay: sends events of other buses on.
    """

    def __init__(
        self,
        roster: Roster,
        links: Links,
        *,
        check_policy: Callable[[str], None],
        count_timeout: Callable[[], None],
        new_origin: Callable[[], str],
        capacity_bytes: int,
        max_event_bytes: int,
        send_timeout: float | None,
        coalesce: float,
        drive: Callable[[Attempts], SendResult],
        try_seconds: float,
        await_written: Callable[[float], None],
    ) -> None:
        """Prepare to send over `links`.

        Args:
            check_policy: called once per topic with its system; raises if the policy denies it.
            count_timeout: called when a send times out.
            capacity_bytes: how many bytes may wait for each subscriber.
            new_origin: returns a new origin to number events under, and publishes whose it is.
            coalesce: how long an event may be held for others to travel with it; 0 for not at all.
            drive: drives the attempts of a send that cannot be done at once.
            try_seconds: how long one attempt may wait; 0 if the driver waits between attempts.
            await_written: waits until what was sent has left this process, for that many seconds at most.
        """
        self._links = links
        self._check_policy = check_policy
        self._count_timeout = count_timeout
        self._max = max_event_bytes
        self.small_bytes = min(LARGE_BYTES, max_event_bytes)
        self._backlog = Backlog(links, capacity_bytes, self._emit_lossy)
        self._send_timeout = check_timeout(send_timeout, "send_timeout")
        self.lock = Lock()
        self.sending = False
        self._crowd = Crowd()
        self.streams = Streams(new_origin)
        self.current = self.streams.current  # the very same dict: `send` saves a look-up
        self.token = roster.token
        self.settled_token = NEVER
        self.time = TimeField()
        self.relay = relay = Relay(self, links, self._backlog, max_event_bytes)
        self._tails = Tails(self, links, lambda: chain(self.streams.topics(), relay.topics()))
        self.block: Callable[[bytes], object] | None = None
        self.drop: Callable[[bytes], object] | None = None
        self.closed = ""
        self._drive = drive
        self._try_seconds = try_seconds
        self._await_written = await_written
        self._flush_each = False
        self._first_frame = False  # whether the latest frame was the first of its topic, or since a settling
        self.coalescer = Coalescer(self, coalesce, max_event_bytes) if coalesce else None
        links.wait_at_most(try_seconds)

    def drive(self, unsent: Unsent, timeout: float | None) -> SendResult:
        """Send the long way, with retries until `timeout`; return what the driver returns."""
        return self._drive(self._attempts(unsent, timeout))

    def give_way(self) -> None:
        """Sleep for a moment if threads keep meeting here; see `Crowd`."""
        self._check_not_in_use()
        if self._try_seconds:
            self._crowd.give_way(lambda: self.sending)

    def _check_not_in_use(self) -> None:
        if self.in_use_here:
            raise Unavailable("a signal handler cannot send while its thread does: have a thread send")

    def _check_usable(self) -> None:
        self._check_not_in_use()
        if self.closed:  # in a forked child, not even the sockets may be touched
            raise Canceled(self.closed)

    def _check_topic(self, system: str, kind: str) -> None:
        """Check a topic that was not checked yet. The lock is free: a policy may do anything."""
        if type(system) is not str or type(kind) is not str or (system, kind) not in self.streams:
            check_sendable(system, kind)
            self._check_policy(system)

    def send_many(
        self, system: str, kind: str, items: Iterable[tuple[str, Any]], timeout: float | None
    ) -> tuple[int, SendResult | None]:
        """Send several events of one topic as one frame; see `Bus.send_many`.

        Returns:
            How many events, and what `drive` returns; `None` if there is nothing to send.
        """
        try:
            body, count = encode_batch(items)
        except (Invalid, TypeError):
            check_sendable(system, kind)
            raise
        system, kind = check_sendable(system, kind)
        if not count:
            return 0, None
        return count, self.drive(Unsent(system, kind, b"", body, count), timeout)

    def _transmit(self, unsent: Unsent) -> None:
        """Send what is held and then a frame; see `transmit`."""
        if (coalescer := self.coalescer) is not None:
            coalescer.transmit_or_wait(self._links.await_room)
        if unsent.relayed is None:
            self.transmit(unsent)
        else:
            self._prepare()
            self.relay.transmit(unsent.relayed, self._tails)

    def transmit(self, unsent: Unsent, emit_held: EmitHeld | None = None) -> None:
        """Send a frame under the lock; raise `zmq.Again` for want of room, `Full` while somebody joins.

        What was held is sent by `emit_held`, and even if the bus was closed meanwhile.
        """
        self._prepare(closed=emit_held is not None)
        system, kind, path, body, events, _ = unsent
        try:
            topic = self.current[system][kind]
        except KeyError:
            topic = self._bring_up_to_date(system, kind)
        frame = topic.template % (path, topic.seq + 1, self.time.read(), body)
        if len(frame) > self._max:
            raise too_large_error(len(frame), self._max)
        if (size := len(frame)) > self.small_bytes:
            self._backlog.announce(topic, system, kind, size)
        if emit_held is not None:
            emit_held(frame, topic, events)
        else:
            self.emit(frame)
            topic.seq += events
        topic.bytes += size
        if size > self.small_bytes:
            self._backlog.add(topic, size)
            self._links.pad(size, system, kind)
        if self._flush_each:  # nobody looks again
            self._tails.tell(topic)

    def _prepare(self, *, closed: bool = False) -> None:
        """Make sure that there is room for large frames, and that the links are settled."""
        if self._tails.resting:
            self._tails.wake()
        if self._backlog.check_due and self._backlog.make_room(
            _ROOM_SECONDS if self._try_seconds else _ROOM_SECONDS / 10
        ):
            self.settled_token = NEVER
            self._tails.remark()
        if self.token[0] != self.settled_token:
            self._settle(closed=closed)

    def admit_large(self, topic: Topic, system: str, kind: str, size: int) -> bool:
        """Announce and count a large frame of the fast path; return whether it may be sent there."""
        if size > self._max or self._backlog.check_due or self._links.pads(size):
            return False
        self._backlog.announce(topic, system, kind, size)
        self._backlog.add(topic, size)
        return True

    def emit(self, frame: bytes) -> None:
        """Send a frame to all, `block` subscribers first: what they refuse, nobody gets."""
        if self.block is not None:
            self.block(frame)
        self._emit_lossy(frame)

    def _emit_lossy(self, frame: bytes) -> None:
        if self.drop is not None:
            try:
                self.drop(frame)
            except WOULD_BLOCK:
                self.force(frame)

    def force(self, frame: bytes) -> None:
        """Send a frame that a `drop` subscriber had no room for to all others."""
        self._tails.force(frame)

    def housekeep(self) -> None:
        """Have libzmq free what waited for peers that are gone; called once a second, by any thread."""
        self.lock.run(lambda: None if self.closed else self._links.process_commands())
        self._tails.tick()

    def sent(self) -> dict[tuple[str, str, str], int]:
        """Return the number of the latest event of each stream, except of those that are held."""
        with self.lock:
            return self.streams.sent()

    def _attempts(self, unsent: Unsent, timeout: float | None) -> Attempts:
        """Try until the frame is sent or `timeout` is over."""
        timeout = DEFAULT if timeout is BEHIND else timeout
        seconds = self._send_timeout if timeout is DEFAULT else check_timeout(timeout)
        begun = time.monotonic()
        deadline = begun + seconds
        self._check_usable()
        self._check_topic(unsent.system, unsent.kind)
        while True:
            self._check_usable()
            try:
                obstacle = self._attempt(unsent, max(0.0, deadline - time.monotonic()))
            except BaseException:  # an interrupt may have cut its release short
                self.lock.release_if_held()
                raise
            if not obstacle:
                if self._first_frame or self._flush_each:
                    self._first_frame = False
                    if self._flush_each:
                        self.settled_token = NEVER  # so that the next send does not take the fast path
                    self._await_written(_WRITE_SECONDS if self._try_seconds else _WRITE_SECONDS / 10)
                return
            if timeout is DEFAULT:
                # The timeout starts again while joiners answer one after the other, and while they cannot
                # answer because the machine is busy. For a busy machine alone that ends after a while.
                cpu_short = min(self._links.cpu_short_at, begun + MAX_TIMEOUTS * seconds)
                deadline = max(deadline, self._links.answered_at + seconds, cpu_short + seconds)
            if time.monotonic() >= deadline:
                self._count_timeout()
                raise send_timeout_error(
                    obstacle, seconds, self._links.snapshot(), unsent.system, unsent.kind
                )
            yield self._links.sockets()

    def _attempt(self, unsent: Unsent, left: float) -> str:
        """Try to send, for `left` seconds at most; return what is in the way, or an empty text."""
        try:
            # `Lock.run` by hand, which saves 0.3 µs of 5 (measured). Its last part is in `_attempts`.
            seconds = max(_TURN_SECONDS, min(left, TIMEOUT_MAX)) if self._try_seconds else 0
            if not self.lock.acquire(timeout=seconds):
                return BUSY
            self.sending = True
            try:
                with _MAPPED:
                    self._transmit_within(unsent, left)
            finally:
                self.sending = False
            return ""
        except WOULD_BLOCK:
            return NO_ROOM
        except Full:
            return JOINING
        finally:
            self.lock.release_if_held()
            emit_reports()

    def _transmit_within(self, unsent: Unsent, left: float) -> None:
        if not self._try_seconds:
            self._links.process_commands()
        if left >= self._try_seconds:
            return self._transmit(unsent)
        self._links.wait_at_most(left)
        try:
            self._transmit(unsent)
        finally:
            self._links.wait_at_most(self._try_seconds)

    def _settle(self, *, closed: bool = False) -> None:
        if self.closed and not closed:
            raise Canceled(self.closed)
        self.token = self._links.follow()
        known = self._links.settle(self._try_seconds)
        if self.closed and not closed:  # by a signal handler, meanwhile
            raise Canceled(self.closed)
        self.settled_token = NEVER if self.closed else known
        self._tails.update()
        self.current.clear()
        self.block, self.drop = self._links.block, self._links.drop

    def _bring_up_to_date(self, system: str, kind: str) -> Topic:
        """Return a topic that is new, or was not used since the latest settling, with a new template."""
        topic = self.streams.get(system, kind) or self._add_topic(system, kind)
        self._tails.tell(topic, twin_only=True)
        self.streams.renew(system, kind, topic, self._links.settled)
        self._first_frame = True
        return topic

    def _add_topic(self, system: str, kind: str) -> Topic:
        self._tails.retire(self.streams.make_room())
        # First the time, then the token: if that has not moved, everybody who joined before `born` is linked,
        # and gets this topic from number 1. If it has moved, settling links them now.
        born = clock()
        if self.token[0] != self.settled_token:
            self._settle()
        return self.streams.add(system, kind, born)

    @property
    def in_use_here(self) -> bool:
        """Whether this thread is in the middle of a send, so that this is a signal handler."""
        return self.lock.held()

    def refuse(self, reason: str) -> None:
        """Refuse further sends with `Canceled(reason)`. Any thread and any signal handler may call this."""
        self.closed, self.settled_token = reason, NEVER

    def finish(self, deadline: float) -> None:
        """Send the last marks, see `Tails.finish`."""
        self._tails.finish(deadline)

    def close(self, deadline: float) -> PendingConnections | None:
        """Close the sockets, see `Links.close`; return `None` if the send of another thread goes on."""
        closed: list[PendingConnections] = []
        self.lock.run(lambda: closed.append(self._close(deadline)), _CLOSE_SECONDS)
        return closed[0] if closed else None

    def _close(self, deadline: float) -> PendingConnections:
        self.token = memoryview(bytes(8)).cast("Q")  # that of the roster is about to be unmapped
        self.settled_token = NEVER
        if self.coalescer is not None:
            self.coalescer.close()
        self._tails.close()
        self.block = self.drop = None
        return self._links.close(deadline)

    def flush_each(self, await_written: Callable[[float], None], send_timeout: float) -> None:
        """Call `await_written` after each send. Called before the first one; see `exit_bus`."""
        self._await_written, self._flush_each, self.coalescer = await_written, True, None
        self._send_timeout, self.lock = min(self._send_timeout, send_timeout), ExitLock()

    def pause(self) -> Callable[[], None]:
        """Make other threads wait before they send; calling what this returns lets them go on."""
        self.lock.acquire(timeout=_CLOSE_SECONDS)
        return self.lock.release_if_held

    def after_fork_in_child(self, reason: str) -> None:
        """In a forked child: refuse every use, and touch nothing that belongs to the parent."""
        self.refuse(reason)
        self.lock = Lock()
        if self.coalescer is not None:
            self.coalescer.forget()
