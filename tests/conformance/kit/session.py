"""A driver for many small cases: it is started again when a case breaks it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .driver import Broken, Driver, PeerError, Unsupported
from .manifest import Manifest
from .results import FAIL, PASS, UNSUPPORTED, Result

__all__ = ["Judge", "Session", "bus_root"]

_BREAKS = 3
_SHORT = "/tmp"
_ANSWER_SECONDS = 60.0

Action = Callable[[], str | None]


@contextmanager
def bus_root(keep: bool = False) -> Iterator[Path]:
    """Make a directory for buses. Its path is short, so that the path of a socket fits (R4)."""
    path = Path(tempfile.mkdtemp(prefix="zc", dir=_SHORT))
    try:
        yield path
    finally:
        if keep:
            print(f"kept {path}", file=sys.stderr)
        else:
            shutil.rmtree(path, ignore_errors=True)


class Session:
    """Asks one driver after the other; gives up after three that broke."""

    def __init__(self, peer: Manifest, root: Path) -> None:
        self.peer = peer
        self._root = root
        self._driver: Driver | None = None
        self._breaks = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Make a request; see `Driver.ask`."""
        if self._breaks >= _BREAKS:
            raise Broken(f"{self.peer.language}: not tried, the driver broke {_BREAKS} times")
        try:
            if self._driver is None:
                self._driver = Driver(self.peer, self._root)
            return self._driver.ask(verb, within=_ANSWER_SECONDS, **fields)
        except Broken:
            self._breaks += 1
            self.kill()
            raise

    def end(self) -> None:
        """End the driver as its user would."""
        if self._driver is not None:
            driver, self._driver = self._driver, None
            with driver:
                driver.end()

    def kill(self) -> None:
        """End the driver at once."""
        if self._driver is not None:
            self._driver.kill()
            self._driver = None


class Judge:
    """Turns what a case does into its result."""

    def __init__(self, row: str, part: str) -> None:
        self.row = row
        self.part = part

    def result(self, check: str, case: str, action: Action) -> Result:
        """Run a case. It returns what is wrong, or `None`."""
        began = time.monotonic()
        verdict, message = PASS, ""
        try:
            wrong = action()
            if wrong:
                verdict, message = FAIL, wrong
        except Unsupported as error:
            verdict, message = UNSUPPORTED, str(error)
        except PeerError as error:
            verdict, message = FAIL, f"raised {error}"
        except Broken as error:
            verdict, message = FAIL, str(error)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            verdict, message = FAIL, f"the answer has another form: {type(error).__name__}: {error}"
        return Result(self.row, self.part, check, case, verdict, message, time.monotonic() - began)
