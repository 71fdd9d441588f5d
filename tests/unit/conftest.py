"""Property tests give the same answer on every machine, and a thousand small tests stay quick."""

from __future__ import annotations

import gc

from hypothesis import settings

settings.register_profile("zbus", deadline=None, derandomize=True, database=None)
settings.load_profile("zbus")


def pytest_collection_finish() -> None:
    """Spare the garbage collector, which the leak check calls twice a test, what stands before the first."""
    gc.collect()
    gc.freeze()
