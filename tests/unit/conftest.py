"""Property tests give the same answer on every machine, and a thousand small tests stay quick."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

# Nothing that a busy machine breaks: no time limit for an example, nor for making ten of them.
settings.register_profile(
    "zbus",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("zbus")


def pytest_collection_finish() -> None:
    """Spare the garbage collector, which the leak check calls twice a test, what stands before the first."""
    gc.collect()
    gc.freeze()
