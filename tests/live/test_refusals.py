"""Who is refused where, and what the refusal says; and what root leaves to others."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import zbus
from zbus.roster import location
from zbus.roster.permissions import Permissions, set_permissions

from .test_users import check_rights
from .users import GROUP, ROOT, SERVICE, SHELL, STRANGER, Start, User, only_root, prepared, root, start

__all__ = ["root", "start"]

pytestmark = only_root

ELSEWHERE = "directory of your own"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory of root's that everybody may pass."""
    with tempfile.TemporaryDirectory(prefix="zr-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def make(path: Path, mode: int, owner: int, group: int = 0) -> Path:
    path.mkdir()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def refusal(start: Start, user: User, **env: object) -> str:
    """Return why a user cannot open a bus; it is not that they should go elsewhere, each for themselves."""
    with pytest.raises(PermissionError) as caught:
        start(user, **env).do("open")
    assert ELSEWHERE not in str(caught.value)
    return str(caught.value)


def modes(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.lstat().st_uid, stat.S_IMODE(path.lstat().st_mode))
        for path in [directory, *directory.rglob("*")]
    }


# -- a group's


def test_who_is_not_in_the_group_is_told_so(start: Start, root: Path) -> None:
    start(ROOT, ZBUS_DIR=root).do("open")
    for way in (root, root / "deeper" / "still"):
        said = refusal(start, STRANGER, ZBUS_DIR=way)
        assert f"is for group {GROUP}" in said
        assert "usermod -aG" in said
        assert "SupplementaryGroups=" in said
    assert not (root / "deeper").exists()


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        (0o3770, "chmod -t"),
        (0o2777, "chmod o-w"),
        (0o0770, "chmod 2770"),
        (0o0700, "install -d -g GROUP -m 2770"),
        (0o2750, "for them alone: share another directory"),
        (0o0755, "install -d -g GROUP -m 2770"),
    ],
)
def test_a_directory_that_is_not_prepared_is_refused_with_what_to_do(
    start: Start, mode: int, advice: str
) -> None:
    with prepared(mode, owner=SHELL.uid) as path:
        assert advice in refusal(start, SERVICE, ZBUS_DIR=path)


@pytest.mark.parametrize("level", ["", "v1", "v1/default"])
def test_the_directory_that_was_prepared_may_be_the_root_or_beneath(
    start: Start, scratch: Path, level: str
) -> None:
    """As `/run/zbus` may be of root, and only `/run/zbus/v1/default` be prepared."""
    top = scratch / "bus"
    path = top
    for part in ["", *level.split("/")] if level else [""]:
        path = path / part
        make(path, 0o755, 0)
    os.chown(path, 0, GROUP)
    path.chmod(0o2770)
    for user in (SERVICE, SHELL, ROOT):
        party = start(user, 0o077, ZBUS_DIR=top)
        party.do("subscribe", "all", "a", "drop")
        party.do("send", "a", user.uid)
        assert party.do("take", "all", 1) == [user.uid]
    check_rights(path)


def test_what_is_missing_in_a_prepared_directory_is_made_for_the_group(start: Start, root: Path) -> None:
    for user in (SERVICE, SHELL):
        start(user, 0o077, ZBUS_DIR=root / "a").do("open")
    check_rights(root)


def test_a_private_directory_in_a_prepared_one_is_to_be_removed(start: Start, root: Path) -> None:
    """As it is where somebody prepared a directory that was used before."""
    make(root / "v1", 0o700, SHELL.uid, GROUP)
    said = refusal(start, SERVICE, ZBUS_DIR=root)
    assert f"{root}/v1 belongs to user {SHELL.uid}" in said
    assert f"{root} is prepared for a group" in said
    assert "remove it" in said
    (root / "v1").rmdir()
    start(SERVICE, 0o077, ZBUS_DIR=root).do("open")
    check_rights(root)


