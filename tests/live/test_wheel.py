"""A wheel of it works in an environment that knows nothing of the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 100


def run(*command: object, **env: str) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(3 * SECONDS)
def test_a_wheel_works_in_an_environment_of_its_own(tmp_path: Path, zbus_dir: str) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith("zbus_events-")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-index",
        "--no-deps",
        "--quiet",
    )
    run(*install, "--disable-pip-version-check", wheel)
    [site] = home.glob("lib/python*/site-packages")
    # What it depends on is that of this environment, behind its own.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert (site / "zbus" / "py.typed").exists()
    where = "import os, zbus, zbus.testing; print(os.path.dirname(zbus.__file__))"
    assert run(python, "-I", "-c", where).strip() == str(site / "zbus")
    command = home / "bin" / "zbus"
    assert re.fullmatch(r"zbus \d+\.\d+\.\d+\n", run(command, "--version", PYTHONNOUSERSITE="1"))
    assert "Usage: zbus" in run(command, "--help")
    run(command, "send", "orders", "order.created", "/orders/1", ZBUS_DIR=zbus_dir)
    plugins = "from importlib.metadata import entry_points as e; print(e(group='pytest11', name='zbus'))"
    assert "zbus.testing" in run(python, "-I", "-c", plugins)
