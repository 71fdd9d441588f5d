"""A wheel works in an environment that knows nothing of the checkout; the sdist has all that is checked.

`tools/package` runs the quick tests from both.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 100
TOPS = ("zbus", "tests", "tools", "docs", ".ci")


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
    pages = {path.name for path in (ROOT / "zbus" / "web" / "static").iterdir()}
    assert pages == {path.name for path in (site / "zbus" / "web" / "static").iterdir()}
    where = "import os, zbus, zbus.testing; print(os.path.dirname(zbus.__file__))"
    assert run(python, "-I", "-c", where).strip() == str(site / "zbus")
    command = home / "bin" / "zbus"
    assert re.fullmatch(r"zbus \d+\.\d+\.\d+\n", run(command, "--version", PYTHONNOUSERSITE="1"))
    assert "Usage: zbus" in run(command, "--help")
    run(command, "send", "orders", "order.created", "/orders/1", ZBUS_DIR=zbus_dir)
    plugins = "from importlib.metadata import entry_points as e; print(e(group='pytest11', name='zbus'))"
    assert "zbus_pytest" in run(python, "-I", "-c", plugins)
    test = tmp_path / "test_it.py"
    test.write_text("def test_it(zbus_bus):\n    zbus_bus.send('orders', 'order.created', '/orders/1')\n")
    options = ("-q", "-p", "zbus", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", os.devnull)
    assert "1 passed" in run(python, "-I", "-m", "pytest", *options, test, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_the_sdist_has_all_that_is_checked(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    [archive] = tmp_path.glob("zbus_events-*.tar.gz")
    with tarfile.open(archive) as tar:
        modes = {member.name.partition("/")[2]: member.mode for member in tar.getmembers()}
    files = [path for top in TOPS for path in (ROOT / top).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert wanted | {"README.md", "LICENSE", "pyproject.toml"} <= {*modes}
    assert all(modes[name] & 0o100 for name in wanted if os.access(ROOT / name, os.X_OK))
