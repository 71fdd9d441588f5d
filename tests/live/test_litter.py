"""What lies in the bus directory and is foreign, or dead: it hangs nobody and costs little; the dead goes."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import zbus
from tests.faults.directory import litter
from zbus.roster.liveness import answers, unlocked
from zbus.roster.reaping import Reaper
from zbus.roster.token import Token

from .process import receive
from .test_directory import in_a_mount

DEAD = "00000000deadbeef"


@pytest.fixture
def path(zbus_dir: str) -> Iterator[Path]:
    """Give the directory of the default bus; what foreign things a test leaves in it go with it."""
    directory = Path(zbus_dir, "v1", "default")
    with zbus.Bus(dir=zbus_dir):
        pass
    yield directory
    for name in os.listdir(directory):
        with suppress(IsADirectoryError):
            (directory / name).unlink()
            continue
        (directory / name).rmdir()


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> Iterator[list[object]]:
    """Give a list that grows with each call of a function."""
    calls: list[object] = []
    real: Callable[..., object] = getattr(owner, name)

    def call(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls


def use(zbus_dir: str) -> None:
    """Do everything that looks at the directory."""
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        blocking = bus.subscribe("a", overflow="block")
        bus.send("a", "b", "/1")
        assert [receive(one).path for one in (sub, blocking)] == ["/1", "/1"]
        living = [peer for peer in zbus.peers(dir=zbus_dir) if peer.alive]
        assert [peer.role for peer in living] == ["member", "subscriber", "subscriber"]


FOREIGN = (
    "README",
    "notes.member",
    "x.sock",
    "token.sock",
    "notes.sock",
    "token.member",
    "token.new",
    "token.1.drop",
    f"{DEAD}.sock.bak",
    f"{DEAD.upper()}.sock",
    f"{DEAD}.01.drop",
    f"{DEAD}.0.drop",
    f"{DEAD}.1.other",
    f"{DEAD}.1.drop\n",
    f"{'0' * 33}.member",
    "1234567.member",
)


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"mine"), dead_socket, os.mkdir, os.mkfifo])
def test_names_that_are_not_ours_are_left_alone(
    zbus_dir: str, path: Path, make: Callable[[Path], object]
) -> None:
    for name in FOREIGN:
        make(path / name)
        os.utime(path / name, (0, 0))
    use(zbus_dir)
    assert sorted(os.listdir(path)) == sorted(["token", *FOREIGN])


OURS = (f"{DEAD}.member", f"{DEAD}.sock", f"{DEAD}.new", f"{DEAD}.1.drop", f"{DEAD}.2.block")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_other_things_that_have_our_names_hang_nobody(
    zbus_dir: str, path: Path, make: Callable[[Path], object]
) -> None:
    for name in OURS:
        make(path / name)
        os.utime(path / name, (0, 0))
    start = time.monotonic()
    use(zbus_dir)
    assert time.monotonic() - start < 5
    assert sorted(os.listdir(path)) == sorted(["token", *OURS])


def test_no_link_is_followed_or_removed(zbus_dir: str, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    os.utime(target, (0, 0))
    for name in OURS:
        (path / name).symlink_to(target)
    use(zbus_dir)
    assert sorted(os.listdir(path)) == sorted(["token", *OURS])
    assert target.read_bytes() == b"mine"


def test_a_socket_that_is_only_linked_to_is_nobody(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path / "elsewhere"))
        listener.listen()
        (path / f"{DEAD}.sock").symlink_to(path / "elsewhere")
        assert answers(path / "elsewhere")
        assert not answers(path / f"{DEAD}.sock")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, dead_socket, lambda path: path.symlink_to("x")])
def test_a_token_that_is_no_file_is_refused(
    zbus_dir: str, path: Path, make: Callable[[Path], object]
) -> None:
    (path / "token").unlink()
    make(path / "token")
    with pytest.raises(zbus.Unavailable, match=r"token is not a regular file: remove it"):
        zbus.Bus(dir=zbus_dir)


def test_a_member_file_of_a_gibibyte_is_not_read(zbus_dir: str, path: Path) -> None:
    for name in (f"{DEAD}.member", f"{DEAD}.1.drop"):
        with open(path / name, "wb") as file:
            file.truncate(2**30)
            fcntl.flock(file, fcntl.LOCK_EX)
    tracemalloc.start()
    try:
        found = zbus.peers(dir=zbus_dir)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**20
    assert [(peer.role, peer.process) for peer in found] == [("member", "?"), ("subscriber", "?")]


def test_two_who_look_at_once_do_not_take_each_other_for_the_owner(path: Path) -> None:
    file = path / f"{DEAD}.member"
    file.write_bytes(bytes(128) + b"{}")
    with open(file, "rb") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert unlocked(file)
    with open(file, "rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert not unlocked(file)


def test_a_dead_subscriber_in_a_read_only_directory_holds_nobody(zbus_dir: str) -> None:
    assert "went on\n" in in_a_mount(
        """
