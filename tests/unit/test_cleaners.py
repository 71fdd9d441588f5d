"""Which programs would remove old files of a bus."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from zbus.observe.cleaners import cleaners

BUS = Path("/tmp/zbus-1000/v1/default")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    made = [tmp_path / name for name in ("etc", "lib", "cron")]
    for folder in made:
        folder.mkdir()
    return [str(folder) for folder in made]


def found(folders: list[str], path: Path = BUS, linger: str = "/nowhere") -> list[tuple[str, bool]]:
    return [*cleaners(path, tmpfiles=folders[:2], cron=folders[2:], linger=linger)]


def configure(folder: str, name: str, *lines: str) -> None:
    Path(folder, name).write_text("# comment\n\n" + "\n".join(lines) + "\n")


def test_nothing_is_configured(folders: list[str]) -> None:
    assert found(folders) == []


def test_systemd_cleans_and_respects_the_lock(folders: list[str]) -> None:
    configure(folders[1], "tmp.conf", "q /tmp 1777 root root 10d", "q /var/tmp 1777 root root 30d")
    [(text, harmless)] = found(folders)
    assert text.startswith("systemd-tmpfiles removes what is older than 10d there")
    assert harmless
    assert found(folders, Path("/run/zbus/v1/default")) == []


def test_the_first_folder_counts_and_the_longest_path(folders: list[str]) -> None:
    configure(folders[1], "tmp.conf", "q /tmp 1777 root root 10d")
    configure(folders[0], "tmp.conf", "D /tmp 1777 root root 5d", "d /tmp/zbus-* - - - 1h")
    [(text, _)] = found(folders)
    assert "older than 1h" in text


@pytest.mark.parametrize("line", ["x /tmp/zbus-*", "q /tmp 1777 root root -", "q /tmp", "r /tmp/*"])
def test_what_does_not_clean(folders: list[str], line: str) -> None:
    configure(folders[0], "tmp.conf", line)
    if line.startswith("x"):
        configure(folders[1], "other.conf", "q /tmp 1777 root root 10d")
    assert found(folders) == []


@pytest.mark.parametrize("name", ["tmpreaper", "tmpwatch"])
def test_cleaners_that_know_no_lock(folders: list[str], name: str) -> None:
    Path(folders[2], name).touch()
    [(text, harmless)] = found(folders)
    assert text.startswith(f"{name} ({folders[2]}/{name}) removes old files there, even of a bus in use")
    assert not harmless
    assert found(folders, Path("/run/zbus/v1/default")) == []


def test_a_runtime_directory_goes_when_its_user_logs_out(folders: list[str], tmp_path: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    path = Path(f"/run/user/{os.getuid()}/zbus/v1/default")
    [(text, harmless)] = found(folders, path, str(tmp_path))
    assert f"loginctl enable-linger {user}" in text
    assert not harmless
    Path(tmp_path, user).touch()
    assert found(folders, path, str(tmp_path)) == []
