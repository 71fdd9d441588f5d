"""How long a publisher waits for a joining subscriber that does not answer.

Slow is not stopped. When the timeout is over, the states of the peer's threads decide:

    peer stopped, or runs freely and says nothing ─► give up
    peer, or this process, waits for a CPU        ─► wait for half of the timeout again, MAX_TIMEOUTS at most

And a publisher spends the whole join timeout only once. After one joiner has cost it that, each further one
costs it a moment, however many there are; after a minute the full timeout is back.
"""

from __future__ import annotations

import os

from ..runtime.process_state import ProcessState, listening_process, process_state, waits_for_cpu

__all__ = ["MAX_TIMEOUTS", "JoinTimeouts", "JoinWait", "Workload"]

MAX_TIMEOUTS = 30
"""After so many timeouts without an answer a wait ends, however busy the machine is."""

_SHORT_SECONDS = 0.05
_SHORT_FOR_SECONDS = 60.0
# When a joiner that does not answer is first checked, and the longest pause between two checks.
_CHECK_SECONDS = (0.005, 0.05)
_MIN_CHECKS = 5
_BUSY_SHARE = 1 / 3


class JoinTimeouts:
    """How long a publisher waits for joiners that do not answer: the timeouts, or the short ones."""

    def __init__(self, join_timeout: float, send_timeout: float) -> None:
        self._timeouts = {False: join_timeout, True: send_timeout}
        self._short = {
            False: min(_SHORT_SECONDS, join_timeout),
            True: min(join_timeout, send_timeout),
        }
        self._used_up_at = -_SHORT_FOR_SECONDS

    def seconds(self, now: float, *, blocking: bool) -> float:
        """Return how many seconds a joiner may take; a `block` subscriber (`blocking`) may take longer."""
        return (self._short if now < self._used_up_at + _SHORT_FOR_SECONDS else self._timeouts)[blocking]

    def use_up(self, now: float) -> None:
        """Note that a joiner was given up after all its time: the next ones get the short timeouts."""
        if now >= self._used_up_at + _SHORT_FOR_SECONDS:
            self._used_up_at = now


class Workload:
    """How often this process was seen to wait for a CPU.

    Attributes:
        checks: how often it was checked.
        busy: how often it was waiting for a CPU then.
    """

    def __init__(self) -> None:
        self.checks = self.busy = 0
        self._last: ProcessState | None = None

    def check(self, overslept: bool) -> bool:
        """Check this process; return whether it waits for a CPU, as it did if it has `overslept`."""
        before, self._last = self._last, process_state(os.getpid())
        waits = overslept or bool(before and self._last and waits_for_cpu(before, self._last))
        self.checks += 1
        self.busy += waits
        return waits


class JoinWait:
    """The wait for one joiner's answer. Times are those of `time.monotonic`.

    Attributes:
        due: when to check the peer next.
        stopped: whether its process was stopped at the last check.
        cpu_short: whether the wait goes on only because the machine is busy.
    """

    def __init__(self, path: str, now: float) -> None:
        """Begin to wait for the process that listens at `path`."""
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
        """Return whether `timeout` seconds are over and there is no point in waiting. Call it when `due`."""
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
        if stopped and not self.stopped:  # it runs again, so its time begins now
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
        """Return how long the wait has taken since it began or was restarted."""
        return now - self._first

    def restart(self, now: float) -> None:
        """Begin the wait again: the peer turned out to be alive."""
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
