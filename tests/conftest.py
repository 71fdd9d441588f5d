"""What every test gets: a private bus directory, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


def _descriptors() -> set[str]:
    """Return what this process has open: sockets, pipes and files by kind and number."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the listing's own descriptor
            continue
    return found


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor open."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    gc.collect()
    assert set(threading.enumerate()) <= threads, "a thread was left running"
    assert _descriptors() <= descriptors, "a descriptor was left open"


@pytest.fixture
def zbus_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the path of a private root directory, short enough for sockets; also set as $ZBUS_DIR.

    Fails if a closed bus left a file other than its token.
    """
    with tempfile.TemporaryDirectory(prefix="zb-") as directory:
        monkeypatch.setenv("ZBUS_DIR", directory)
        yield directory
        left = [path.name for path in Path(directory).glob("v1/*/*") if path.name != "token"]
        assert not left, f"left on the roster: {left}"
