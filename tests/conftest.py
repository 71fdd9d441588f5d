"""What every test gets: a check that nothing is left behind. The private bus is of `zbus.testing`."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

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
