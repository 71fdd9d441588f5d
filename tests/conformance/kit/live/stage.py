"""Where a live check plays: a bus directory of its own, and the drivers that it starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..driver import LIMIT, Broken, Driver, Unsupported
from ..manifest import Manifest

__all__ = ["TOPIC", "Stage", "Wrong", "alive", "check", "complete", "exact", "unsupported", "until"]

BUS = "live"
TOPIC = {"system": "s", "kind": "k", "path": "/p"}
_LINGER = 60.0  # on a busy machine, a second is too short to hand over what was sent
_LONG = 1200.0
_PATIENCE = 60.0


class Wrong(Exception):
    """What a check found to be wrong."""


def check(promise: str, holds: bool, *facts: object) -> None:
    """Raise `Wrong` unless a promise holds."""
    if not holds:
        raise Wrong(f"{promise}: {', '.join(map(repr, facts))}"[:1500])


def until(what: str, condition: Any, limit: float = LIMIT) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + limit
    while not condition():
        check(f"within {limit:g} s: {what}", time.monotonic() < end)
        time.sleep(0.01)


class Stage:
    """Publishers of one language, subscribers of another, and their bus. They end with the context.

    Attributes:
        full: whether this is the long form.
        patience: how many seconds a receiver waits without progress before a check fails.
    """

    patience = _PATIENCE

    def __init__(self, publisher: Manifest, subscriber: Manifest, python: Manifest, root: Path, full: bool):
        self._publisher, self._subscriber, self._python = publisher, subscriber, python
        self.root = root
        self.full = full
        self._drivers: list[Driver] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self._drivers:
            driver.kill()

    @property
    def directory(self) -> Path:
        return self.root / "v1" / BUS

    def times(self, short: int, full: int) -> int:
        """Return how often to do something."""
        return full if self.full else short

    def _start(self, peer: Manifest, options: dict[str, Any]) -> Driver:
        driver = Driver(peer, self.root)
        self._drivers.append(driver)
        driver.ask("open", bus=BUS, **{"linger": _LINGER, **options})
        return driver

    def publisher(self, **options: Any) -> Driver:
        """Start a publisher's process, and open the bus."""
        return self._start(self._publisher, options)

    def subscriber(self, system: str = "s", *, kind: str | None = None, **options: Any) -> Driver:
        """Start a subscriber's process with one subscription."""
        of_bus = {name: options.pop(name) for name in ("max_event_bytes", "linger") if name in options}
        driver = self._start(self._subscriber, of_bus)
        if kind is not None:
            options["kind"] = kind
        driver.ask("subscribe", name="sub", system=system, **options)
        return driver

    def witness(self, system: str = "s") -> Driver:
        """Start a subscriber's process of the Python package."""
        driver = self._start(self._python, {})
        driver.ask("subscribe", name="sub", system=system)
        return driver

    def another(self) -> Driver:
        """Start a process of the subscriber's language that only opens the bus."""
        return self._start(self._subscriber, {})

    def tally(self, driver: Driver, sent: int) -> dict[str, Any]:
        """Receive until `sent` events were received or lost since the subscription began."""
        return driver.ask("receive", name="sub", until=sent, timeout=self.patience, tally=True, within=_LONG)

    def kill(self, driver: Driver) -> None:
        """SIGKILL a driver, which then has not to end well."""
        driver.kill()
        self._drivers.remove(driver)

    def end(self, driver: Driver, limit: float = LIMIT) -> None:
        """End a driver as its user would."""
        self._drivers.remove(driver)
        with driver:
            driver.end(limit)

    def finish(self) -> None:
        """End all drivers in order; nothing but the token may be left of them."""
        while self._drivers:
            self.end(self._drivers[-1])
        self.check_empty("files are left behind after everyone has closed the bus")

    def check_empty(self, promise: str) -> None:
        """Check that nothing but the token is in the directory."""
        left = sorted(path.name for path in self.directory.iterdir() if path.name != "token")
        check(promise, not left, *left)


def unsupported(name: str, publisher: Manifest, subscriber: Manifest) -> None:
    """Raise `Unsupported` if one of the two peers lists this check."""
    for peer, role in ((publisher, "publisher"), (subscriber, "subscriber")):
        reason = peer.reason(name, f"{name}.{role}")
        if reason is not None:
            raise Unsupported(reason)


def exact(told: dict[str, Any], sent: int) -> None:
    """Check that what was received and lost is what was sent, in order."""
    check("events arrive in order", told["ordered"], told)
    check("received and lost are what was sent", told["received"] + told["lost"] == sent, sent, told)
    check("no frame is malformed", told["malformed"] == 0, told)


def complete(told: dict[str, Any], sent: int) -> None:
    """Check that everything was received, in order."""
    exact(told, sent)
    check("nothing is lost", told["lost"] == 0, sent, told)
    check("the numbers go from first to last", (told["first"], told["last"]) == (1, sent), sent, told)


def alive(driver: Driver) -> None:
    """Check that a process has not ended."""
    if driver.process.poll() is not None:
        raise Broken(f"{driver.peer.language} has ended with {driver.process.returncode}")
