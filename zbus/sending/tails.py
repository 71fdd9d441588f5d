"""Tails: a publisher at rest tells its subscribers how far it got, so that no loss stays unknown.

What follows a lost event shows the loss. When nothing follows, *marks* do (see `protocol.marks`). A publisher
sends one for each topic that has had events since its last mark:

    send ─► look, after 0.2 s: `send` takes the long way once, which shows that the publisher is in use
              └► look, after 0.2 s: nothing was sent since ─► marks ─► no more looks until the next send

So `send` itself does nothing for it. A mark also goes before the first event after a settling, for the events
before it; when an origin ends; and when the publisher closes.

A link is *in doubt* if a frame may have been dropped for it: its queue in this process was full, or its peer
was given up while it joined. libzmq skips a link that was full until its peer has read half of the queue, and
tells nobody. So marks that were sent meanwhile are sent again when the peer has read everything, or is back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

import zmq

from ..errors import Timeout, Unavailable
from ..protocol.marks import MAX_MARKS, Marks, Topic, mark_frames
from ..runtime import housekeeping
from ..runtime.locks import Lock
from ..runtime.threads import sleep
from .flush import flushing, taken
from .links import NEVER, Links
from .sockets import WOULD_BLOCK
from .time_field import TimeField

__all__ = ["Tails"]

_REST_SECONDS = 0.2
_TICK_SECONDS = 1.0  # while somebody is in doubt, the pauses between looks grow to this
_CHECK_SECONDS = 0.9  # between two checks whether joiners that were given up are back
_PACE_SECONDS = 0.005
_AT_ONCE = 1000  # marks, for one look
# So often in a row a look may find no room for a mark. Then the links that have none are in doubt.
_TRIES = 10
# How long to wait for the lock at the end. How long a look waits for it, and then before it tries again; and
# at the end how long to wait for room.
_LOCK_SECONDS, _WAIT_SECONDS = 0.2, 0.05


class Resting(Protocol):
    """What this module needs of a publisher; see `Publisher`."""

    lock: Lock
    settled_token: int
    time: TimeField
    closed: str
    block: Callable[[bytes], object] | None
    drop: Callable[[bytes], object] | None


class Tails:
    """The tails of one publisher. Not thread-safe: used under the publisher's lock.

    Attributes:
        resting: whether nothing was sent since a look.
    """

    def __init__(self, publisher: Resting, links: Links, topics: Callable[[], Iterable[Topic]]) -> None:
        """Tell of `topics`."""
        self._publisher = publisher
        self._links = links
        self._topics = topics
        self._token = NEVER  # that the links were settled at, while it rests
        self.resting = True
        self._overdue = False
        self._marks = Marks()
        # The mark that is being sent, and its frames that are left.
        self._current: tuple[bytes, Topic] | None = None
        self._frames: deque[bytes] = deque()
        self._full: set[str] = set()  # links whose queue was full
        self._to_block = False  # while a `block` joiner is told what it missed
        self._pause = _REST_SECONDS
        self._check_at = 0.0
        self._tries = 0

    def wake(self) -> None:
        """Note that something is about to be sent."""
        self.resting = False
        self._look_in(_REST_SECONDS)
        publisher = self._publisher
        publisher.settled_token = self._token
        if publisher.closed:  # by a signal handler, meanwhile
            publisher.settled_token = NEVER

    def tick(self) -> None:
        """Look if that is due; called once a second, without the lock."""
        if self._overdue:
            self._look()

    def _look(self) -> None:
        """Look, in the housekeeping thread."""
        publisher = self._publisher
        if not publisher.lock.run(self._look_locked, _WAIT_SECONDS) and not publisher.closed:
            self._look_in(_WAIT_SECONDS)

    def _look_locked(self) -> None:
        publisher = self._publisher
        if publisher.closed:
            return
        if not self.resting:  # from now on the next send takes the long way
            self._token, publisher.settled_token = publisher.settled_token, NEVER
        self._send_due()
        publisher.block, publisher.drop = self._links.block, self._links.drop

    def _send_due(self) -> None:
        """Send what is owed, a part at a time; look again if there is more to do."""
        self._overdue = False
        idle, self.resting = self.resting, True
        self._check_doubt(time.monotonic())
        complete = self._owe_unmarked() if idle else True
        if not idle:
            self._pause = _REST_SECONDS
        if not (self._send(_AT_ONCE) and complete):
            self._look_in(_PACE_SECONDS)
        elif not idle:
            self._look_in(_REST_SECONDS)
        elif self._in_doubt:
            self._overdue = self._pause >= _TICK_SECONDS
            if not self._overdue:
                self._look_in(self._pause)
                self._pause *= 2
        else:
            self._marks.trust()

    def _look_in(self, seconds: float) -> None:
        with suppress(Unavailable):  # the interpreter is about to end
            housekeeping.schedule(self._look, seconds)

    @property
    def _in_doubt(self) -> bool:
        return bool(self._full) or self._links.left_out

    def update(self) -> None:
        """Owe the marks in doubt again if joiners that were given up have answered."""
        returned, self._links.returned = self._links.returned, set()
        if returned:
            self._to_block = self._to_block or "block" in returned
            self._owe_again()
            self._look_in(_PACE_SECONDS)

    def _check_doubt(self, now: float) -> None:
        """Look for those that are back: have answered after all, or have room again."""
        if self._links.left_out and now >= self._check_at:
            self._check_at = now + _CHECK_SECONDS
            self._links.check_returned()
            self.update()
        if self._full:
            empty = taken(self._links.threads(), self._full) | (self._full - self._links.lossy())
            if empty:
                self._links.process_commands()  # only now does libzmq use those links again
                self._full -= empty
                self._owe_again()

    def _owe_again(self) -> None:
        if self._current is not None:
            self._marks.doubt(*self._current)
        self._frames.clear()
        self._marks.owe_again()

    def _send(self, limit: int) -> bool:
        """Send marks that are owed, so many at most; return whether none is left."""
        for _ in range(limit):
            if not self._frames:
                if not self._marks:
                    break
                self._current = self._marks.take()
                self._frames.extend(mark_frames(*self._current, self._publisher.time.read()))
                if self._to_block and (block := self._links.block) is not None:
                    with suppress(*WOULD_BLOCK):
                        block(self._frames[0], zmq.NOBLOCK)
            if not self._send_frames():
                return False
        self._to_block = self._to_block and bool(self._marks)
        return not self._marks

    def _send_frames(self) -> bool:
        """Send the frames of the current mark, as far as everybody has room; return whether all are sent."""
        while self._frames:
            if not self._send_strictly(self._frames[0]):
                self._tries += 1
                if self._tries < _TRIES:
                    return False
                self.force(self._frames[0])
            self._tries = 0
            self._frames.popleft()
        if self._in_doubt and self._current is not None:
            self._marks.doubt(*self._current)
        self._current = None
        return True

    def _send_strictly(self, frame: bytes) -> bool:
        """Send a frame to all `drop` links that libzmq uses, or to none; return whether it was sent."""
        if (drop := self._links.drop) is None:
            return True
        for _ in range(2):
            try:
                drop(frame)
            except WOULD_BLOCK:
                self._links.process_commands()  # there may be news of room
            else:
                return True
        return False

    def force(self, frame: bytes) -> None:
        """Send a frame that a `drop` link had no room for: if it still has none, to the others."""
        if not self._send_strictly(frame):
            self._full |= self._links.lossy()
            self._links.drop_anyway(frame)

    def tell(self, topic: Topic, *, twin_only: bool = False) -> None:
        """Send the mark for what was sent with the present template of a topic, if that is owed.

        A twin alone takes no place in the queue of a channel.
        """
        if not topic.unmarked:
            return
        topic.marked = topic.seq
        for frame in mark_frames(topic.template, topic, self._publisher.time.read())[twin_only:]:
            self.force(frame)
        if self._in_doubt:
            self._marks.doubt(topic.template, topic)

    def retire(self, topics: Iterable[Topic]) -> None:
        """Owe the marks of an origin that has ended, if one has; send one mark that is owed.

        This is called for each new topic, so none of them is left when the next origin ends.
        """
        self._marks.owe_unmarked(topics)
        self._send(1)

    def remark(self) -> None:
        """Note that marks were lost that had been sent: those of all topics are owed again."""
        for topic in self._topics():
            topic.marked = -1

    def finish(self, deadline: float) -> None:
        """Send the last marks; while somebody has no room for them, wait for that until `deadline`.

        It takes the lock for each try.
        """
        lock = self._publisher.lock
        self._check_at = 0.0
        done = [False]
        while lock.run(lambda: done.append(self._finish()), _LOCK_SECONDS) and not done[-1]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            with suppress(Timeout):
                for pause in flushing(self._links.threads(), self._links.lossy, min(left, _WAIT_SECONDS)):
                    sleep(pause)

    def _finish(self) -> bool:
        """Send all marks that are owed, as far as there is room; return whether it is done."""
        self.resting = True
        self._check_doubt(time.monotonic())
        done = False
        while not done:
            done = self._owe_unmarked()
            if not self._send(MAX_MARKS):
                return False
        return not self._full

    def _owe_unmarked(self) -> bool:
        """Owe the marks of all topics, once none is owed from before; return whether that was so.

        To go through 60,000 topics takes 5 ms, and to send their marks by a small queue a thousand looks.
        """
        if self._marks:
            return False
        self._marks.owe_unmarked(self._topics())
        return True

    def close(self) -> None:
        """Look no more."""
        housekeeping.unregister(self._look)
