"""A directory of buses has several paths: what a publisher leaves behind depends on none of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus.runtime.descriptors import socket_id, unix_sockets

from .process import Spawn
from .test_fork import in_child

ROOT = Path(__file__).parents[2]
NAMESPACE = ("unshare", "--mount", "--map-root-user")
COUNT = 3_000


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="zs-", dir="/tmp") as directory:
        yield Path(directory)


def read_slowly(sub: zbus.Subscription, got: list[Any]) -> threading.Thread:
    def read() -> None:
        for _, evt in zip(range(COUNT), sub, strict=False):
            got.append(evt.data[0])
            time.sleep(0.0002)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def paths(directory: str, scratch: Path) -> dict[str, tuple[list[str], str]]:
    """Return how a program is run that knows the directory by another path, and that path."""
    (scratch / "parent").symlink_to(Path(directory).parent)
    mounted = scratch / "mounted"
    mounted.mkdir()
    bind = ["sh", "-c", f'mount --bind {directory} {mounted} && exec "$0" "$@"']
    return {
        "symbolic link": ([], str(scratch / "parent" / Path(directory).name)),
        "relative": ([], os.path.relpath(directory, ROOT)),
        "bind mount": ([*NAMESPACE, *bind], str(mounted)),
    }


@pytest.mark.parametrize("how", ["symbolic link", "relative", "bind mount"])
def test_the_end_of_a_stream_reaches_a_slow_block_reader(
    bus: zbus.Bus, zbus_dir: str, scratch: Path, how: str
) -> None:
    within, path = paths(zbus_dir, scratch)[how]
    if within and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace of one's own is not allowed here")
    sub = bus.subscribe("jobs", overflow="block", capacity=10)
    got: list[Any] = []
    reader = read_slowly(sub, got)
    command = [sys.executable, "-m", "tests.live.ending", "sends_when_told", COUNT, 100]
    environment = {**os.environ, "ZBUS_DIR": path}
    subprocess.run([*within, *map(str, command)], cwd=ROOT, env=environment, timeout=60, check=True)
    reader.join(20)
    sub.close()
    reader.join()
    assert (got, sub.lost) == (list(range(COUNT)), 0)


def test_a_forked_child_keeps_no_connection_by_whatever_path(
    zbus_dir: str, scratch: Path, spawn: Spawn
) -> None:
    _, path = paths(zbus_dir, scratch)["symbolic link"]
    spawn("reader", "jobs", "drop").ready()

    def connected() -> int:
        return sum(any(map(socket_id, names)) for _, *names in unix_sockets())

    with zbus.Bus(dir=path) as other:
        other.send("jobs", "done", "/1")
        assert connected()
        in_child(lambda: None if not connected() else pytest.fail("it has kept some"))
        other.send("jobs", "done", "/2")
        other.flush(5)
