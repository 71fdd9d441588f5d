"""The kit's end of a driver: a process that answers JSON lines.

Whatever it does wrong (no answer, no JSON, an early end) raises `Broken`, with what it wrote to stderr.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from .manifest import Manifest

__all__ = ["LIMIT", "Broken", "Driver", "NotListed", "PeerError", "Unsupported"]

LIMIT = 120.0
_SHOWN = 1500

Fields = dict[str, Any]


class Broken(Exception):
    """The driver does not do what the protocol says."""


class NotListed(Broken):
    """The driver says that it does not support something which its manifest does not list."""


class Unsupported(Exception):
    """The peer does not support this, as its manifest says."""


class PeerError(Exception):
    """The peer's library raised an error.

    Attributes:
        kind: in lower case, without `_` and `-`.
        message, retryable: as it says.
    """

    def __init__(self, told: Fields) -> None:
        self.kind = str(told.get("kind")).lower().replace("_", "").replace("-", "")
        self.message = str(told.get("message"))
        self.retryable = told.get("retryable")
        super().__init__(f"{self.kind}: {self.message}")


class Driver:
    """A running driver. It ends with the context at the latest."""

    def __init__(self, peer: Manifest, bus_root: Path) -> None:
        self.peer = peer
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `_reap`
        self._verb = ""
        self._stopped = False
        command = peer.command()
        try:
            self.process = subprocess.Popen(
                command,
                cwd=peer.folder,
                env={**peer.environ(), "ZBUS_DIR": str(bus_root)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise Broken(f"cannot start {' '.join(command)}: {error}") from error
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def answered(self) -> bool:
        """Whether it has answered something that nobody has taken yet, or has ended."""
        return not self._lines.empty()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, verb: str, *, within: float = LIMIT, **fields: Any) -> Fields:
        """Make a request and return its answer.

        Raises:
            PeerError: the library raised an error.
            Unsupported: the peer cannot do that, and its manifest says so.
            Broken: anything else.
        """
        self.begin(verb, **fields)
        return self.answer(within)

    def ask_all(self, verb: str, requests: list[Fields]) -> list[Fields]:
        """Make requests without waiting for the answers in between; return the answers."""
        for fields in requests:
            self.begin(verb, **fields)
        return [self.answer() for _ in requests]

    def begin(self, verb: str, **fields: Any) -> None:
        """Make a request; `answer` returns what comes of it."""
        names = [verb, *(f"{verb}.{name}" for name in fields)]
        names += [
            f"{verb}.{value}" for value in fields.values() if isinstance(value, str) and value.isalpha()
        ]
        reason = self.peer.reason(*names)
        if reason is not None:
            raise Unsupported(reason)
        self._verb = verb
        self._names = names
        self._write(orjson.dumps({"verb": verb, **fields}) + b"\n")

    def answer(self, limit: float = LIMIT) -> Fields:
        """Return the answer to the request that was begun first."""
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            raise self._broken(f"no answer to {self._verb} within {limit:g} s") from None
        if not line:
            code = self.process.wait(LIMIT)
            raise self._broken(f"ended with {code} while it was to answer {self._verb}")
        return self._understood(line)

    def _understood(self, line: bytes) -> Fields:
        try:
            told = orjson.loads(line)
            if not isinstance(told, dict):
                raise ValueError
        except ValueError:
            raise self._broken(f"answered {self._verb} with what is no JSON object: {line[:300]!r}") from None
        if "unsupported" in told:
            listed = f"its manifest lists none of {', '.join(self._names)}"
            raise NotListed(f"says of {self._verb}: {told['unsupported']!r}; {listed}")
        if "error" in told:
            raise PeerError(told["error"] if isinstance(told["error"], dict) else {"message": told["error"]})
        if told.get("ok") is not True:
            raise self._broken(
                f"answered {self._verb} with neither ok, error nor unsupported: {line[:300]!r}"
            )
        return told

    def end(self, limit: float = LIMIT) -> None:
        """Close its stdin and wait until it has ended with status 0."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise self._broken(f"still runs {limit:g} s after the end of its stdin") from None
        self._reader.join(LIMIT)
        said = b"".join(self._left())
        if code or said:
            raise self._broken(
                f"ended with {code}, and said {said[:300]!r} unasked" if said else f"ended with {code}"
            )
        self._reap()

    def stop(self) -> None:
        """SIGSTOP it, and wait until every thread of it stands still."""
        self._stopped = True
        os.kill(self.pid, signal.SIGSTOP)
        until = time.monotonic() + LIMIT
        while any(state not in "TtZX" for state in _states(self.pid)) and time.monotonic() < until:
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT it."""
        self._stopped = False
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it and whatever it has started, and wait until it is gone; do nothing if it has ended."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(LIMIT)
        self._reap()

    def _reap(self) -> None:
        self._reader.join(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _left(self) -> list[bytes]:
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self._lines.get_nowait())
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(OSError, ValueError):
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put(b"")

    def _write(self, line: bytes) -> None:
        """Write a request; a driver that does not read must not hold up the kit."""
        assert self.process.stdin is not None
        until = time.monotonic() + LIMIT
        try:
            pipe = self.process.stdin.fileno()
            while line:
                if not select.select([], [pipe], [], max(0.0, until - time.monotonic()))[1]:
                    raise self._broken(f"did not read {self._verb} within {LIMIT:g} s")
                line = line[os.write(pipe, line) :]
        except (BrokenPipeError, ValueError):
            code = self.process.wait(LIMIT)
            raise self._broken(f"had ended with {code} when it was asked to {self._verb}") from None

    def _broken(self, what: str) -> Broken:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-_SHOWN:].strip()
        return Broken(f"{self.peer.language} {what}" + (f"; stderr: {said}" if said else ""))


def _states(pid: int) -> list[str]:
    """Return the state of each thread of a process."""
    found = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(stat.read_text().rpartition(")")[2].split()[0])
    return found


def shown(fields: Fields) -> str:
    """Return a request or an answer for a message, cut to a length that people read."""
    text = json.dumps(fields, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
