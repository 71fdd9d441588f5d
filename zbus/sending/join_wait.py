"""How long a publisher waits for a subscriber that is about to join and does not answer.

Slow is not stopped. A wait that is over ends only if the peer's process was seen not to run, or to run freely
and say nothing. While it, or this process, waits for a CPU, the wait begins again.

And a publisher spends its join timeout once. After a joiner has cost it the whole join timeout, the next ones
that are seen not to run cost it a moment each, however many there are.
"""

from __future__ import annotations

import os

from ..runtime.process_state import ProcessState, listening_process, process_state, waits_for_cpu

__all__ = ["MAX_TIMEOUTS", "JoinTimeouts", "JoinWait", "Workload"]

MAX_TIMEOUTS = 30
"""However busy the machine is, so many timeouts without an answer are the end."""

_SHORT_SECONDS = 0.05
_SHORT_FOR_SECONDS = 60.0
# A joiner that does not answer is looked at after the first time, and then ever more seldom.
_CHECK_SECONDS = (0.005, 0.05)
_MIN_CHECKS = 5
_BUSY_SHARE = 1 / 3


class JoinTimeouts:
    """How long one publisher waits for joiners that do not answer."""

    def __init__(self, join_timeout: float, send_timeout: float) -> None:
        self._timeouts = {False: join_timeout, True: send_timeout}
        self._short = {
            False: min(_SHORT_SECONDS, join_timeout),
            True: min(join_timeout, send_timeout),
        }
        self._used_up_at = -_SHORT_FOR_SECONDS

    def seconds(self, now: float, *, blocking: bool) -> float:
        """Return how many seconds a joiner may take, one that asks to be waited for (`blocking`) longer."""
        return (self._short if now < self._used_up_at + _SHORT_FOR_SECONDS else self._timeouts)[blocking]

    def use_up(self, now: float) -> None:
        """Note that a joiner was given up after all the time it might take."""
        if now >= self._used_up_at + _SHORT_FOR_SECONDS:
            self._used_up_at = now


class Workload:
    """Whether this process gets the CPU that it takes: what was seen of it so far.

    Attributes:
        checks: how often it was looked at.
        busy: how often it was seen to wait for a CPU.
    """

    def __init__(self) -> None:
        self.checks = self.busy = 0
        self._last: ProcessState | None = None

    def check(self, overslept: bool) -> bool:
        """Check again; return whether it waits for a CPU, as it does too if it has `overslept`."""
        before, self._last = self._last, process_state(os.getpid())
        waits = overslept or bool(before and self._last and waits_for_cpu(before, self._last))
        self.checks += 1
        self.busy += waits
        return waits


class JoinWait:
    """The wait for one subscriber's answer. Times are of `time.monotonic`.

    Attributes:
        due: when to look at the peer next.
        stopped: whether its process was seen stopped when it was looked at last.
        cpu_short: whether the wait goes on only because the machine is busy.
    """

    def __init__(self, path: str, now: float) -> None:
        """Begin to wait for who listens at `path`."""
        self.stopped = False
        self.cpu_short = False
        self._path = path
        self._pid = 0
        self._first = now
        self._pause = _CHECK_SECONDS[0]
        self.due = now + self._pause
        self._peer: ProcessState | None = None
        self._own = (0, 0)
        self._reset(now)

    def is_over(self, now: float, timeout: float, own: Workload) -> bool:
        """Return whether `timeout` seconds have brought no answer, and there is no sense in waiting on.

        Call it when it is `due`.
        """
        self._pause = min(2 * self._pause, _CHECK_SECONDS[1], max(_CHECK_SECONDS[0], timeout / 10))
        self.due = now + self._pause
        if now < self._since + timeout / 2:
            return False
        if not self._checks:
            self._own = own.checks, own.busy
        before, stopped = self._peer, self.stopped
        self.check_peer()
        self._checks += 1
        self._busy += bool(before and self._peer and waits_for_cpu(before, self._peer))
        if stopped and not self.stopped:  # it goes on, so its time begins
            self._reset(now)
        if now < self._since + timeout:
            return False
        if self.stopped or timeout == 0 or now >= self._first + MAX_TIMEOUTS * timeout:
            return True
        if self._checks < _MIN_CHECKS:
            return False
        checks, busy = own.checks - self._own[0], own.busy - self._own[1]
        if self._busy <= _BUSY_SHARE * self._checks and busy <= _BUSY_SHARE * checks:
            return True
        self.cpu_short = True
        self._reset(now - timeout / 2)
        return False

    def elapsed(self, now: float) -> float:
        """Return how long the wait has taken so far, since it began or there was found to be sense in it."""
        return now - self._first

    def restart(self, now: float) -> None:
        """Wait on from now, with no end: it was found out that there is sense in it."""
        self._first = now
        self._reset(now)

    def _reset(self, since: float) -> None:
        self._since = since
        self._peer = None
        self._checks = self._busy = 0

    def check_peer(self) -> None:
        """Read the state of the peer's process now."""
        self._pid = self._pid or listening_process(self._path)
        self._peer = None if self._pid in (0, os.getpid()) else process_state(self._pid)
        self.stopped = self._peer is not None and self._peer.stopped
