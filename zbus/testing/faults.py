"""Faults on a bus, to test programs against them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..bus import Bus
from ..channel import Subscription
from ..errors import Error
from ..options import DEFAULT, Overflow, check_policy, check_timeout
from ..policy import SEND, SUBSCRIBE, Policy
from ..protocol.patterns import Matcher, check_text, plain
from ..protocol.wire import check_sendable, encode_batch, encode_data
from ..roster.directory import Roster
from ..runtime.locks import Lock
from ..runtime.reports import report
from ..runtime.threads import Condition, Event, Thread, start
from ..sending.links import NEVER
from ..sending.publisher import Publisher

__all__ = ["Faults", "FaultyBus", "OtherProcess"]

Topic = tuple[str, str, str]

_START_SECONDS = 30.0

_PROGRAM = """
import signal, sys, zbus
name, directory, system, kind, overflow, capacity, reads = sys.argv[1:]
with zbus.Bus(name, dir=directory) as bus:
    sub = bus.subscribe(system, kind or None, overflow=overflow, capacity=int(capacity) or None)
    print("ready", flush=True)
    for _ in sub if reads == "yes" else iter(signal.pause, 0):
        pass
"""


class FaultyBus(Bus):
    """A bus that consults `faults`, if it has any, before it sends or subscribes."""

    faults: Faults | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        """Open the bus; see `Bus`."""
        super().__init__(*args, **options)
        # By topic: the first number that was lost, if no event has followed it yet.
        self.lost: dict[Topic, int] = {}

    @property
    def publisher(self) -> Publisher[None]:
        """What it sends by."""
        return self._node.publisher

    @property
    def path(self) -> Path:
        """The directory of the bus."""
        return self._node.path

    @property
    def root(self) -> Path:
        """The root directory of all buses."""
        return self.path.parents[1]

    def lose(self, system: str, kind: str, send: Callable[[], int]) -> None:
        """Call `send`, but drop what it sends. It takes a number all the same."""
        system, kind = plain(system), plain(kind)
        publisher = self.publisher
        vars(publisher)["emit"] = lambda _: None
        publisher.settled_token = NEVER  # so that `send` takes the long way, which calls `emit`
        try:
            count = send()
        finally:
            del vars(publisher)["emit"]
        topic = publisher.streams.id(system, kind)
        self.lost.setdefault(topic, publisher.sent()[topic] - count + 1)

    def subscribe(self, system: str, *args: Any, **options: Any) -> Subscription:
        """Subscribe; see `Bus.subscribe`."""
        if self.faults is not None:
            self.faults._check_denied(SUBSCRIBE, system)
        return super().subscribe(system, *args, **options)

    def send(
        self, system: str, kind: str, path: str, data: Any = None, *, timeout: float | None = DEFAULT
    ) -> None:
        """Send; see `Bus.send`."""

        def check() -> None:
            check_text(path, "path")
            encode_data(data)

        def send() -> int:
            super(FaultyBus, self).send(system, kind, path, data, timeout=timeout)
            return 1

        self._with_faults(system, kind, check, send)

    def send_many(
        self,
        system: str,
        kind: str,
        items: Iterable[tuple[str, Any]],
        *,
        timeout: float | None = DEFAULT,
    ) -> int:
        """Send; see `Bus.send_many`."""
        try:
            rows = items if isinstance(items, list) else list(items)
        except TypeError:  # the bus raises the error that explains it
            return super().send_many(system, kind, items, timeout=timeout)
        self._with_faults(
            system,
            kind,
            lambda: encode_batch(rows),
            lambda: super(FaultyBus, self).send_many(system, kind, rows, timeout=timeout),
        )
        return len(rows)

    def _with_faults(
        self, system: str, kind: str, check: Callable[[], object], send: Callable[[], int]
    ) -> None:
        if self.faults is None:
            send()
        else:
            self.faults._send(system, kind, check, send)


class _Rule:
    """A fault for the next `count` events, or calls of `send_many`, to matching systems."""

    def __init__(self, system: str, count: float, seconds: float = 0.0) -> None:
        self.matcher = Matcher(system, "system pattern")
        self.count = count
        self.seconds = seconds

    def takes(self, system: str) -> bool:
        if self.count <= 0 or not self.matcher.matches(system):
            return False
        self.count -= 1
        return True


class Faults:
    """Causes faults on one bus object, `zbus_bus`, and starts other processes to stop and to kill.

    def test_a_gap_is_reported(zbus_bus, zbus_faults):
        zbus_faults.drop("orders")
        ...
    """

    def __init__(self, bus: FaultyBus) -> None:
        """Made by the fixture `zbus_faults`."""
        self._bus = bus
        self._gate = Lock()  # each fault applies to one send, also when several threads send
        self._drops: list[_Rule] = []
        self._delays: list[_Rule] = []
        self._denied: list[tuple[str, str, str]] = []
        self._policy = Policy([])
        self._late: deque[tuple[float, Callable[[], int]] | None] = deque()
        self._news = Condition()
        self._waiting = 0
        self._hurry = Event()
        self._thread: Thread | None = None
        self._processes: list[OtherProcess] = []

    def drop(self, system: str = "*", count: int = 1) -> None:
        """Lose the next `count` events that `zbus_bus` sends to matching systems.

        They take their numbers, so subscribers see a gap, as after a full queue: with the next event of the
        topic, or about 0.2 seconds later if none follows. A call of `send_many` counts as one event and is
        lost as a whole.

        Args:
            system: a pattern of systems.
            count: how many.
        """
        self._drops.append(_Rule(system, count))

    def delay(self, seconds: float, system: str = "*", count: float = float("inf")) -> None:
        """Delay the next `count` events that `zbus_bus` sends to matching systems by `seconds`.

        `send` returns at once. The order stays: an event that is sent after a delayed one arrives after it.

        Args:
            seconds: how late they arrive.
            system: a pattern of systems.
            count: how many; all by default.

        Raises:
            TypeError, Invalid: `seconds` is not a number from 0.
        """
        self._delays.append(_Rule(system, count, check_timeout(seconds, "seconds")))

    def deny(self, system: str = "*", action: str = "*") -> None:
        """Deny matching systems from now on, as a policy would: `zbus_bus` raises `Invalid`.

        Args:
            system: a pattern of systems.
            action: `"events.send"`, `"events.subscribe"`, or `"*"` for both.
        """
        self._denied.append(("deny", action, system))
        self._policy = Policy(self._denied)

    def clear(self) -> None:
        """End all faults except those of other processes."""
        self._drops.clear()
        self._delays.clear()
        self._denied.clear()
        self._policy = Policy([])

    def subscriber(
        self,
        system: str = "*",
        kind: str | None = None,
        *,
        overflow: Overflow = "drop",
        capacity: int | None = None,
        reads: bool = True,
    ) -> OtherProcess:
        """Start another process that subscribes on the same bus, and return it once it has subscribed.

        The process is killed at the end of the test.

        Args:
            system, kind, overflow, capacity: as for `Bus.subscribe`.
            reads: whether it receives events. If not, its queue fills up.
        """
        process = OtherProcess(self._bus, [system, kind or "", overflow, str(capacity or 0)], reads)
        self._processes.append(process)
        return process

    def kill(self, pid: int) -> None:
        """Kill a process with SIGKILL, for example one that `zbus.peers` shows."""
        os.kill(pid, signal.SIGKILL)

    def _check_denied(self, action: str, system: str) -> None:
        if self._denied:
            what = "subscribe to events from system" if action == SUBSCRIBE else "send events to system"
            check_policy(self._policy, action, what, system)

    def _send(self, system: str, kind: str, check: Callable[[], object], send: Callable[[], int]) -> None:
        with self._gate:
            system, kind = check_sendable(system, kind)
            check()
            self._check_denied(SEND, system)
            if any(rule.takes(system) for rule in self._drops):
                self._bus.lose(system, kind, send)
                return
            seconds = next((rule.seconds for rule in self._delays if rule.takes(system)), 0.0)
            self._bus.lost.pop(self._bus.publisher.streams.id(system, kind), None)
            if not seconds and not self._waiting:
                send()
                return
            self._waiting += 1
            self._put((time.monotonic() + seconds, send))
            if self._thread is None:
                self._thread = start("zbus-late", self._send_late)

    def _put(self, entry: tuple[float, Callable[[], int]] | None) -> None:
        with self._news:
            self._late.append(entry)
            self._news.notify_all()

    def _get(self) -> tuple[float, Callable[[], int]] | None:
        with self._news:
            self._news.wait_for(lambda: bool(self._late))
            return self._late.popleft()

    def _send_late(self) -> None:
        while (entry := self._get()) is not None:
            due, send = entry
            self._hurry.wait(max(0.0, due - time.monotonic()))
            try:
                send()
            except Error as error:  # there is no caller to raise it to
                report("an event that `delay` held back could not be sent", error=error)
            with self._gate:
                self._waiting -= 1

    def __enter__(self) -> Faults:
        self._bus.faults = self
        return self

    def __exit__(self, error_type: object, error: object, trace: TracebackType | None) -> None:
        self._bus.faults = None
        self._hurry.set()
        self._put(None)
        if self._thread is not None:
            self._thread.join()
        for process in self._processes:
            process.kill()
        # The next process to join would remove the files of killed ones. Remove them now.
        roster = Roster(self._bus.root, self._bus.name)
        roster.reap()
        roster.close()


class OtherProcess:
    """Another process on the bus, to stop and to kill.

    Attributes:
        pid: its process id.
    """

    def __init__(self, bus: FaultyBus, words: list[str], reads: bool) -> None:
        """Made by `Faults.subscriber`: start it, and wait until it has subscribed."""
        arguments = [bus.name, str(bus.root), *words, "yes" if reads else "no"]
        command = [sys.executable, "-c", _PROGRAM, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError(f"the other process ended with code {self._process.wait(_START_SECONDS)}")

    def stop(self) -> None:
        """Stop it with SIGSTOP, as a debugger would: it stays on the bus but receives nothing."""
        self._process.send_signal(signal.SIGSTOP)
        with suppress(ChildProcessError):  # it has ended, and somebody has waited for it
            # A thread that runs goes on for a moment. The kernel tells once the last one stands still.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it continue."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone. Killing twice is fine."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
