"""What every test gets: a check that nothing is left behind. The private bus is of `zbus.testing`."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zbus.runtime.threads import running

_HERE = Path(__file__).parent
_CHEAP = ("unit", "conformance", "live")
_SECONDS = 20.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the cheap tests first, so that most mistakes show within seconds.

    Of several processes (`-n`) each begins with a share of the list: there the longest come first, dealt out
    like cards, so that none of them is what all wait for in the end.
    """
    items.sort(key=_cost)
    if hasattr(config, "workerinput"):
        count = config.workerinput["workercount"]
        items.reverse()
        items[:] = [item for first in range(count) for item in items[first::count]]


def _cost(item: pytest.Item) -> tuple[int, float]:
    """Return how long a test may take: by its directory, and by the time that it asks for."""
    directory = item.path.relative_to(_HERE).parts[0]
    timeout = item.get_closest_marker("timeout")
    rank = _CHEAP.index(directory) if directory in _CHEAP else len(_CHEAP)
    return rank, timeout.args[0] if timeout else 0.0


def _descriptors() -> set[str]:
    """Return what this process has open: sockets, pipes and files by kind and number."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the listing's own descriptor
            continue
    return found


def _threads() -> set[object]:
    """Return the threads of this process, also those of zbus that `threading` does not know of."""
    return {*threading.enumerate(), *running()}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor open.

    What closes in the background has time for that: a dropped bus does, and libzmq closes descriptors later.
    """
    threads, descriptors = _threads(), _descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + _SECONDS
    while not (_threads() <= threads and _descriptors() <= descriptors) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _threads() <= threads, "a thread was left running"
    assert _descriptors() <= descriptors, "a descriptor was left open"
