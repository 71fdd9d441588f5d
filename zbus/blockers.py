"""Who holds a publisher up: what a send says that found no room."""

from __future__ import annotations

from .errors import Timeout

__all__ = ["timed_out"]


def timed_out(obstacle: str, seconds: float, system: str, kind: str) -> Timeout:
    """Return what a send raises that met an `obstacle` for so many seconds."""
    return Timeout(
        f"{obstacle} within {seconds:g} s, so the event went to nobody: send it again, or see with 'zbus ls'"
        " who is on the bus",
        system=system,
        kind=kind,
    )
