"""Of fault 14: in which directory processes meet that have different environments, or a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import zbus

from .directory import NAMESPACE
from .harness import Row, Stage
from .kills import start

__all__ = ["full_temporary_directory", "importable", "in_a_mount", "meeting_place"]


def meeting_place(stage: Stage) -> Row:
    row = stage.row("`TMP`, `TEMP` and the working directory differ between processes")
    env = {"ZBUS_DIR": "", "XDG_RUNTIME_DIR": "", "TMPDIR": stage.dir}
    listener = stage.spawn("listen", env=env).ready()
    other = {name: str(stage.scratch) for name in ("TMP", "TEMP")}
    load = stage.spawn("load", 500, within=("env", "-C", "/"), env=env | other | importable()).ready()
    number = start(load, "go")
    load.tell("stop")
    report = listener.hear()
    load.tell("enough")
    load.hear()
    row.equal("got the first", report["runs"][0][0] <= number, True)
    row.equal("lost", report["lost"], 0)
    row.end(listener, load)
    row.done, row.lost = "a subscriber, and a publisher with others", f"0 of {report['last']:,}"
    return row


def importable() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(zbus.__file__).parents[1])}


_FULL_TMP = """
import os, subprocess, zbus
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=1777", "none", "/tmp"], check=True)
for name in ("ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR"):
    os.environ.pop(name, None)
fd = os.open("/tmp/filler", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(fd, bytes(4096))
except OSError:
    pass
try:
    print(zbus.Bus())
except zbus.Unavailable as error:
    print(error.message)
"""


def full_temporary_directory(stage: Stage) -> Row:
    row = stage.row("`/tmp` is full when a process starts, and no other directory is named")
    if not in_a_mount("pass", stage)[0]:
        return row.skip("a mount namespace of one's own is not allowed here")
    worked, said = in_a_mount(_FULL_TMP, stage)
    row.claim(said, worked and "the disk is full" in said and f"/tmp/zbus-{os.geteuid()}" in said)
    row.done, row.lost = "a new process", "nothing: it is refused"
    row.show(f"“{said.strip()}”")
    return row


def in_a_mount(program: str, stage: Stage, within: tuple[str, ...] = NAMESPACE) -> tuple[bool, str]:
    """Run a program in a mount namespace of its own; return whether it worked, and what it said."""
    done = subprocess.run(
        [*within, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **importable(), "ZBUS_DIR": stage.dir, "SCRATCH": str(stage.scratch)},
    )
    return not done.returncode, done.stdout or done.stderr[-500:]
