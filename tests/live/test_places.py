"""The bus directory in the hands of others: of cleaners, and of whoever removes some or all of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zbus
from zbus.runtime import housekeeping

from .process import directory, receive

NO_TMPFILES = "systemd-tmpfiles is not installed here: apt-get install systemd"


@pytest.fixture
def path(zbus_dir: str) -> Path:
    return Path(zbus_dir, "v1", "default")


def clean_temporary_files(root: str, tmp_path: Path) -> None:
    """Have systemd-tmpfiles remove whatever is below a directory, however young."""
    (tmp_path / "zbus.conf").write_text(f"d {root} - - - 0\n")
    subprocess.run(["systemd-tmpfiles", "--clean", tmp_path / "zbus.conf"], check=True)


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason=NO_TMPFILES)
def test_systemd_tmpfiles_spares_a_bus_in_use(
    zbus_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(zbus_dir) / "old").touch()
    for root in (Path(zbus_dir), Path(zbus_dir, "deeper")):
        monkeypatch.setenv("ZBUS_DIR", str(root))
        with zbus.Bus() as bus:
            subs = [bus.subscribe("a"), bus.subscribe("a", overflow="block")]
            bus.send("a", "b", "/1")
            before = {name: os.stat(directory(bus) / name).st_ino for name in os.listdir(directory(bus))}
            clean_temporary_files(zbus_dir, tmp_path)
            assert not Path(zbus_dir, "old").exists()
            after = {name: os.stat(directory(bus) / name).st_ino for name in os.listdir(directory(bus))}
            assert after == before
            with zbus.Bus() as late:
                late.send("a", "b", "/2")
            assert [receive(sub).path for sub in subs * 2] == ["/1", "/1", "/2", "/2"]
        clean_temporary_files(zbus_dir, tmp_path)
        assert not Path(zbus_dir, "v1").exists()


def lockable(path: Path) -> bool:
    """Return whether a cleaner could lock the directory, and so would clean it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def test_the_lock_on_the_directory_goes_with_the_last_bus(zbus_dir: str, path: Path) -> None:
    first, second = zbus.Bus(), zbus.Bus()
    assert not lockable(path)
    first.close()
    assert not lockable(path)
    second.close()
    assert lockable(path)


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(zbus_dir: str, path: Path) -> None:
    program = """
import os, signal, zbus
bus = zbus.Bus()
ready, tell = os.pipe()
child = os.fork()
if not child:
    os.write(tell, b"x")
    signal.pause()
os.read(ready, 1)
bus.close()
print(child, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert parent.wait(10) == 0
            assert lockable(path)
        finally:
            os.kill(child, 9)


def test_nor_does_one_that_is_forked_while_another_thread_opens_a_bus(zbus_dir: str, path: Path) -> None:
    program = """
