"""Recordings as tests make them and read them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcap.reader import make_reader

from zbus.recording.verify import Report, verify

from .cli import ended, started
from .process import LIMIT

__all__ = ["bodies", "finished", "recorded", "recording", "until"]


@contextmanager
def recording(path: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zbus record PATH ARGS` and wait until it has subscribed."""
    with started("record", str(path), *args) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"zbus: recording ")
        yield process


def finished(process: subprocess.Popen[bytes]) -> str:
    """End a recorder as Ctrl-C does; return what it says."""
    process.send_signal(signal.SIGINT)
    out, err, code = ended(process)
    assert (out, code) == ("", 0), err
    return err


def until(path: Path, events: int) -> Report:
    """Wait until the file of a running recorder has as many events, or knows that they are lost."""
    deadline = time.monotonic() + LIMIT
    while True:
        if path.exists():
            report = verify(str(path))
            if report.events + report.lost >= events:
                return report
        assert time.monotonic() < deadline, f"{path} never has {events} events"
        time.sleep(0.05)


def recorded(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return topic and body of each message, as the package `mcap` reads them; it checks the sums."""
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        return [
            (channel.topic, json.loads(message.data))
            for _, channel, message in reader.iter_messages(log_time_order=False)
        ]


def bodies(path: Path) -> list[dict[str, Any]]:
    """Return only the bodies."""
    return [body for _, body in recorded(path)]
