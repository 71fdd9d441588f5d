"""Fork and multiprocessing: a child has buses of its own, and never harms those of its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

import zbus
from zbus.runtime import threads
from zbus.runtime.descriptors import open_files
from zbus.runtime.locks import Lock

from .process import Spawn, receive

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
    assert time.monotonic() - start < 5
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


def test_every_lock_is_free_in_the_child_but_those_of_the_thread_that_forks(zbus_dir: str) -> None:
    ours, theirs, held, go = Lock(), Lock(), threads.Event(), threads.Event()

    def hold() -> None:
        with theirs, zbus._default._lock:
            held.set()
            go.wait()

    thread = threads.start("zbus-test", hold)
    assert held.wait(10)

    def work() -> None:
        assert ours.held()
        assert theirs.acquire(blocking=False)
        assert thread.join(0)
        assert threads.running() == []
        zbus.send("a", "b", "/1")
        zbus.close()

    with ours:
        in_child(work)
    assert not theirs.acquire(blocking=False)
    go.set()
    assert thread.join(10)
    assert theirs.acquire(blocking=False)


def test_a_bus_that_cannot_be_disowned_leaves_no_other_undone(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [zbus.Bus(dir=zbus_dir) for _ in range(4)]
    subs = [other.subscribe("a") for other in others]

    def fail(*_: object) -> None:
        raise OSError

    def work() -> None:
        for other in others:
            refused(partial(other.send, "a", "b", "/1"))
        for sub in subs[1:]:
            refused(partial(sub.channel().receive, timeout=5))
        inside = [path for _, path in open_files() if path.startswith(zbus_dir)]
        assert [path for path in inside if path.endswith((".member", ".new"))] == []

    with monkeypatch.context() as patch:
        patch.setattr(others[0]._node, "after_fork_in_child", fail)
        patch.setattr(others[1]._node.publisher, "after_fork_in_child", fail)
        patch.setattr(others[2]._node._member, "after_fork_in_child", fail)
        patch.setattr(subs[0].channel()._source, "after_fork_in_child", fail)
        in_child(lambda: [refused(partial(other.send, "a", "b", "/1")) for other in others[2:]])
        patch.undo()
        in_child(work)
    for other in others:
        other.close()


def test_a_member_file_that_another_thread_is_about_to_make_is_not_kept_by_the_child(
    zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock would make a parent that has died seem alive."""
    reached, go = threads.Event(), threads.Event()
    rename = Path.rename

    def wait(path: Path, target: Path) -> Path:
        reached.set()
        go.wait()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", wait)
    thread = threads.start("zbus-test", lambda: zbus.Bus(dir=zbus_dir).close())
    assert reached.wait(10)

    def work() -> None:
        inside = [path for _, path in open_files() if path.startswith(zbus_dir)]
        assert [path for path in inside if path.endswith((".member", ".new"))] == []

    in_child(work)
    go.set()
    assert thread.join(10)


def test_garbage_of_the_parent_harms_nothing_in_the_child(zbus_dir: str) -> None:
    program = """
import gc, os
gc.disable()
os.register_at_fork(after_in_child=gc.collect)
import zbus
kept = zbus.Bus().subscribe("a")
def drop():
    bus = zbus.Bus()
    for overflow in ("drop", "block", "latest"):
        sub = bus.subscribe("a", overflow=overflow)
        sub.itself = bus, sub
drop()
files = sorted(os.listdir(kept.channel()._bus._node.path))
pid = os.fork()
if not pid:
    os._exit(gc.collect() > 1000)
assert os.waitpid(pid, 0)[1] == 0
assert sorted(os.listdir(kept.channel()._bus._node.path)) == files
zbus.send("a", "b", "/1", 1)
assert kept.channel().receive(timeout=30)[0].data == 1
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in Path(zbus_dir, "v1", "default").iterdir()] == ["token"]


async def test_a_child_of_an_event_loop_leaves_the_loop_alone(zbus_dir: str) -> None:
    """The child shares what the loop waits with: to take a descriptor out there takes it out here."""
    async with zbus.aio.Bus(dir=zbus_dir) as bus:
        sub = await bus.subscribe("a")
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(sub.channel().receive(timeout=60))
        await asyncio.sleep(0)

        def work() -> None:
            sub.channel()._source.close()
            loop.call_soon(lambda: None)
            loop._run_once()  # type: ignore[attr-defined]

        in_child(work)
        await bus.send("a", "b", "/1", 1)
        evt, ok = await asyncio.wait_for(waiting, 10)
        assert ok
        assert evt is not None
        assert evt.data == 1