import os, signal, zbus
from zbus.roster import directory_handle
real, children = directory_handle.Token, []
def fork_first(*given):
    ready, tell = os.pipe()
    children.append(os.fork())
    if not children[-1]:
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    return real(*given)
directory_handle.Token = fork_first
zbus.Bus().close()
print(children[0], flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert parent.wait(10) == 0
            assert lockable(path)
        finally:
            os.kill(child, 9)


def test_a_cleaner_at_work_holds_up_nobody(zbus_dir: str, path: Path) -> None:
    with zbus.Bus():
        pass
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        start = time.monotonic()
        with zbus.Bus() as bus:
            sub = bus.subscribe("a")
            bus.send("a", "b", "/1")
            assert receive(sub).path == "/1"
        assert time.monotonic() - start < 5
    finally:
        os.close(fd)


# -- removed, and made anew by others

Damage = Callable[[Path], object]


def remade(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir(mode=0o700)


def moved_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def root_removed(path: Path) -> None:
    for version in [*path.parents[1].iterdir()]:
        shutil.rmtree(version)


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Old:
    """Members from before: one that only sends, one that only listens, in both ways; they know each other."""

    def __init__(self) -> None:
        self.sender, self.listener = zbus.Bus(), zbus.Bus()
        self.subs = [self.listener.subscribe("a", overflow=overflow) for overflow in ("drop", "block")]
        self.sent = 0
        self.send()

    def send(self) -> int:
        self.sent += 1
        self.sender.send("a", "b", "/1", self.sent, timeout=5)
        return self.sent

    def check(self) -> None:
        """Check that all that was sent has arrived, once and in order."""
        for sub in self.subs:
            assert [receive(sub).data for _ in range(self.sent)] == list(range(1, self.sent + 1))
            assert sub.lost == 0
            with pytest.raises(zbus.Timeout):
                sub.channel().receive(timeout=0)

    def close(self) -> None:
        self.sender.close()
        self.listener.close()


@pytest.fixture
def old(zbus_dir: str, path: Path) -> Iterator[Old]:
    members = Old()
    yield members
    members.close()
    shutil.rmtree(path.with_name("elsewhere"), ignore_errors=True)


def kinds(path: Path) -> list[str]:
    return sorted(name.rpartition(".")[2] for name in os.listdir(path))


def hears(sub: zbus.Subscription, send: Callable[[], object]) -> bool:
    send()
    try:
        return sub.channel().receive(timeout=0.05)[1]
    except zbus.Timeout:
        return False


def hears_of(sub: zbus.Subscription, number: int) -> bool:
    """Return whether a channel gets an event; one from before may still be under way."""
    while (found := receive(sub).data) < number:
        pass
    return bool(found == number)


OLD_FILES = ["block", "drop", "member", "member", "sock", "sock", "token"]
removals = pytest.mark.parametrize("damage", [remade, shutil.rmtree, moved_away, root_removed])


@removals
def test_old_members_and_a_newcomer_meet_in_the_new_directory(old: Old, path: Path, damage: Damage) -> None:
    damage(path)
    with zbus.Bus() as newcomer:
        sub = newcomer.subscribe("a")
        old.send()
        # Within a second, the old ones notice: the one that listens is heard of, the one that sends hears.
        until(lambda: hears(sub, old.send))
        first = zbus.Bus()
        until(lambda: kinds(path).count("sock") == 3 and kinds(path).count("member") == 4)
        first.send("a", "b", "/1", old.sent + 1, timeout=5)
        old.sent += 1
        old.check()
        first.close()
    until(lambda: kinds(path) == OLD_FILES)


@removals
def test_an_old_member_that_joins_is_heard_at_once_by_the_others(
    old: Old, path: Path, damage: Damage
) -> None:
    damage(path)
    for overflow in ("drop", "block"):
        sub = old.listener.subscribe("a", overflow=overflow)
        assert hears_of(sub, old.send())
        sub.close()
    late = old.sender.subscribe("a")
    assert hears_of(late, old.send())
    late.close()
    old.check()


def test_nobody_makes_a_directory_anew_that_nobody_uses(old: Old, path: Path) -> None:
    shutil.rmtree(path)
    looked = threading.Event()
    housekeeping.register(looked.set)
    try:
        for _ in range(2):
            assert looked.wait(20)
            looked.clear()
    finally:
        housekeeping.unregister(looked.set)
    assert not path.exists()
    old.send()
    old.check()


def test_a_newcomer_that_finds_no_token_and_the_old_members_meet_at_once(old: Old, path: Path) -> None:
    (path / "token").unlink()
    with zbus.Bus() as newcomer:
        sub = newcomer.subscribe("a")
        assert hears_of(sub, old.send())
        newcomer.send("a", "b", "/1", old.sent + 1)
        old.sent += 1
        old.check()


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"mine")


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("sock", remove),
        ("sock", replace),
        ("drop", remove),
        ("block", remove),
        ("member", remove),
        ("token", remove),
    ],
)
def test_a_file_of_a_member_that_is_removed_comes_back(
    old: Old, path: Path, kind: str, damage: Damage
) -> None:
    victims = [file for file in path.iterdir() if file.name.endswith(kind)]
    before = {file.name for file in path.iterdir()}
    for file in victims:
        damage(file)
    until(
        lambda: (
            {file.name for file in path.iterdir()} == before
            and all(not file.is_file() or file.read_bytes() != b"mine" for file in victims)
        )
    )
    old.send()
    with zbus.Bus() as newcomer:
        newcomer.send("a", "b", "/1", old.sent + 1, timeout=5)
        old.sent += 1
        old.check()
    assert all(peer.alive for peer in zbus.peers())


def test_what_is_lost_while_an_entry_is_missing_is_counted(old: Old, path: Path) -> None:
    [entry] = path.glob("*.drop")
    entry.unlink()
    with zbus.Bus() as newcomer:
        other = newcomer.subscribe("a")  # so publishers list, and let go
        old.send()
    until(lambda: [*path.glob("*.drop")] == [entry])
    last = old.send()
    sub, found = old.subs[0], []
    while not found or found[-1] < last:
        found.append(receive(sub).data)
    assert sub.lost + len(found) == last
    del other


def test_a_full_block_channel_comes_back_once_it_is_read(zbus_dir: str, path: Path) -> None:
    with zbus.Bus() as sender, zbus.Bus() as listener:
        sub = listener.subscribe("a", overflow="block", capacity=1)
        sent = 0
        with pytest.raises(zbus.Timeout):
            while True:
                sender.send("a", "b", "/1", sent, timeout=0.2)
                sent += 1
        remade(path)
        with zbus.Bus() as newcomer:
            until(lambda: kinds(path).count("member") == 3)
            assert kinds(path).count("block") == 0
            assert [receive(sub).data for _ in range(sent)] == list(range(sent))
            until(lambda: kinds(path).count("block") == 1)
            newcomer.send("a", "b", "/1", "new", timeout=5)
            assert receive(sub).data == "new"
        assert sub.lost == 0


def test_a_directory_that_cannot_be_used_any_more_leaves_the_links_alone(old: Old, path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"mine")
    with pytest.raises(zbus.Error):
        old.listener.subscribe("a")
    for _ in range(10):
        old.send()
    old.check()
    path.unlink()
    sub = old.listener.subscribe("a")
    assert hears(sub, old.send)
    until(lambda: kinds(path) == OLD_FILES)


def test_counters_survive(old: Old, path: Path) -> None:
    old.listener._node._member.add("lost", 7)
    remade(path)
    until(lambda: "member" in kinds(path))
    assert sum(peer.counters.get("lost", 0) for peer in zbus.peers()) == 7