import signal, socket, time
with zbus.Bus():
    pass
path = f"{root}/v1/default"
ids = [f"0000000{index}deadbeef" for index in range(4)]
def die(ident, epoch):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{path}/{ident}.sock")
        stale.listen()
    for overflow in ("drop", "block"):
        open(f"{path}/{ident}.{epoch}.{overflow}", "w").close()
die(ids[0], 1)
with zbus.Bus() as bus:  # these are removed, so that the rest is not there when it joins
    sub = bus.subscribe("a")
    bus.send("a", "b", "/1")
    for ident in ids[1:]:
        die(ident, 1)
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
    with open("/proc/self/mountinfo") as mounts:
        assert path in mounts.read()
    bus._node._roster.touch()  # through a descriptor from before
    start, cpu = time.monotonic(), time.process_time()
    bus.send("a", "b", "/2", timeout=10)
    assert time.monotonic() - start < 10, time.monotonic() - start
    signal.alarm(60)
    for number in range(100):
        bus.send("a", "b", "/3", timeout=5)
    assert time.process_time() - cpu < 1, time.process_time() - cpu
    assert [sub.channel().receive(timeout=30)[0].path for _ in range(102)] == ["/1", "/2", *["/3"] * 100]
    assert len(os.listdir(path)) == 3 * 3 + 4
    subprocess.run(["umount", path], check=True)
zbus.Bus().close()
print("went on")
"""
    )


def test_an_entry_that_is_a_directory_is_passed_over_until_it_is_none(zbus_dir: str, path: Path) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        for overflow in ("drop", "block"):
            (path / f"{DEAD}.7.{overflow}").mkdir()
        bus._node._roster.touch()
        before = (path / "token").read_bytes()
        start = time.monotonic()
        for number in range(10):
            bus.send("a", "b", "/1", number, timeout=10)
        assert time.monotonic() - start < 10
        assert [receive(sub).data for _ in range(10)] == list(range(10))
        assert (path / "token").read_bytes() == before  # nothing was removed, so nobody is told
        # One with that id that comes alive is met all the same.
        (path / f"{DEAD}.7.drop").rmdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path / f"{DEAD}.sock"))
            listener.listen()
            assert bus._node._roster.entries()[DEAD].epoch == 7


def test_dead_entries_by_the_thousand_take_few_listings_and_few_tokens(
    zbus_dir: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        litter(path, 2000, random.Random(8))
        bus._node._roster.touch()
        with (
            counted(monkeypatch, os, "listdir") as listings,
            counted(monkeypatch, Token, "write") as tokens,
        ):
            bus.send("a", "b", "/1", timeout=5)
            assert listings.count((path,)) <= 3  # others look at the threads of this process
            assert len(tokens) <= 1
        assert receive(sub).path == "/1"
        for _ in range(1000):
            if len(os.listdir(path)) == 4:  # the token, and the three of this bus
                break
            bus._node._roster.reap()
        assert len(os.listdir(path)) == 4


def test_cleaning_stops_after_its_time_and_goes_on(
    zbus_dir: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.roster.reaping._LEAST", 10)
    litter(path, 40, random.Random(8))
    reaper = Reaper(path, lambda _: False)
    left = len([*path.iterdir()])
    calls = 0
    while reaper.reap(0.0) or reaper.unfinished:
        assert left - 3 * 10 <= len([*path.iterdir()]) < left
        left = len([*path.iterdir()])
        calls += 1
    assert calls > 4
    assert [file.name for file in path.iterdir()] == ["token"]


def test_a_token_that_cannot_be_written_fails_a_join_that_leaves_nothing_and_no_close(
    zbus_dir: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that copies on write and is full, or over its quota."""

    def fail(self: Token) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        before = sorted(os.listdir(path))
        with monkeypatch.context() as patch:
            patch.setattr(Token, "write", fail)
            for overflow in ("drop", "block", "latest"):
                with pytest.raises(zbus.Unavailable, match="quota is used up") as caught:
                    bus.subscribe("a", overflow=overflow)
                assert caught.value.retryable
            with zbus.Bus(dir=zbus_dir) as other, pytest.raises(zbus.Unavailable, match="quota"):
                other.subscribe("a")
            assert sorted(os.listdir(path)) == before
        bus.send("a", "b", "/1", timeout=5)
        assert receive(sub).path == "/1"
        healed = bus.subscribe("a")
        bus.send("a", "b", "/2", timeout=5)
        assert [receive(one).path for one in (sub, healed)] == ["/2", "/2"]
        monkeypatch.setattr(Token, "write", fail)
    assert os.listdir(path) == ["token"]
