"""The threads of zbus: no signal meant for the program ends up in one, and each can be told by name."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import zbus
from zbus.runtime import locks, threads

from .process import directory, receive

SECONDS = 30


def run(program: str, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return done.returncode, done.stdout, done.stderr


WAITS = """
import os, signal, sys, zbus
when, overflow = sys.argv[1:]
def use():
    global sub
    sub = zbus.subscribe("a", overflow=overflow)
    zbus.send("a", "b", "/1")
    assert sub.channel().receive(timeout=10)[1]
if when == "after":
    use()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
if when == "before":
    use()
for number in (signal.SIGUSR1, signal.SIGTERM):
    os.kill(os.getpid(), number)  # to the process: whichever thread does not block it gets it
    assert signal.sigwait([signal.SIGTERM, signal.SIGUSR1]) == number
zbus.close()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGTERM, signal.SIGUSR1}
print("ended properly")
"""


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_program_that_waits_for_its_signals_gets_them(zbus_dir: str, when: str, overflow: str) -> None:
    """Whether it has blocked them before zbus starts its threads or after."""
    assert run(WAITS, when, overflow) == (0, "ended properly\n", "")


ASYNCIO = """
import asyncio, os, signal, zbus
async def main():
    async with zbus.aio.Bus() as bus:
        sub = await bus.subscribe("a")
        await bus.send("a", "b", "/1")
        assert (await sub.channel().receive(timeout=10))[1]
    bus = zbus.aio.Bus()
    await bus.subscribe("a")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.sigwait([signal.SIGTERM]) == signal.SIGTERM
    await bus.close()
asyncio.run(main())
"""


def test_and_so_does_one_on_an_event_loop(zbus_dir: str) -> None:
    assert run(ASYNCIO) == (0, "", "")


def blocked(thread: str) -> set[int]:
    """Return the signals that a thread of this process blocks, by its number."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_a_thread_blocks_every_signal_before_its_start_returns() -> None:
    ready, go = threads.Event(), threads.Event()
    mine = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for _ in range(100):
        before = set(os.listdir("/proc/self/task"))
        thread = threads.start("zbus-test", go.wait)
        [number] = set(os.listdir("/proc/self/task")) - before
        assert blocked(number) >= set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mine
        assert thread in threads.running()
        go.set()
        assert thread.join(10)
        assert thread not in threads.running()
        while number in os.listdir("/proc/self/task"):
            time.sleep(0)
        go = threads.Event()
    assert not ready.is_set()


def test_a_thread_is_shown_by_its_name_while_it_runs() -> None:
    go, shown = threads.Event(), threads.Event()
    numbers: list[int] = []

    def call() -> None:
        numbers.append(threading.get_native_id())
        shown.set()
        go.wait()

    thread = threads.start("zbus-test", call)
    assert shown.wait(10)
    assert "zbus-test" in {known.name for known in threading.enumerate()}
    assert Path(f"/proc/self/task/{numbers[0]}/comm").read_text() == "zbus-test\n"
    assert not thread.join(0.01)
    go.set()
    assert thread.join(10)
    assert "zbus-test" not in {known.name for known in threading.enumerate()}
    assert repr(thread) == "<Thread zbus-test>"


def test_several_may_join_a_thread_and_one_that_joins_itself_goes_on() -> None:
    joined: list[bool] = []
    go = threads.Event()

    def call() -> None:
        go.wait()
        joined.append(itself.join(5))

    itself = threads.start("zbus-test", call)
    others = [threads.start("zbus-join", lambda: joined.append(itself.join(10))) for _ in range(3)]
    go.set()
    for thread in (itself, *others):
        assert thread.join(10)
    assert joined == [True] * 4


def test_a_thread_that_fails_ends_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: said.append(told.exc_type))
    thread = threads.start("zbus-test", lambda: 1 / 0)
    assert thread.join(10)
    assert threads.running() == []
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:  # it is said after its last
        time.sleep(0.001)
    assert said == [ZeroDivisionError]


def test_a_condition_and_an_event_wake_those_who_wait() -> None:
    changed, values, event = threads.Condition(), [0], threads.Event()

    def count() -> None:
        for _ in range(100):
            with changed:
                values[0] += 1
                changed.notify_all()
        event.set()

    with changed:
        assert not changed.wait_for(lambda: False, 0.01)
        assert not event.wait(0)
    with changed, changed:  # held more than once
        thread = threads.start("zbus-test", count)
        assert changed.wait_for(lambda: values[0] == 100, 10)
    assert event.wait(10)
    assert event.is_set()
    assert thread.join(10)


def refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_without_threads_there_is_a_clear_error_and_nothing_is_left(
    bus: zbus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory(bus)
    before = {file.name for file in path.iterdir()}
    with zbus.Bus(dir=path.parents[1]) as other:
        ready = {file.name for file in path.iterdir()}
        for overflow in ("drop", "block", "latest"):
            with monkeypatch.context() as patch:
                patch.setattr(locks.native, "start_new_thread", refuse)
                with pytest.raises(
                    zbus.Unavailable, match=r"cannot start thread zbus-.*can't start new"
                ) as caught:
                    other.subscribe("a", overflow=overflow)
            assert caught.value.retryable
            assert {file.name for file in path.iterdir()} == ready
        sub = other.subscribe("a")
        with monkeypatch.context() as patch:
            patch.setattr(locks.native, "start_new_thread", refuse)
            with pytest.raises(zbus.Unavailable, match="can't start new"):
                bus.send("a", "b", "/0")  # libzmq would end the process for want of its own
        bus.send("a", "b", "/0")
        with monkeypatch.context() as patch:
            patch.setattr(locks.native, "start_new_thread", refuse)
            with pytest.raises(zbus.Unavailable):
                other.subscribe("a", overflow="latest")
            bus.send("a", "b", "/1")  # needs none
        assert [receive(sub).path for _ in range(2)] == ["/0", "/1"]
    assert {file.name for file in path.iterdir()} == before


async def test_without_threads_a_bus_of_asyncio_closes_all_the_same(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = zbus.aio.Bus(dir=zbus_dir)
    await bus.subscribe("a")
    with monkeypatch.context() as patch:
        patch.setattr(locks.native, "start_new_thread", refuse)
        with pytest.raises(zbus.Unavailable):
            await bus.subscribe("b")
        await bus.close()
    assert bus.closed
    assert {path.name for path in Path(zbus_dir, "v1", "default").iterdir()} == {"token"}


async def test_a_join_on_an_event_loop_needs_no_turn_in_its_executor(zbus_dir: str) -> None:
    """Its threads may all wait for what the subscription is to bring."""
    go = threading.Event()
    loop = asyncio.get_running_loop()
    waiting = [loop.run_in_executor(None, go.wait) for _ in range((os.cpu_count() or 1) + 40)]
    try:
        async with asyncio.timeout(SECONDS), zbus.aio.Bus(dir=zbus_dir) as bus:
            sub = await bus.subscribe("a")
            await bus.send("a", "b", "/1")
            assert (await sub.channel().receive(timeout=10))[1]
    finally:
        go.set()
        await asyncio.gather(*waiting)


async def test_what_a_thread_raises_or_returns_comes_back() -> None:
    assert await threads.run_in_thread("zbus-test", lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await threads.run_in_thread("zbus-test", lambda: 1 / 0)
    go = threads.Event()
    task = asyncio.ensure_future(threads.run_in_thread("zbus-test", go.wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while len(threads.running()) > 1:  # those before have answered, and end
        await asyncio.sleep(0.001)
    [thread] = threads.running()
    go.set()
    assert thread.join(10)


def test_nothing_is_imported_once_zbus_is(zbus_dir: str) -> None:
    """A child that is forked while another thread imports a module hangs as soon as it wants that one."""
    program = """
import sys, zbus, zbus.aio
imported = []
sys.addaudithook(lambda event, args: imported.append(args[0]) if event == "import" else None)
with zbus.Bus() as bus:
    for overflow in ("drop", "block", "latest"):
        with bus.subscribe("a", overflow=overflow) as sub:
            bus.send("a", "b", "/1")
            bus.send_many("a", "b", [("/2", None)])
            bus.flush()
            sub.channel().receive(timeout=30)
zbus.send("a", "b", "/1")
zbus.close()
print(imported)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["[]"], "")


class OverJustBefore:
    """A lock of which the first wait with a timeout ends in vain, and only once the new thread has ended."""

    allocate = staticmethod(locks.native.allocate_lock)

    def __init__(self) -> None:
        self.lock = self.allocate()
        self.release = self.lock.release
        self.tasks = os.listdir("/proc/self/task")
        self.waited = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout == -1 or self.waited:
            return bool(self.lock.acquire(blocking, timeout))
        self.waited = True
        while not {*os.listdir("/proc/self/task")} <= {*self.tasks}:
            time.sleep(0.001)
        return False


def test_a_thread_that_begins_late_and_has_ended_since_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(locks.native, "allocate_lock", OverJustBefore)
    thread = threads.start("zbus-test", called.append, 1)
    monkeypatch.undo()
    assert thread.join(SECONDS)
    assert called == [1]
