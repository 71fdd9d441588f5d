"""The command line as people and scripts use it: `zbus` as a real process."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ZBUS = [sys.executable, "-m", "zbus"]
SECONDS = 100.0  # a busy machine takes its time to start a program


def run(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run `zbus ARGS` to its end."""
    return subprocess.run(
        [*ZBUS, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **env},
    )


def run_without(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run `zbus ARGS` to its end, as if a package were not installed."""
    program = f"import sys; sys.modules[{module!r}] = None; import zbus.cli; zbus.cli.main()"
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=SECONDS
    )


@contextmanager
def started(*args: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zbus ARGS`; its pipes are unbuffered, so that reading a line takes no more than that."""
    process = subprocess.Popen(
        [*ZBUS, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **env},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def subscribed(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zbus sub ARGS` and wait until it says that it has subscribed."""
    with started("sub", *args) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"zbus: subscribed to ")
        yield process


def ended(process: subprocess.Popen[bytes]) -> tuple[str, str, int]:
    """Return what is left on stdout and stderr, and the exit code, once the process ends."""
    out, err = process.communicate(timeout=SECONDS)
    return out.decode(), err.decode(), process.returncode


def ends_without_reader(process: subprocess.Popen[bytes]) -> bool:
    """Read a line and close the pipe; return whether the command then ends without a word, as a success."""
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    return process.wait(SECONDS) == 0 and process.stderr.read() == b""


def shown(process: subprocess.Popen[bytes]) -> tuple[str, str, int]:
    """Return what `ended` does for `zbus sub`, without the time at the beginning of each line."""
    out, err, code = ended(process)
    return "".join(map(untimed, out.splitlines(keepends=True))), err, code


def untimed(line: str) -> str:
    """Return a line of `zbus sub` without the time at its beginning."""
    time, _, rest = line.partition("  ")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d", time), line
    return rest


def assert_sent(*args: str, stdin: str = "") -> None:
    sent = run("send", *args, stdin=stdin)
    assert (sent.stdout, sent.stderr, sent.returncode) == ("", "", 0)


def on_a_terminal(*args: str, **env: str) -> tuple[str, int]:
    """Run `zbus ARGS` with stdout on a terminal; return what that shows, and the exit code."""
    ours, theirs = pty.openpty()
    with (
        open(ours, "rb", buffering=0) as screen,
        subprocess.Popen(
            [*ZBUS, *args], stdout=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **env}
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        try:
            while chunk := screen.read(65_536):
                shown += chunk
        except OSError:  # how Linux reports that nobody has the terminal open any more
            pass
        return shown.decode(), process.wait(SECONDS)
