"""The bus directory in the hands of others: of cleaners, and of whoever removes some or all of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zbus

from .conftest import receive

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
            before = {name: os.stat(bus._node.path / name).st_ino for name in os.listdir(bus._node.path)}
            clean_temporary_files(zbus_dir, tmp_path)
            assert not Path(zbus_dir, "old").exists()
            after = {name: os.stat(bus._node.path / name).st_ino for name in os.listdir(bus._node.path)}
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
