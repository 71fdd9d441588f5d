"""Fork and multiprocessing: a child has buses of its own, and never harms those of its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

import zbus

from .conftest import Spawn, receive

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def default_bus_closed(zbus_dir: str) -> Iterator[None]:
    yield
    zbus.close()


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child; fail if it raises, or takes longer than 10 s."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(10)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def refused(use: Callable[[], object]) -> None:
    start, cpu = time.monotonic(), time.process_time()
    with pytest.raises(zbus.Canceled, match="belongs to the parent process: open a new one after fork"):
        use()
    assert time.monotonic() - start < 1
    assert time.process_time() - cpu < 0.5


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_every_use_of_the_parents_bus_is_refused_at_once(bus: zbus.Bus, overflow: str) -> None:
    sub = bus.subscribe("a", overflow=overflow)
    events = iter(sub)
    bus.send("a", "b", "/1", 1)
    assert next(events).data == 1

    def work() -> None:
        refused(lambda: bus.send("a", "b", "/1", 2))
        refused(lambda: bus.send("a", "b", "/1", 2, timeout=1))
        refused(lambda: bus.send_many("a", "b", [("/1", 2)]))
        refused(lambda: bus.subscribe("a"))
        refused(lambda: sub.channel().receive())
        refused(lambda: sub.channel().receive(timeout=5))
        refused(lambda: zbus.select(sub.channel()))
        refused(lambda: list(sub))
        refused(lambda: next(events))
        assert bus.closed
        sub.close()
        bus.close()

    in_child(work)
    bus.send("a", "b", "/1", 3)
    assert next(events).data == 3
    assert sub.lost == 0


def test_a_child_forked_amid_a_receive_of_another_thread_is_refused_too(bus: zbus.Bus) -> None:
    sub = bus.subscribe("a")
    thread = Thread(target=list, args=(sub,))
    thread.start()
    lock = sub.channel()._source.lock
    while lock.acquire(blocking=False):  # until the thread has it
        lock.release()
    in_child(lambda: refused(lambda: sub.channel().receive(timeout=5)))
    sub.close()
    thread.join(10)


def test_the_default_bus_reopens_in_the_child(zbus_dir: str) -> None:
    sub = zbus.subscribe("a")
    zbus.send("a", "b", "/1", "parent")

    def work() -> None:
        own = zbus.subscribe("a")
        zbus.send("a", "b", "/1", "child")
        assert receive(own).data == "child"
        zbus.close()

    in_child(work)
    assert [receive(sub).data for _ in range(2)] == ["parent", "child"]


def test_a_child_that_opens_and_closes_buses_disturbs_nothing_of_its_parent(
    bus: zbus.Bus, zbus_dir: str
) -> None:
    sub = bus.subscribe("a", overflow="block")
    with zbus.Bus(dir=zbus_dir) as sender:
        for number in range(20):

            def work() -> None:
                with zbus.Bus(dir=zbus_dir) as own:
                    own.subscribe("b")
                    own.send("a", "b", "/child")

            sender.send("a", "b", "/1", number)
            in_child(work)
            assert {(evt.path, evt.data) for evt in (receive(sub), receive(sub))} == {
                ("/1", number),
                ("/child", None),
            }
    assert sub.lost == 0


def test_a_parent_that_is_killed_is_not_kept_alive_by_its_child(spawn: Spawn, bus: zbus.Bus) -> None:
    """Its socket would go on answering, and a `block` subscriber that answers holds publishers."""
    parent = spawn("forking_subscriber", "stream", "block").ready()
    child = parent.hear()["child"]
    try:
        bus.send("stream", "tick", "/1")
        parent.kill()
        start = time.monotonic()
        for _ in range(5_000):
            bus.send("stream", "tick", "/1", timeout=5)
        assert time.monotonic() - start < 5
        assert [peer.pid for peer in zbus.peers() if peer.role == "subscriber" and peer.alive] == []
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("what", "method"),
    [
        *(
            (what, method)
            for what in ("sends", "receives", "pool")
            for method in ("fork", "spawn", "forkserver")
        ),
        ("inherited", "fork"),
    ],
)
def test_multiprocessing(zbus_dir: str, what: str, method: str) -> None:
    """What the children send arrives though they end without closing, and nobody leaves anything behind."""
    command = [sys.executable, "-W", "error", "-m", "tests.live.programs", what, method]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]


@pytest.mark.parametrize("how", ["thread", "exit"])
def test_a_fork_without_exec_in_a_program_with_threads(zbus_dir: str, bus: zbus.Bus, how: str) -> None:
    """A daemon forks after its bus is open, and goes on in the child, by `sys.exit` or to the end."""
    sub = bus.subscribe("a")
    program = f"""
import os, sys, threading, zbus
zbus.subscribe("x")
zbus.send("a", "b", "/1", "parent")
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
else:
    if {how == "thread"}:
        thread = threading.Thread(target=zbus.send, args=("a", "b", "/1", "child"))
        thread.start()
        thread.join()
    else:
        zbus.send("a", "b", "/1", "child")
        sys.exit(0)
"""
    command = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        program,
    ]  # Python's, of fork with threads
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert [receive(sub).data for _ in range(2)] == ["parent", "child"]
    assert members(zbus_dir) == 1


def members(directory: str) -> int:
    """Return how many processes have left no member file behind, the test's own among them."""
    return len(list(Path(directory, "v1", "default").glob("*.member")))
