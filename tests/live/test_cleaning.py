"""Leaving and cleaning up: what is removed, in which order, and what stays."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import zbus
from zbus.roster.directory import Roster

from .process import Spawn, receive
from .quiet import quiet
from .raw import touch
from .watch import Watch


@pytest.fixture
def place(bus: zbus.Bus, zbus_dir: str) -> Path:
    """Give the directory of the bus."""
    return Path(zbus_dir, "v1", "default")


def names(place: Path, *ends: str) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.endswith(ends or ("",)))


def leave_behind(place: Path, *, entry: bool = True) -> str:
    """Leave what an ingress does that was killed; return its id."""
    ident = os.urandom(8).hex()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / f"{ident}.sock"))
        listening.listen()
    if entry:
        (place / f"{ident}.3.drop").write_text("{}")
    touch(place)
    return ident


def of(ident: str, seen: list[str]) -> list[str]:
    return [name.removeprefix(ident) for name in seen if name.startswith(ident)]


def test_whoever_leaves_removes_entry_socket_and_then_tells(bus: zbus.Bus, place: Path) -> None:
    sub = bus.subscribe("a", overflow="block")
    [ident] = [name.partition(".")[0] for name in names(place, ".block")]
    with Watch(place) as watch:
        sub.close()
        seen = [(what, name.removeprefix(ident)) for what, name in watch.seen()]
    assert seen == [("delete", ".1.block"), ("delete", ".sock"), ("write", "token")]


def test_whoever_cleans_up_removes_entries_before_the_socket(
    bus: zbus.Bus, place: Path, zbus_dir: str
) -> None:
    """Else the entry of the dead would be that of one whose socket is gone, to all who look meanwhile."""
    ident = leave_behind(place)
    (place / f"{ident}.4.drop").write_text("{}")
    with Watch(place) as watch:
        zbus.Bus(dir=zbus_dir).close()
        seen = watch.seen()
    removed = of(ident, [name for what, name in seen if what == "delete"])
    assert sorted(removed[:2]) == [".3.drop", ".4.drop"]
    assert removed[2:] == [".sock"]
    assert seen.index(("write", "token")) > seen.index(("delete", f"{ident}.sock"))


def test_a_publisher_that_meets_the_dead_removes_entries_before_the_socket(
    bus: zbus.Bus, place: Path
) -> None:
    bus.send("a", "b", "/1")
    ident = leave_behind(place)
    with Watch(place) as watch:
        bus.send("a", "b", "/2")
        seen = watch.seen()
    assert of(ident, [name for what, name in seen if what == "delete"]) == [".3.drop", ".sock"]
    assert seen.index(("write", "token")) > seen.index(("delete", f"{ident}.sock"))


def test_a_first_subscription_looks_for_leftovers_and_a_second_does_not(bus: zbus.Bus, place: Path) -> None:
    ident = leave_behind(place)
    _first = bus.subscribe("a")
    assert of(ident, names(place)) == []
    ident = leave_behind(place)
    _second = bus.subscribe("b")
    assert of(ident, names(place)) == [".3.drop", ".sock"]
    _third = bus.subscribe("c", overflow="block")
    assert of(ident, names(place)) == []


def test_opening_a_bus_looks_for_leftovers(bus: zbus.Bus, place: Path, zbus_dir: str) -> None:
    with_entry, without = leave_behind(place), leave_behind(place, entry=False)
    member, old, new = (os.urandom(8).hex() for _ in range(3))
    (place / f"{member}.member").write_bytes(bytes(128) + b"{}")
    for ident, age in ((old, 90_000), (new, 80_000)):
        (place / f"{ident}.new").touch()
        os.utime(place / f"{ident}.new", (time.time() - age,) * 2)
    held = os.urandom(8).hex()
    with open(place / f"{held}.member", "wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        zbus.Bus(dir=zbus_dir).close()
        for ident in (with_entry, without, member, old):
            assert of(ident, names(place)) == []
        assert of(new, names(place)) == [".new"]
        assert of(held, names(place)) == [".member"]
    for name in (f"{new}.new", f"{held}.member"):
        (place / name).unlink(missing_ok=True)


def test_whoever_has_a_full_backlog_is_alive(bus: zbus.Bus, place: Path, zbus_dir: str) -> None:
    ident = os.urandom(8).hex()
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(place / f"{ident}.sock"))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(place / f"{ident}.sock"))
        zbus.Bus(dir=zbus_dir).close()
        assert of(ident, names(place)) == [".sock"]
    (place / f"{ident}.sock").unlink()


def test_of_several_entries_the_highest_epoch_counts(bus: zbus.Bus, place: Path, zbus_dir: str) -> None:
    ident = os.urandom(8).hex()
    epochs = (9, 10, 2, 100, 11)
    for epoch in epochs:
        (place / f"{ident}.{epoch}.drop").touch()
    roster = Roster(zbus_dir, "default")
    try:
        assert roster.entries()[ident].epoch == 100
    finally:
        roster.close()
        for epoch in epochs:
            (place / f"{ident}.{epoch}.drop").unlink()


def test_a_new_token_is_random_and_no_hole(tmp_path: Path) -> None:
    """A mapped page that does not exist kills its reader when the disk is full."""
    tokens = set()
    for name in ("new", "empty", "short"):
        directory = tmp_path / "v1" / name
        directory.mkdir(parents=True, mode=0o700)
        if name != "new":
            (directory / "token").write_bytes(b"" if name == "empty" else b"\1\2\3")
        Roster(tmp_path, name).close()
        token = (directory / "token").read_bytes()
        assert len(token) == 8
        tokens.add(token)
        with open(directory / "token", "rb") as file:
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
    assert len(tokens) == 3
    assert bytes(8) not in tokens


def test_a_token_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    Roster(tmp_path, "default").close()
    path = tmp_path / "v1" / "default" / "token"
    before = path.read_bytes(), path.stat().st_ino
    Roster(tmp_path, "default").close()
    assert (path.read_bytes(), path.stat().st_ino) == before


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Let what would get a name that ends so fail to get it, as on a full disk."""
    rename = os.rename

    @contextlib.contextmanager
    def fail(end: str):  # type: ignore[no-untyped-def]
        def full(source: str | Path, target: str | Path) -> None:
            if str(target).endswith(end):
                raise OSError(errno.ENOSPC, "no space")
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            yield

    return fail


