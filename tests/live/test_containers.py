"""Containers that share a volume: mounts, processes and users of their own, the volume at another path.

And the cleaner of temporary files, on a bus of several users.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zbus.roster.process_info import user_name

from .test_places import NO_TMPFILES
from .test_users import OVERFLOWS, check_rights
from .users import (
    CONTAINED,
    GROUP,
    ROOT,
    SERVICE,
    SHELL,
    Party,
    Start,
    User,
    only_root,
    prepared,
    root,
    start,
)

__all__ = ["root", "start"]

NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

pytestmark = only_root

Contain = Callable[..., Party]


@pytest.fixture
def contain(root: Path) -> Iterator[Contain]:
    """Start a user's process in namespaces of its own, with the prepared directory at another path."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces of mounts and processes are not allowed here")
    volumes = itertools.count()
    with contextlib.ExitStack() as running, tempfile.TemporaryDirectory(prefix="zv-", dir="/tmp") as scratch:
        os.chmod(scratch, 0o755)

        def contain(user: User, umask: int = 0o022) -> Party:
            volume = Path(scratch, f"volume{next(volumes)}")
            volume.mkdir()
            bind = ("sh", "-c", f'mount --bind {root} {volume} && exec "$0" "$@"')
            env = {"ZBUS_DIR": str(volume)}
            return running.enter_context(Party(user, umask, env=env, within=(*NAMESPACES, *bind)))

        yield contain
        running.close()


@pytest.mark.parametrize("users", [(ROOT, ROOT), (ROOT, SERVICE), (SERVICE, SHELL)])
def test_containers_and_the_host_are_on_one_bus(
    start: Start, contain: Contain, root: Path, users: tuple[User, User]
) -> None:
    parties = [contain(users[0], 0o077), contain(users[1], 0o022), start(SHELL, 0o027, ZBUS_DIR=root)]
    for party in parties:
        for overflow in OVERFLOWS:
            party.do("subscribe", overflow, "a", overflow)
    for number, party in enumerate(parties):
        party.do("send", "a", number)
        for other in parties:
            assert [other.do("take", overflow, 1) for overflow in OVERFLOWS] == [[number]] * 3
    for party in parties:
        found = party.do("peers")
        assert all(peer["alive"] for peer in found)
        # Each has the id that it has in its own container, and the name that its user has here.
        members = {(peer["user"], peer["pid"]) for peer in found if peer["role"] == "member"}
        assert members == {
            *((user_name(user.uid), 1) for user in users),
            (user_name(SHELL.uid), parties[2].worker.pid),
        }
    check_rights(root)
    assert len({party.do("open") for party in parties}) == 3


@pytest.mark.parametrize(("victim", "cleaner"), [(ROOT, SERVICE), (SERVICE, SHELL), (SHELL, SHELL)])
def test_who_dies_in_one_container_is_cleaned_up_in_another(
    contain: Contain, root: Path, victim: User, cleaner: User
) -> None:
    killed, looker = contain(victim, 0o077), contain(cleaner, 0o077)
    for overflow in OVERFLOWS:
        killed.do("subscribe", overflow, "a", overflow)
    assert all(peer["alive"] for peer in looker.do("peers"))
    killed.kill()
    found = looker.do("peers")
    assert [peer["alive"] for peer in found] == [False] * 4
    looker.do("open")
    looker.do("close")
    assert [path.name for path in root.glob("v1/default/*")] == ["token"]


def test_a_container_without_privileges_is_on_the_bus_too(start: Start, root: Path) -> None:
    """Its root is a user of the host who has no account."""
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    contained, host = start(CONTAINED, 0o077, ZBUS_DIR=root), start(SHELL, 0o077, ZBUS_DIR=root)
    for party in (contained, host):
        for overflow in OVERFLOWS:
            party.do("subscribe", overflow, "a", overflow)
    for number, party in enumerate((contained, host)):
        party.do("send", "a", number)
        for other in (contained, host):
            assert [other.do("take", overflow, 1) for overflow in OVERFLOWS] == [[number]] * 3
    assert check_rights(root) == {CONTAINED.uid, SHELL.uid}
    assert {peer["user"] for peer in host.do("peers")} == {str(CONTAINED.uid), str(SHELL.uid)}
    assert user_name(0) in {peer["user"] for peer in contained.do("peers")}
    contained.kill()
    host.do("close")
    host.do("open")
    host.do("close")
    assert [path.name for path in root.glob("v1/default/*")] == ["token"]


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason=NO_TMPFILES)
def test_systemd_tmpfiles_spares_a_bus_of_several_users(start: Start, tmp_path: Path) -> None:
    """With the line that the page on deployment gives, but of age 0: everything counts as old."""
    with prepared() as path:
        parties = [start(user, 0o077, ZBUS_DIR=path) for user in (SERVICE, SHELL)]
        for party in parties:
            for overflow in OVERFLOWS:
                party.do("subscribe", overflow, "a", overflow)
        rules = tmp_path / "zbus.conf"
        rules.write_text(f"d {path} 2770 0 {GROUP} 0\n")
        before = sorted((file, file.lstat().st_ino) for file in path.rglob("*"))
        for order in ("--create", "--clean"):
            subprocess.run(["systemd-tmpfiles", order, rules], check=True)
        assert sorted((file, file.lstat().st_ino) for file in path.rglob("*")) == before
        check_rights(path)
        parties[0].do("send", "a", 1)
        assert [parties[1].do("take", overflow, 1) for overflow in OVERFLOWS] == [[1]] * 3
        for party in parties:
            party.end()
        subprocess.run(["systemd-tmpfiles", "--clean", rules], check=True)
        assert list(path.iterdir()) == []
        start(SERVICE, 0o077, ZBUS_DIR=path).do("open")
        check_rights(path)
