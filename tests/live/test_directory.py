"""The bus directory: refused with a reason when it is not safe or not usable, and repaired when it can be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zbus
from zbus import errors
from zbus.roster.directory import Roster
from zbus.roster.location import default_root

from .process import receive


def test_the_root_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZBUS_DIR", "/chosen")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_root() == Path("/chosen")
    monkeypatch.delenv("ZBUS_DIR")
    assert default_root() == Path("/run/user/1/zbus")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_root() == tmp_path / f"zbus-{os.geteuid()}"
    monkeypatch.setenv("TMPDIR", "")
    assert default_root() == Path(f"/tmp/zbus-{os.geteuid()}")
    monkeypatch.delenv("TMPDIR")
    assert default_root() == Path(f"/tmp/zbus-{os.geteuid()}")


def test_the_root_does_not_depend_on_the_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python's own choice depends on other variables, the working directory, and how full `/tmp` is."""
    for name in ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TMP", "TEMP"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert default_root() == Path(f"/tmp/zbus-{os.geteuid()}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert default_root() == tmp_path / "missing" / f"zbus-{os.geteuid()}"


def test_it_is_created_private(zbus_dir: str) -> None:
    root = Path(zbus_dir, "deep", "er")
    with zbus.Bus(dir=root):
        for path in (root, root / "v1", root / "v1" / "default"):
            assert path.stat().st_mode & 0o777 == 0o700


def test_a_path_that_is_too_long(zbus_dir: str) -> None:
    with pytest.raises(zbus.Invalid, match="shorten ZBUS_DIR") as caught:
        zbus.Bus(dir=Path(zbus_dir, "x" * 100))
    assert caught.value.kind == errors.INVALID
    # The longest that the kernel takes works, in full.
    length = 107 - len(f"{zbus_dir}//v1/default/0123456789abcdef.sock")
    with zbus.Bus(dir=Path(zbus_dir, "x" * length)) as bus:
        sub = bus.subscribe("a")
        bus.send("a", "b", "/1")
        assert sub.channel().receive(timeout=30)[1]
    with pytest.raises(zbus.Invalid, match="108 bytes of at most 107"):
        zbus.Bus(dir=Path(zbus_dir, "x" * (length + 1)))


def test_a_directory_writable_by_everybody(zbus_dir: str) -> None:
    os.chmod(zbus_dir, 0o777)
    with pytest.raises(zbus.PermissionDenied, match="chmod o-w") as caught:
        zbus.Bus(dir=zbus_dir)
    assert caught.value.kind == errors.PERMISSION_DENIED
    assert caught.value.retryable is False
    assert isinstance(caught.value, PermissionError)


def test_a_symbolic_link(zbus_dir: str) -> None:
    real = Path(zbus_dir, "real")
    real.mkdir(mode=0o700)
    link = Path(zbus_dir, "link")
    link.symlink_to(real)
    with pytest.raises(zbus.PermissionDenied, match="symbolic link"):
        zbus.Bus(dir=link)
    assert list(real.iterdir()) == []


def test_a_file_in_its_place(zbus_dir: str) -> None:
    path = Path(zbus_dir, "file")
    path.touch()
    with pytest.raises(zbus.PermissionDenied, match="not a directory"):
        zbus.Bus(dir=path)
    with pytest.raises(zbus.Error):
        zbus.Bus(dir=path / "below")


def test_a_directory_of_somebody_else(zbus_dir: str) -> None:
    theirs = Path(zbus_dir, "theirs")
    theirs.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)
    else:  # only root can give a directory away, but root's own are somebody else's here
        theirs = Path("/usr")
    with pytest.raises(zbus.PermissionDenied, match="belongs to user"):
        zbus.Bus(dir=theirs)


# A file system of its own, in a mount namespace that ends with the process.
IN_A_MOUNT = """
import os, subprocess, sys, zbus
root = os.environ["ZBUS_DIR"]
def mount(*options):
    subprocess.run(["mount", *options, root], check=True)
"""


def in_a_mount(program: str) -> str:
    """Run a program in a mount namespace of its own; return what it prints."""
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", IN_A_MOUNT + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_file_system_fails_a_join_with_a_reason_and_connected_peers_lose_nothing(
    zbus_dir: str,
) -> None:
    assert "survived\n" in in_a_mount(
        """
mount("-t", "tmpfs", "-o", "size=256k,mode=700", "none")
bus = zbus.Bus()
sub = bus.subscribe("a")
bus.send("a", "b", "/1")
filler = os.open(f"{root}/filler", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    os.close(filler)
def fails():
    for join in (lambda: zbus.Bus(), lambda: bus.subscribe("b", overflow="block")):
        try:
            join()
        except zbus.Unavailable as error:
            assert "the disk is full" in error.message, error.message
            assert error.retryable
        else:
            raise AssertionError("joined on a full disk")
fails()
bus.send("a", "b", "/2")
assert [sub.channel().receive(timeout=30)[0].path for _ in range(2)] == ["/1", "/2"]
assert sub.lost == 0
os.remove(f"{root}/filler")
with zbus.Bus() as healed:
    other = healed.subscribe("a")
    bus.send("a", "b", "/3")
    assert other.channel().receive(timeout=30)[0].path == "/3"
bus.close()
assert os.listdir(f"{root}/v1/default") == ["token"]
print("survived")
"""
    )