@pytest.mark.parametrize(("overflow", "end"), [("drop", ".drop"), ("block", ".block"), ("drop", ".sock")])
def test_a_first_join_that_fails_leaves_no_file_thread_or_socket(
    bus: zbus.Bus,
    place: Path,
    failing: Callable[[str], contextlib.AbstractContextManager[None]],
    overflow: str,
    end: str,
) -> None:
    bus.subscribe("other", overflow="block").close()  # what a first subscription starts for good is there
    while not quiet():
        pass  # the housekeeping thread has yet to begin
    before = names(place), threading.active_count()
    with failing(end), pytest.raises(zbus.Unavailable, match="the disk is full"):
        bus.subscribe("a", overflow=overflow)
    assert (names(place), threading.active_count()) == before
    sub = bus.subscribe("a", overflow=overflow)
    bus.send("a", "b", "/1")
    assert receive(sub).path == "/1"


def test_a_further_join_that_fails_leaves_what_was_there(
    bus: zbus.Bus,
    place: Path,
    failing: Callable[[str], contextlib.AbstractContextManager[None]],
) -> None:
    sub = bus.subscribe("a")
    before = names(place)
    with failing(".drop"), pytest.raises(zbus.Unavailable, match="the disk is full"):
        bus.subscribe("b")
    assert names(place) == before
    assert [peer.patterns for peer in zbus.peers() if peer.role == "subscriber"] == [[("a", "*")]]
    bus.send("a", "b", "/1")
    assert receive(sub).path == "/1"


def test_a_bus_that_cannot_be_opened_leaves_no_file_or_descriptor(
    bus: zbus.Bus,
    place: Path,
    zbus_dir: str,
    failing: Callable[[str], contextlib.AbstractContextManager[None]],
) -> None:
    before = names(place), len(os.listdir("/proc/self/fd"))
    with failing(".member"), pytest.raises(zbus.Unavailable, match="the disk is full"):
        zbus.Bus(dir=zbus_dir)
    assert (names(place), len(os.listdir("/proc/self/fd"))) == before


def test_the_member_file_of_a_killed_process_is_dead_though_its_child_lives(
    spawn: Spawn, bus: zbus.Bus, place: Path, zbus_dir: str
) -> None:
    parent = spawn("forking_subscriber", "stream", "drop").ready()
    child = parent.hear()["child"]
    try:
        assert len(names(place, ".member")) == 2
        parent.kill()
        assert [peer.pid for peer in zbus.peers() if peer.role == "member" and peer.alive] == [os.getpid()]
        zbus.Bus(dir=zbus_dir).close()
        assert len(names(place, ".member")) == 1
    finally:
        os.kill(child, 9)


@pytest.mark.parametrize("limit", [160, 512, 1024])
def test_own_connections_count_for_the_descriptors_that_a_join_leaves(zbus_dir: str, limit: int) -> None:
    """A publisher connects to all ingresses, its own too: at either end that takes a descriptor."""
    program = f"""
import os, resource, zbus
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
with zbus.Bus() as bus:
    kept = []
    try:
        while True:
            kept.append(bus.subscribe("a", overflow="block"))
    except zbus.Unavailable as error:
        assert "file descriptors are in use" in error.message, error.message
    assert len(kept) > {limit // 30}, len(kept)
    bus.send("a", "b", "/1", timeout=5)
    for sub in kept:
        assert sub.channel().receive(timeout=30)[1]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
