"""The publisher: one lock, one stamp, one frame.

`send` compares the token with the one its links are settled at; only when it moved does anything else
happen. The blocking lane goes first, so what it refuses went to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from ..errors import Canceled, Invalid, Unavailable
from ..options import DEFAULT, check_timeout
from ..protocol.marks import Topic
from ..protocol.wire import LARGE_BYTES, check_sendable, encode_batch
from ..roster.directory import Roster, clock
from ..runtime.locks import TIMEOUT_MAX, Lock
from ..runtime.os_errors import map_os_errors
from ..runtime.reports import emit_reports
from ..runtime.threads import sleep
from .attempts import Attempts, Unsent
from .backlog import Backlog
from .blockers import BUSY, JOINING, NO_ROOM, send_timeout_error
from .exit_bus import ExitLock
from .join_wait import MAX_TIMEOUTS
from .linger import PendingConnections
from .links import NEVER, Full, Links
from .missed_events import MissedEvents
from .sockets import WOULD_BLOCK
from .streams import Streams

__all__ = ["Publisher"]


_CLOSE_SECONDS = 0.2
# How long a send that has no time waits for one of another thread, which takes microseconds.
_TURN_SECONDS = 0.005
# How long a send waits at most for large frames to be written; on an event loop a tenth of that.
_ROOM_SECONDS = 0.5
# How long the first send of a topic waits for it to be out of this process; on an event loop a tenth of that.
_WRITE_SECONDS = 0.25
# Threads meet within such a time: a crowd. How long one of them gives way, and how often in a row.
_CROWD_SECONDS = 0.005
_YIELD_SECONDS = 0.002
_MAX_YIELDS = 10

SendResult = TypeVar("SendResult")


class Publisher(Generic[SendResult]):
    """The sending half of a bus. Any thread may call it."""

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
        drive: Callable[[Attempts], SendResult],
        try_seconds: float,
        await_written: Callable[[float], None],
    ) -> None:
        """Prepare to send over `links`.

        Args:
            check_policy: called once per topic with its system; raises if the policy denies it.
            count_timeout: called when a send gave up.
            capacity_bytes: that wait for each subscriber at most.
            new_origin: returns a fresh origin by which events are numbered, and shows whose it is.
            drive: drives the attempts of a send that could not be done in one go.
            try_seconds: how long one of them may wait; 0 if their driver waits between them.
            await_written: waits, so many seconds at most, until what was sent is out of this process.
        """
        self._links = links
        self._check_policy = check_policy
        self._count_timeout = count_timeout
        self._max = max_event_bytes
        self.small_bytes = min(LARGE_BYTES, max_event_bytes)  # larger frames are announced, and counted
        self._backlog = Backlog(links, capacity_bytes, self.emit)
        self._send_timeout = check_timeout(send_timeout, "send_timeout")
        self.lock = Lock()
        self.senders = 0  # how many threads send or wait to; a hint, since they count without a lock
        self._met = 0.0
        self._streams = Streams(new_origin)
        self.current = self._streams.current  # the very same dict: `send` saves a look-up
        self.token = roster.token
        self.settled_token = NEVER
        self._missed = MissedEvents(links, self.emit, self.notify_returned)
        self.block: Callable[[bytes], object] | None = None
        self.drop: Callable[[bytes], object] | None = None
        self._closed = ""
        self._drive = drive
        self._try_seconds = try_seconds
        self._await_written = await_written
        self._flush_each = False
        self._first_frame = False  # whether the latest frame was the first of its topic, or since a settling
        links.wait_at_most(try_seconds)

    def drive(self, unsent: Unsent, timeout: float | None) -> SendResult:
        """Send the long way, with retries until `timeout`; return what the driver returns."""
        return self._drive(self._attempts(unsent, timeout))

    def give_way(self) -> None:
        """Let a thread that sends at full speed go on for a while, if threads keep meeting here.

        Else they would hand the lock, and Python's own, on to each other for every event, which takes longer
        than to send it: eight threads together sent 0.4 of what one does, and so 0.9 (measured).
        """
        self._check_not_in_use()
        now = time.monotonic()
        before, self._met = self._met, now
        if now - before < _CROWD_SECONDS and self._try_seconds:
            for _ in range(_MAX_YIELDS):
                sleep(_YIELD_SECONDS)
                if not self.senders:
                    return

    def _check_not_in_use(self) -> None:
        if self.in_use_here:
            raise Unavailable("a signal handler cannot send while its thread does: have a thread send")

    def _check_usable(self) -> None:
        self._check_not_in_use()
        if self._closed:  # in a forked child, the sockets must not even be looked at
            raise Canceled(self._closed)

    def _check_topic(self, system: str, kind: str) -> None:
        """Check a topic, unless that was done, while the lock is free."""
        if type(system) is not str or type(kind) is not str or (system, kind) not in self._streams:
            check_sendable(system, kind)
            self._check_policy(system)

    def send_many(
        self, system: str, kind: str, items: Iterable[tuple[str, Any]], timeout: float | None
    ) -> tuple[int, SendResult | None]:
        """Send several events of one topic as one frame, see `Bus.send_many`.

        Returns how many, and what `send` returns.
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
        """Send one frame now, under the lock; raise `zmq.Again` or `Full` if that cannot be."""
        if self._backlog.check_due and self._backlog.make_room(
            _ROOM_SECONDS if self._try_seconds else _ROOM_SECONDS / 10
        ):
            self.settled_token = NEVER
        if self.token[0] != self.settled_token:
            self._settle()
        system, kind, path, body, events = unsent
        topic = self.current.get((system, kind)) or self._bring_up_to_date(system, kind)
        frame = topic.template % (path, topic.seq + 1, body)
        if len(frame) > self._max:
            raise self._too_large(frame)
        self._missed.send_marks()
        if (size := len(frame)) > self.small_bytes:
            self._backlog.announce(topic, system, kind, size)
        self.emit(frame)
        topic.seq += events
        if size > self.small_bytes:
            self._backlog.add(topic, size)
            self._links.pad(size)

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
        if self.drop is not None:
            self.drop(frame)

    def process_commands(self) -> None:
        """Let libzmq free what waited for peers that are gone. Any thread may call this, now and then."""
        self.lock.run(lambda: None if self._closed else self._links.process_commands())

    def notify_returned(self) -> None:
        """Tell joiners that were given up and have come back what they missed. Any thread may call this.

        Called once a second while there are some; a `send` that settles does it too.
        """
        self.lock.run(self._notify_returned)

    def _notify_returned(self) -> None:
        if not self._closed:
            self._missed.notify_returned()
            self.block, self.drop = self._links.block, self._links.drop

    def stream(self, system: str, kind: str) -> tuple[str, str, str]:
        """Return the (origin, system, kind) by which events are numbered."""
        return self._streams.id(system, kind)

    def sent(self) -> dict[tuple[str, str, str], int]:
        """Return the number of the latest event of each stream."""
        with self.lock:
            return self._streams.sent()

    def _attempts(self, unsent: Unsent, timeout: float | None) -> Attempts:
        """Try until the frame is sent or `timeout` is over."""
        seconds = self._send_timeout if timeout is DEFAULT else check_timeout(timeout)
        begun = time.monotonic()
        deadline = begun + seconds
        self._check_usable()
        self._check_topic(unsent.system, unsent.kind)
        while True:
            self._check_usable()
            obstacle = self._attempt(unsent, max(0.0, deadline - time.monotonic()))
            if not obstacle:
                if self._first_frame or self._flush_each:
                    self._first_frame = False
                    if self._flush_each:
                        self.settled_token = NEVER  # so that the next comes by here, too
                    self._await_written(_WRITE_SECONDS if self._try_seconds else _WRITE_SECONDS / 10)
                return
            if timeout is DEFAULT:
                # While joiners answer, or cannot for want of a CPU, no time is over: slow is not stopped. But
                # for want of a CPU alone it does not wait forever.
                cpu_short = min(self._links.cpu_short_at, begun + MAX_TIMEOUTS * seconds)
                deadline = max(deadline, self._links.answered_at + seconds, cpu_short + seconds)
            if time.monotonic() >= deadline:
                self._count_timeout()
                raise send_timeout_error(
                    obstacle, seconds, self._links.snapshot(), unsent.system, unsent.kind
                )
            yield self._links.sockets()

    def _attempt(self, unsent: Unsent, left: float) -> str:
        """Try to send, for `left` seconds at most; return what is in the way, or nothing."""
        seconds = max(_TURN_SECONDS, min(left, TIMEOUT_MAX)) if self._try_seconds else 0
        try:
            return "" if self.lock.run(partial(self._transmit_within, unsent, left), seconds) else BUSY
        except WOULD_BLOCK:
            return NO_ROOM
        except Full:
            return JOINING
        finally:
            emit_reports()

    def _transmit_within(self, unsent: Unsent, left: float) -> None:
        self.senders += 1
        try:
            with map_os_errors("send"):
                if not self._try_seconds:
                    self._links.process_commands()
                if left >= self._try_seconds:
                    self._transmit(unsent)
                else:
                    self._transmit_soon(unsent, left)
        finally:
            self.senders -= 1

    def _transmit_soon(self, unsent: Unsent, left: float) -> None:
        """Transmit while less than one try's time is left."""
        self._links.wait_at_most(left)
        try:
            self._transmit(unsent)
        finally:
            self._links.wait_at_most(self._try_seconds)

    def _settle(self) -> None:
        if self._closed:
            raise Canceled(self._closed)
        self.token = self._links.follow()
        known = self._links.settle(self._try_seconds)
        if self._closed:  # meanwhile, by a signal handler
            raise Canceled(self._closed)
        self.settled_token = known
        self._missed.update()
        self.current.clear()
        self.block, self.drop = self._links.block, self._links.drop

    def _bring_up_to_date(self, system: str, kind: str) -> Topic:
        """Return a topic that is new, or was not used since the latest settling, with a new template."""
        topic = self._streams.get(system, kind) or self._add_topic(system, kind)
        self._missed.note_topic(self.stream(system, kind), topic)
        self._streams.renew(system, kind, topic, self._links.settled)
        self._first_frame = True
        return topic

    def _add_topic(self, system: str, kind: str) -> Topic:
        self._streams.make_room()
        # First the time, then the token again: whoever had joined by then gets this topic from number 1.
        born = clock()
        if self.token[0] != self.settled_token:
            self._settle()
        return self._streams.add(system, kind, born)

    def _too_large(self, frame: bytes) -> Invalid:
        return Invalid(
            f"the event has {len(frame):,} bytes, more than max_event_bytes={self._max:,}: send less, or"
            " raise the limit in every process of this bus",
            bytes=len(frame),
            limit=self._max,
        )

    @property
    def in_use_here(self) -> bool:
        """Whether this thread is amid a send: then this is a signal handler."""
        return self.lock.held()

    def refuse(self, reason: str) -> None:
        """Refuse further sends with `Canceled(reason)`. Any thread and any signal handler may call this."""
        self._closed, self.settled_token = reason, NEVER

    def close(self, deadline: float) -> PendingConnections | None:
        """Close the sockets, see `Links.close`; or return `None` if a send does not end soon: try again."""
        closed: list[PendingConnections] = []
        self.lock.run(lambda: closed.append(self._close(deadline)), _CLOSE_SECONDS)
        return closed[0] if closed else None

    def _close(self, deadline: float) -> PendingConnections:
        self.token = memoryview(bytes(8)).cast("Q")  # the roster's is about to be unmapped
        self.settled_token = NEVER
        self._missed.close()
        self.block = self.drop = None
        return self._links.close(deadline)

    def flush_each(self, await_written: Callable[[float], None], send_timeout: float) -> None:
        """Have `written` wait after each send, from before the first; see `late`."""
        self._await_written, self._flush_each = await_written, True
        self._send_timeout, self.lock = min(self._send_timeout, send_timeout), ExitLock()

    def pause(self) -> Callable[[], None]:
        """Have other threads wait with their sends until what this returns is called."""
        self.lock.acquire(timeout=_CLOSE_SECONDS)
        return self.lock.release_if_held

    def after_fork_in_child(self, reason: str) -> None:
        """In a forked child: refuse every use, and touch nothing of the parent's."""
        self.refuse(reason)
        self.lock = Lock()