def test_a_read_only_file_system(zbus_dir: str) -> None:
    assert "refused\n" in in_a_mount(
        """
mount("-t", "tmpfs", "-o", "size=256k,mode=700", "none")
mount("-o", "remount,ro")
try:
    zbus.Bus()
except zbus.Unavailable as error:
    assert "read-only" in error.message, error.message
    assert not error.retryable
    print("refused")
"""
    )


def test_a_token_cut_short_by_a_crash_is_repaired(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir):
        pass
    token = Path(zbus_dir, "v1", "default", "token")
    token.write_bytes(b"abc")
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        bus.send("a", "b", "/1")
        assert sub.channel().receive(timeout=30)[1]
    assert len(token.read_bytes()) == 8


def test_garbage_in_the_directory_is_passed_over(zbus_dir: str) -> None:
    path = Path(zbus_dir, "v1", "default")
    with zbus.Bus(dir=zbus_dir) as bus:
        for name in (
            "README",
            "x.1.drop",
            "0123456789abcdef.x.drop",
            "0123456789abcdef.1.other",
            "fedc.member",
        ):
            (path / name).write_bytes(b"\xff\0garbage")
        sub = bus.subscribe("a")
        bus.send("a", "b", "/1")
        assert sub.channel().receive(timeout=30)[1]
        assert [peer.process for peer in zbus.peers() if peer.role == "member"]
    for left in path.iterdir():
        if left.name != "token":
            left.unlink()


def test_an_entry_whose_text_is_garbled_still_listens(zbus_dir: str) -> None:
    with zbus.Bus(dir=zbus_dir) as bus:
        sub = bus.subscribe("a")
        (entry,) = Path(zbus_dir, "v1", "default").glob("*.drop")
        entry.write_bytes(b"\xff{")
        with zbus.Bus(dir=zbus_dir) as sender:
            sender.send("a", "b", "/1")
        assert sub.channel().receive(timeout=30)[1]
        assert [peer.process for peer in zbus.peers() if peer.role == "subscriber"] == ["?"]


def test_what_binds_is_not_taken_for_dead(zbus_dir: str) -> None:
    """Between bind and listen a socket refuses connections, so it has another name until it listens."""
    with zbus.Bus(dir=zbus_dir):
        roster = Roster(zbus_dir, "default")
        binding = socket.socket(socket.AF_UNIX)
        scratch = roster.scratch_path("00000000deadbeef")
        binding.bind(str(scratch))
        roster.reap()
        assert scratch.exists()
        long_ago = time.time() - 2 * 86_400
        os.utime(scratch, (long_ago, long_ago))
        roster.reap()
        assert not scratch.exists()
        binding.close()
        roster.close()


def test_few_descriptors_give_an_error_before_libzmq_aborts(zbus_dir: str) -> None:
    program = """
import resource, zbus
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
bus = zbus.Bus()
kept = []
try:
    while True:
        kept.append(bus.subscribe("a", overflow="block"))
except zbus.Unavailable as error:
    assert "file descriptors are in use" in error.message, error.message
    assert error.retryable
kept.pop().close()
bus.send("a", "b", "/1", timeout=5)
for sub in kept:
    assert sub.channel().receive(timeout=30)[1]
print(len(kept))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_very_few_descriptors_do_to_send_but_not_to_listen(bus: zbus.Bus) -> None:
    program = """
import resource, zbus
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    zbus.subscribe("a")
except zbus.Unavailable as error:
    assert "64 file descriptors are too few to subscribe" in error.message, error.message
    assert not error.retryable
    zbus.send("a", "b", "/1", "refused")
"""
    sub = bus.subscribe("a")
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
    assert receive(sub).data == "refused"


def test_a_closing_channel_leaves_the_names_in_the_directory_alone(bus: zbus.Bus, zbus_dir: str) -> None:
    """A listing in pieces can miss a name that is renamed over (R8), and its ingress with it."""
    first = bus.subscribe("a")
    _second = bus.subscribe("b")
    [entry] = Path(zbus_dir, "v1", "default").glob("*.drop")
    before = entry.stat().st_ino
    first.close()
    assert [peer.patterns for peer in zbus.peers() if peer.role == "subscriber"] == [[("b", "*")]]
    [after] = Path(zbus_dir, "v1", "default").glob("*.drop")
    assert (after, after.stat().st_ino) == (entry, before)


def test_a_join_that_could_not_be_announced_does_not_break_the_next(
    bus: zbus.Bus, zbus_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zbus.Bus(dir=zbus_dir, join_timeout=30) as sender:
        kept = [bus.subscribe("a")]
        sender.send("a", "b", "/1", 0)
        assert receive(kept[0]).data == 0
        announce = Roster.announce

        def fail(*_: object) -> None:
            raise zbus.Unavailable("the disk is full", retryable=True)

        for number in range(1, 4):
            monkeypatch.setattr(Roster, "announce", fail)
            with pytest.raises(zbus.Unavailable, match="full"):
                bus.subscribe("a")
            monkeypatch.setattr(Roster, "announce", announce)
            start = time.monotonic()
            kept.append(bus.subscribe("a"))
            sender.send("a", "b", "/1", number)
            assert time.monotonic() - start < 5
            # Who joins while an event is on its way may get it too, so all have it first.
            assert [receive(sub).data for sub in kept] == [number] * (number + 1)
        for counters in (peer.counters for peer in zbus.peers() if peer.role == "member"):
            assert counters["join_timeouts"] == 0
