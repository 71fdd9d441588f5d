"""Odd surroundings of a process: what works, works, and what cannot is an error of zbus that says why.

Nothing else comes out, and nothing is left behind: no file, thread, or descriptor.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zbus

from .process import receive
from .surroundings import AS_ROOT, ENOUGH, LIMITS, SURROUNDINGS

LIMIT = 100.0

# By surroundings: the error of the first use that cannot be; where there is none, everything works.
REFUSED = {
    "bytes": "TypeError: the directory must be a str or a path of str, not bytes",
    "a path of bytes": "TypeError: the directory must be a str or a path of str, not bytes",
    "a path of a number": "TypeError: ",
    "a number": "TypeError: the directory must be a str or a path of str, not int",
    "NUL": "Invalid: the directory '.*' contains NUL",
    "half a character": "Invalid: the directory '.*' cannot be the name of a file",
    "no text": "Invalid: the directory is empty text",
    "5,000 characters": "Invalid: .* is too long",
    "below a file": "Unavailable: cannot create .*: Not a directory",
    "a loop of links": "Unavailable: cannot use .*: Too many levels of symbolic links",
    "a device": "PermissionDenied: /dev/null is not a directory",
    "what the kernel does not make": "Unavailable: cannot create /proc/zbus: No such file or directory",
    "a relative directory in one that is gone": "Unavailable: .* relative to the working directory, which is",
    "ZBUS_BUS not UTF-8": "Invalid: '.*' is not a bus name",
    "TMPDIR that cannot be": "Unavailable: cannot create /proc/none: No such file or directory",
    **{f"files of {n} bytes": "Unavailable: cannot write .*: File too large" for n in (0, 4, 8, 50, 150)},
    **{f"{n} MiB left": "Unavailable: .* may have no more memory" for n in (0, 8)},
    "8 MiB of data left": "Unavailable: .* may have no more memory",
}


def run(what: str, root: Path) -> dict[str, Any]:
    """Run a process in these surroundings; return its report."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.live.surroundings", what, str(root)],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=LIMIT,
        check=False,
    )
    assert not done.returncode, done
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def left(root: Path) -> list[str]:
    """Return the files below a directory, but for tokens."""
    return sorted(str(path) for path in root.rglob("*") if not path.is_dir() and path.name != "token")


def check(report: dict[str, Any]) -> None:
    """Nothing but an error of zbus came out, and nothing is left in the process."""
    outcomes = report["outcomes"]
    assert not [outcome for outcome in outcomes.values() if outcome.startswith("foreign")], outcomes
    assert report["left"] == []


def check_works(report: dict[str, Any]) -> None:
    check(report)
    assert len(report["outcomes"]) >= 13
    assert set(report["outcomes"].values()) == {""}, report


def check_refused(report: dict[str, Any], expected: str) -> None:
    check(report)
    [outcome] = report["outcomes"].values()
    assert re.match(expected, outcome), outcome


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_in_odd_surroundings_a_bus_works_or_says_why_not(zbus_dir: str, what: str) -> None:
    root = Path(zbus_dir, "r")
    report = run(what, root)
    assert left(root) == []
    if what in REFUSED:
        check_refused(report, REFUSED[what])
    else:
        check_works(report)


def test_what_is_refused_is_known_here() -> None:
    assert set(REFUSED) <= set(SURROUNDINGS) | set(LIMITS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another")
@pytest.mark.parametrize("what", AS_ROOT)
def test_what_the_kernel_refuses_is_an_error_of_zbus(zbus_dir: str, what: str) -> None:
    os.chmod(zbus_dir, 0o711)
    root = Path(zbus_dir, "r")
    report = run(what, root)
    check(report)
    assert left(root) == []
    outcomes = report["outcomes"]
    if what == "another user since":
        assert outcomes["first send"] == outcomes["send"] == outcomes["close"] == ""
        assert outcomes["drop"].startswith("PermissionDenied: ")
    elif what in ("another root since", "12 threads left"):
        check_works(report)
    elif what == "0 threads left":
        for overflow in ("drop", "block", "latest"):
            assert outcomes[overflow].startswith("Unavailable: cannot start "), outcomes


@pytest.mark.parametrize("what", [*LIMITS, *ENOUGH])
def test_a_limit_of_the_process_is_an_error_of_zbus(bus: zbus.Bus, zbus_dir: str, what: str) -> None:
    """Though a subscriber is there that the process would have to connect to."""
    sub = bus.subscribe("orders")
    root = Path(zbus_dir)
    before = left(root)
    report = run(what, root)
    assert left(root) == before
    if what in ENOUGH:
        check_works(report)
        assert receive(sub).path == "/0"
    elif what in REFUSED:
        check_refused(report, REFUSED[what])
    else:
        check(report)


PROGRAM = """
import sys, zbus
with zbus.Bus(dir=sys.argv[1]) as bus, bus.subscribe("orders") as sub:
    bus.send("orders", "created", "/1")
    sub.channel().receive(timeout=20)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_script_and_a_directory_that_are_not_utf_8_are_shown_escaped(zbus_dir: str) -> None:
    root = os.fsencode(zbus_dir) + b"/caf\xe9"
    os.mkdir(root, 0o700)
    script = root + b"/th\xe9.py"
    with open(script, "w") as file:
        file.write(PROGRAM)
    command = [os.fsencode(sys.executable), script, root]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = zbus.peers(dir=os.fsdecode(root))
        assert {peer.process for peer in found} == {r"th\xe9.py"}
        for options in ([], ["--json"]):
            listed = subprocess.run(
                [sys.executable, "-m", "zbus", "ls", "--dir", root, *options],
                check=True,
                capture_output=True,
                timeout=LIMIT,
            )
            assert rb"th\xe9.py" in listed.stdout.replace(rb"\\", b"\\")
        process.communicate(timeout=LIMIT)
    with zbus.Bus(dir=os.fsdecode(root)) as bus:
        assert rf"{zbus_dir}/caf\xe9/v1/default" in repr(bus)
    long = os.fsdecode(root) + "/x" * 50
    with pytest.raises(zbus.Invalid) as caught:
        zbus.Bus(dir=long)
    assert r"caf\xe9/x/x" in str(caught.value)
    assert caught.value.details["path"].startswith(long)
    os.unlink(script)
