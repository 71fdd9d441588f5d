"""How long a publisher waits for a subscriber that is about to join and does not answer.

Slow is not stopped. A wait that is over ends only if the peer's process was seen not to run, or to run freely
and say nothing. While it, or this process, waits for a CPU, the wait begins again.

And a publisher spends its patience once. After a joiner has cost it the whole join timeout, the next ones
that are seen not to run cost it a moment each, however many there are.
"""

from __future__ import annotations

import os

from ..runtime.processes import Look, held_up, listener, look

__all__ = ["LONGEST", "Patience", "Wait", "Workload"]

LONGEST = 30
"""However busy the machine is, so many timeouts without an answer are the end."""

_MOMENT_SECONDS = 0.05
_FORGIVEN_SECONDS = 60.0
# A joiner that does not answer is looked at after the first time, and then ever more seldom.
_LOOK_SECONDS = (0.005, 0.05)
_FEWEST_LOOKS = 5
_BUSY_SHARE = 1 / 3


class Patience:
    """How long one publisher waits for joiners that do not answer."""

    def __init__(self, join_timeout: float, send_timeout: float) -> None:
        self._timeouts = {False: join_timeout, True: send_timeout}
        self._moments = {
            False: min(_MOMENT_SECONDS, join_timeout),
            True: min(join_timeout, send_timeout),
        }
        self._spent = -_FORGIVEN_SECONDS

    def left(self, now: float, *, blocking: bool) -> float:
        """Return how many seconds a joiner may take, one that asks to be waited for (`blocking`) longer."""
        return (self._moments if now < self._spent + _FORGIVEN_SECONDS else self._timeouts)[blocking]

    def spend(self, now: float) -> None:
        """Note that a joiner was given up after all the time it might take."""
        if now >= self._spent + _FORGIVEN_SECONDS:
            self._spent = now


class Workload:
    """Whether this process gets the CPU that it takes: what was seen of it so far.

    Attributes:
        looks: how often it was looked at.
        busy: how often it was seen to wait for a CPU.
    """

    def __init__(self) -> None:
        self.looks = self.busy = 0
        self._last: Look | None = None

    def note(self, overslept: bool) -> bool:
        """Look again; return whether it waits for a CPU, as it does too if it has `overslept`."""
        before, self._last = self._last, look(os.getpid())
        waits = overslept or bool(before and self._last and held_up(before, self._last))
        self.looks += 1
        self.busy += waits
        return waits


class Wait:
    """The wait for one subscriber's answer. Times are of `time.monotonic`.

    Attributes:
        due: when to look at the peer next.
        stopped: whether its process was seen stopped when it was looked at last.
        held_up: whether the wait goes on only because the machine is busy.
    """

    def __init__(self, path: str, now: float) -> None:
        """Begin to wait for who listens at `path`."""
        self.stopped = False
        self.held_up = False
        self._path = path
        self._pid = 0
        self._first = now
        self._pause = _LOOK_SECONDS[0]
        self.due = now + self._pause
        self._peer: Look | None = None
        self._own = (0, 0)
        self._begin_anew(now)

    def over(self, now: float, patience: float, own: Workload) -> bool:
        """Return whether `patience` seconds have brought no answer, and there is no sense in waiting on.

        Call it when it is `due`.
        """
        self._pause = min(2 * self._pause, _LOOK_SECONDS[1], max(_LOOK_SECONDS[0], patience / 10))
        self.due = now + self._pause
        if now < self._since + patience / 2:
            return False
        if not self._looks:
            self._own = own.looks, own.busy
        before, stopped = self._peer, self.stopped
        self.look()
        self._looks += 1
        self._busy += bool(before and self._peer and held_up(before, self._peer))
        if stopped and not self.stopped:  # it goes on, so its time begins
            self._begin_anew(now)
        if now < self._since + patience:
            return False
        if self.stopped or patience == 0 or now >= self._first + LONGEST * patience:
            return True
        if self._looks < _FEWEST_LOOKS:
            return False
        looks, busy = own.looks - self._own[0], own.busy - self._own[1]
        if self._busy <= _BUSY_SHARE * self._looks and busy <= _BUSY_SHARE * looks:
            return True
        self.held_up = True
        self._begin_anew(now - patience / 2)
        return False

    def seconds(self, now: float) -> float:
        """Return how long the wait has taken so far, since it began or there was found to be sense in it."""
        return now - self._first

    def again(self, now: float) -> None:
        """Wait on from now, with no end: it was found out that there is sense in it."""
        self._first = now
        self._begin_anew(now)

    def _begin_anew(self, since: float) -> None:
        self._since = since
        self._peer = None
        self._looks = self._busy = 0

    def look(self) -> None:
        """Look at the peer's process now."""
        self._pid = self._pid or listener(self._path)
        self._peer = None if self._pid in (0, os.getpid()) else look(self._pid)
        self.stopped = self._peer is not None and self._peer.stopped
