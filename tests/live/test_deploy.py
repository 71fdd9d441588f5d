"""The page on deployment holds: its commands, its line for tmpfiles, and its units do what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_docs import DEPLOY, blocks, cases
from .test_places import NO_TMPFILES
from .test_users import check_rights
from .users import GROUP, SERVICE, SHELL, Start, only_root, prepared, root, start

__all__ = ["root", "start"]

NO_ANALYZE = "systemd-analyze is not installed here: apt-get install systemd"


def on_another(text: str, path: Path) -> str:
    """Return what the page says, about a directory and a group of the test's."""
    assert "/run/zbus" in text
    return text.replace("/run/zbus", str(path)).replace(" zbus ", f" {GROUP} ")


def check_shared(start: Start, path: Path) -> None:
    for user in (SERVICE, SHELL):
        party = start(user, 0o077, ZBUS_DIR=path)
        party.do("subscribe", "all", "a", "drop")
        party.do("send", "a", user.uid)
        assert party.do("take", "all", 1) == [user.uid]
    check_rights(path)


@only_root
def test_the_command_prepares_a_directory(start: Start) -> None:
    [command] = [
        line for _, code in blocks(DEPLOY, "sh") for line in code.splitlines() if line.startswith("install")
    ]
    with prepared() as path:
        path.rmdir()
        subprocess.run(["sh", "-c", on_another(command, path)], check=True)
        check_shared(start, path)


@only_root
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason=NO_TMPFILES)
def test_the_line_for_tmpfiles_prepares_a_directory(start: Start, tmp_path: Path) -> None:
    [(_, rules)] = blocks(DEPLOY, "conf")
    with prepared() as path:
        path.rmdir()
        (tmp_path / "zbus.conf").write_text(on_another(rules, path))
        subprocess.run(["systemd-tmpfiles", "--create", tmp_path / "zbus.conf"], check=True)
        check_shared(start, path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason=NO_ANALYZE)
@pytest.mark.parametrize(("page", "line", "unit"), cases("ini", DEPLOY))
def test_systemd_understands_every_unit(page: Path, line: int, unit: str, tmp_path: Path) -> None:
    path = tmp_path / "zbus-example.service"
    program = shutil.which("true")
    path.write_text(
        "\n".join(f"ExecStart={program}" if "ExecStart" in text else text for text in unit.splitlines())
    )
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [text for text in done.stderr.splitlines() if str(path) in text]
    assert said == [], f"deploy.md:{line}"
