"""zbus works under every other Python of this machine, and programs of different versions meet on a bus.

`tools/check --python 3.13` runs all tests under another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zbus

from .process import receive

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
VERSIONS = [f"3.{minor}" for minor in (11, 12, 13, 14) if minor != sys.version_info.minor]

PROGRAM = """
import asyncio, sys
import zbus, zbus.logging
from zbus import aio

async def echo():
    async with aio.Bus() as bus, await bus.subscribe("there") as sub:
        await bus.send("here", "ready", "/", "%s.%s" % sys.version_info[:2])
        evt, ok = await sub.channel().receive(timeout=60)
        await bus.send("here", "echo", "/", evt.data)

with zbus.subscribe("there") as sub:
    asyncio.run(echo())
    evt, ok = sub.channel().receive(timeout=60)
    zbus.send("here", "echo", "/", evt.data)
"""


def interpreter(version: str) -> str:
    """Return the path of a Python of this version, or skip the test if there is none."""
    candidates = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
    ]
    for candidate in filter(None, candidates):
        tell = "import sys; print('%s.%s' % sys.version_info[:2], sys.executable)"
        done = subprocess.run([candidate, "-c", tell], capture_output=True, text=True, timeout=SECONDS)
        if done.stdout.startswith(f"{version} "):  # what pyenv puts on the path may only print an error
            return done.stdout.split(maxsplit=1)[1].strip()
    pytest.skip(f"no Python {version} on this machine")


def install(version: str, directory: Path) -> None:
    """Install what zbus needs for another Python, or skip the test if there is no registry or no wheel."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=0"]
    target = ["--only-binary=:all:", f"--python-version={version}", f"--target={directory}"]
    done = subprocess.run([*pip, *target, "--no-deps", "pyzmq", "orjson"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install pyzmq and orjson for Python {version}: {done.stderr}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_program_under_another_python_sends_and_receives(
    version: str, zbus_bus: zbus.Bus, tmp_path: Path
) -> None:
    python = interpreter(version)
    install(version, tmp_path)
    with zbus_bus.subscribe("here") as sub:
        process = subprocess.Popen(
            [python, "-W", "error", "-B", "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        )
        try:
            ready = receive(sub, SECONDS)
            assert (ready.kind, ready.data) == ("ready", version)
            zbus_bus.send("there", "question", "/", {"number": 42})
            assert [receive(sub, SECONDS).data for _ in range(2)] == [{"number": 42}] * 2
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