def test_a_directory_open_to_others_prepares_no_root(start: Start) -> None:
    with prepared(0o2775) as path:
        start(SERVICE, 0o002, ZBUS_DIR=path / "mine").do("open")
        assert set(modes(path / "mine").values()) == {(SERVICE.uid, 0o2700), (SERVICE.uid, 0o600)}


def test_a_token_that_is_not_the_group_s_says_whose_fault_it_is(start: Start, root: Path) -> None:
    start(SHELL, ZBUS_DIR=root).do("open")
    (root / "v1/default/token").chmod(0o600)
    os.chown(root / "v1/default/token", SHELL.uid, GROUP)
    assert "chmod 660" in refusal(start, SERVICE, ZBUS_DIR=root)


def test_a_service_that_may_not_set_the_setgid_bit_needs_no_chmod_or_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with RestrictSUIDSGID=, which DynamicUser= implies."""
    real = os.fchmod

    def restricted(fd: int, mode: int) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        real(fd, mode)

    monkeypatch.setattr(os, "fchmod", restricted)
    before = os.umask(0o022)
    try:
        with pytest.raises(zbus.PermissionDenied, match=r"UMask=0007.*install -d -g 61234 -m 2770"):
            zbus.Bus(dir=root)
        assert list(root.iterdir()) == []
        os.umask(0o007)
        zbus.Bus(dir=root).close()
    finally:
        os.umask(before)
    check_rights(root)


def test_a_link_in_place_of_a_socket_gives_nobody_rights(root: Path, scratch: Path) -> None:
    """Others of the group may put one there, and root would change what it leads to."""
    target = scratch / "target"
    target.touch(0o600)
    (root / "link").symlink_to(target)
    with pytest.raises(OSError, match=r"not a socket|Too many levels"):
        set_permissions(root / "link", Permissions(GROUP, 0o2770))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


# -- private


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_a_private_bus_is_its_owner_s_whatever_the_umask(start: Start, scratch: Path, umask: int) -> None:
    home = make(scratch / "home", 0o755, SHELL.uid)
    owner = start(SHELL, umask, ZBUS_DIR=home / "bus")
    owner.do("subscribe", "all", "a", "drop")
    for path in (home / "bus", home / "bus/v1", home / "bus/v1/default"):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (SHELL.uid, 0o700)
    for path in (home / "bus/v1/default").iterdir():
        assert path.suffix == ".sock" or stat.S_IMODE(path.stat().st_mode) == 0o600
    for user in (SERVICE, ROOT):
        said = refusal(start, user, ZBUS_DIR=home / "bus")
        assert f"belongs to user {SHELL.uid}" in said
        assert "install -d -g GROUP -m 2770" in said


def test_a_default_root_that_somebody_else_prepared_is_refused(start: Start, scratch: Path) -> None:
    """Else anybody in a group of the victim's could have the victim's bus in `/tmp`."""
    path = make(scratch / f"zbus-{SERVICE.uid}", 0o2770, SHELL.uid, GROUP)
    assert "remove it" in refusal(start, SERVICE, TMPDIR=scratch)
    start(SERVICE, ZBUS_DIR=path).do("open")  # to name it is to trust it


def test_a_default_root_in_a_prepared_directory_is_private(start: Start, root: Path) -> None:
    start(SERVICE, 0o002, TMPDIR=root).do("open")
    assert stat.S_IMODE((root / f"zbus-{SERVICE.uid}").stat().st_mode) == 0o2700


# -- root


def runtime_directory(scratch: Path) -> Path:
    return make(scratch / "run", 0o700, SHELL.uid)


def test_root_leaves_the_runtime_directory_of_a_user_alone(start: Start, scratch: Path) -> None:
    runtime, tmp = runtime_directory(scratch), make(scratch / "tmp", 0o1777, 0)
    for order in ((ROOT, SHELL), (SHELL, ROOT)):
        parties = {user: start(user, XDG_RUNTIME_DIR=runtime, TMPDIR=tmp) for user in order}
        assert parties[ROOT].do("open") == f"{tmp}/zbus-0/v1/default"
        assert parties[SHELL].do("open") == f"{runtime}/zbus/v1/default"
        parties[ROOT].do("subscribe", "all", "a", "drop")
        assert {owner for owner, _ in modes(runtime).values()} == {SHELL.uid}
        for party in parties.values():
            party.end()


def test_it_is_said_once_that_a_runtime_directory_is_another_user_s(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = runtime_directory(scratch)
    monkeypatch.delenv("ZBUS_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(location, "_reported", set())
    assert [location.default_root() for _ in range(2)] == [scratch / "zbus-0"] * 2
    [said] = caplog.messages
    assert f"XDG_RUNTIME_DIR={runtime} belongs to user {SHELL.uid}" in said
    assert str(scratch / "zbus-0") in said


def test_another_user_s_runtime_directory_counts_for_nobody(start: Start, scratch: Path) -> None:
    runtime, tmp = runtime_directory(scratch), make(scratch / "tmp", 0o1777, 0)
    party = start(SERVICE, XDG_RUNTIME_DIR=runtime, TMPDIR=tmp)
    assert party.do("open") == f"{tmp}/zbus-{SERVICE.uid}/v1/default"


def test_root_makes_nothing_in_a_directory_of_another_user_who_is_not_shut_out(
    start: Start, scratch: Path
) -> None:
    home = make(scratch / "home", 0o755, SHELL.uid)
    for way in (home / "bus", home / "deep" / "er"):
        said = refusal(start, ROOT, ZBUS_DIR=way)
        assert f"install -d -o {SHELL.uid} -m 700 {way}" in said
        assert "install -d -g GROUP -m 2770" in said
    assert list(home.iterdir()) == []
    owner = start(SHELL, ZBUS_DIR=home / "bus")
    owner.do("open")
    assert f"run this as user {SHELL.uid}" in refusal(start, ROOT, ZBUS_DIR=home / "bus")
    owner.do("send", "a", 1)


def test_root_in_a_directory_that_a_user_prepared(start: Start) -> None:
    with prepared(owner=SHELL.uid) as path:
        start(ROOT, 0o077, ZBUS_DIR=path).do("open")
        start(SHELL, ZBUS_DIR=path).do("open")
        start(SERVICE, ZBUS_DIR=path).do("open")
        check_rights(path)


def test_root_may_look_at_a_private_bus_and_nobody_else(start: Start, scratch: Path) -> None:
    home = make(scratch / "home", 0o755, SHELL.uid)
    owner = start(SHELL, ZBUS_DIR=home / "bus")
    owner.do("subscribe", "all", "a", "drop")
    before = modes(home)
    seen = start(ROOT, ZBUS_DIR=home / "bus").do("peers")
    assert [(peer["pid"], peer["user"]) for peer in seen] == [(owner.worker.pid, str(SHELL.uid))] * 2
    assert all(peer["alive"] for peer in seen)
    assert modes(home) == before
    with pytest.raises(PermissionError, match="belongs to user"):
        start(SERVICE, ZBUS_DIR=home / "bus").do("peers")


def test_a_root_that_is_removed_is_made_anew_for_its_group(start: Start) -> None:
    """By root, which may make it; the others would be shut out of what root makes for itself."""
    with prepared() as path:
        service, daemon = start(SERVICE, 0o077, ZBUS_DIR=path), start(ROOT, 0o077, ZBUS_DIR=path)
        service.do("open")
        daemon.do("open")
        daemon.do("remove", str(path))
        assert "belongs to user 0" in refusal(start, SHELL, ZBUS_DIR=path)
        daemon.do("subscribe", "all", "a", "drop")
        check_rights(path)
        service.do("send", "a", 1)
        assert daemon.do("take", "all", 1) == [1]
