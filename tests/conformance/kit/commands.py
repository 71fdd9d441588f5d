"""Runs the commands of a manifest, and finds out what this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["CommandFailed", "run", "there"]

_SHOWN = 4000


class CommandFailed(Exception):
    """A command failed; the text is what it printed."""


def run(words: list[str], folder: Path, environ: Mapping[str, str], seconds: float) -> None:
    """Run a command.

    Raises:
        CommandFailed: it cannot be started, ends with another status than 0, or takes more than `seconds`.
            Then it is killed, with whatever it has started.
    """
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{' '.join(words)}: {error}") from error
    how = ""
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        how = f"took more than {seconds:g} s"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
    if how or process.returncode:
        how = how or f"ended with {process.returncode}"
        raise CommandFailed(f"{' '.join(words)} {how}:\n{said.decode(errors='replace')[-_SHOWN:]}")


def there(need: str) -> bool:
    """Return whether this machine has what an entry of `needs` names."""
    if " " in need:
        try:
            return not subprocess.run(need.split(), capture_output=True).returncode
        except OSError:
            return False
    if need.startswith("pkg:"):
        if shutil.which("pkg-config") is None:
            return False
        return not subprocess.run(["pkg-config", "--exists", need[4:]], capture_output=True).returncode
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None
