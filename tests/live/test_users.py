"""Several users on one machine: a directory prepared for a group is a bus for them all."""

from __future__ import annotations

import errno
import functools
import itertools
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zbus
from zbus.roster import directory_handle
from zbus.roster.process_info import user_name
from zbus.roster.token import Token
from zbus.runtime.process_state import process_state

from .raw import touch
from .users import GROUP, ROOT, SERVICE, SHELL, Party, Start, User, only_root, prepared, root, start

__all__ = ["root", "start"]

pytestmark = only_root

UMASKS = (0o077, 0o000, 0o027)
OVERFLOWS = ("drop", "block", "latest")
ALL = (ROOT, SERVICE, SHELL)


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_rights(root: Path) -> set[int]:
    """Check that all in a prepared directory is the group's; return whose files there are."""
    owners = set()
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        wanted = 0o2770 if stat.S_ISDIR(info.st_mode) else 0o660
        assert (stat.S_IMODE(info.st_mode), info.st_gid) == (wanted, GROUP), path
        if not stat.S_ISDIR(info.st_mode) and path.name != "token":
            owners.add(info.st_uid)
    return owners


# -- a bus of a group


@pytest.mark.parametrize("umask", UMASKS, ids=oct)
@pytest.mark.parametrize("first", ALL, ids=["root", "service", "shell"])
def test_every_user_of_the_group_joins_sends_receives_and_looks(
    start: Start, root: Path, first: User, umask: int
) -> None:
    users = [first, *(user for user in ALL if user is not first)]
    parties = [start(user, umask, ZBUS_DIR=root) for user in users]
    for party in parties:
        for overflow in OVERFLOWS:
            party.do("subscribe", overflow, "a", overflow)
    for party in parties:
        party.do("send", "a", party.user.uid)
        for other, overflow in itertools.product(parties, OVERFLOWS):
            assert other.do("take", overflow, 1) == [party.user.uid]
    assert check_rights(root) == {user.uid for user in ALL}
    assert {party.do("umask") for party in parties} == {umask}
    names = {user_name(user.uid) for user in ALL}
    for party in parties:
        found = party.do("peers")
        assert {peer["user"] for peer in found} == names
        assert all(peer["alive"] for peer in found)
        printed = party.do("ls")
        assert all(name in printed for name in names)
    for party in parties:
        party.end()
    assert [path.name for path in root.glob("v1/default/*")] == ["token"]


@pytest.mark.parametrize("umask", UMASKS, ids=oct)
def test_all_who_start_at_once_are_on_one_bus(start: Start, umask: int) -> None:
    """What is made is the group's before others meet it, however many make it at a time."""
    with prepared() as top:
        parties = [start(user, umask, ZBUS_DIR=top) for user in ALL * 2]
        for number in range(10):
            for party in parties:
                party.begin("subscribe", "all", "a", "drop")
            for party in parties:
                party.answer()
            for party in parties:
                party.do("send", "a", number)
            for party in parties:
                assert party.do("take", "all", len(parties)) == [number] * len(parties)
            check_rights(top)
            for party in parties:
                party.do("unsubscribe", "all")
                party.do("close")
            parties[number % 2].do("remove", str(top / "v1"))


def test_who_meets_a_directory_that_is_replaced_looks_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two made it at the same time: the kernel makes no file in the one that has lost its name."""
    real, opened = directory_handle.Token, []

    def replaced_first(path: Path, mode: int) -> Token:
        opened.append(path)
        if len(opened) == 1:
            raise zbus.Unavailable("cannot open it", errno=errno.ENOENT)
        return real(path, mode)

    monkeypatch.setattr(directory_handle, "Token", replaced_first)
    zbus.Bus(dir=root).close()
    assert len(opened) == 2
    check_rights(root)


def test_loss_is_counted_across_users(start: Start, root: Path) -> None:
    sender, reader = start(ROOT, 0o077, ZBUS_DIR=root), start(SERVICE, 0o077, ZBUS_DIR=root)
    reader.do("subscribe", "slow", "a", "drop", 10)
    sender.do("send_many", "a", 20_000)
    received = 0
    for sent in itertools.count(20_001):
        sender.do("send", "a", sent)  # one that finds room tells of those before it
        more, lost = reader.do("drain", "slow")
        received += more
        assert received + lost <= sent
        if received + lost == sent:
            break
    assert lost > 0


def test_a_member_that_joins_gets_the_next_event_of_any_user(start: Start, root: Path) -> None:
    senders = [start(user, 0o077, ZBUS_DIR=root) for user in ALL]
    joiner = start(SHELL, 0o027, ZBUS_DIR=root)
    for number in range(30):
        joiner.do("subscribe", "new", "a", OVERFLOWS[number % 2])
        for sender in senders:
            sender.do("send", "a", number)
        assert joiner.do("take", "new", 3) == [number] * 3
        joiner.do("unsubscribe", "new")


PAIRS = [*itertools.permutations(ALL, 2)]


@pytest.mark.parametrize(("victim", "cleaner"), PAIRS)
def test_anybody_cleans_up_after_anybody(start: Start, root: Path, victim: User, cleaner: User) -> None:
    killed = start(victim, 0o077, ZBUS_DIR=root)
    for overflow in OVERFLOWS:
        killed.do("subscribe", overflow, "a", overflow)
    looker = start(cleaner, 0o077, ZBUS_DIR=root)
    assert all(peer["alive"] for peer in looker.do("peers"))
    killed.kill()
    found = looker.do("peers")
    assert [peer["alive"] for peer in found] == [False] * len(found)
    looker.do("send", "a", 1)  # a join
    looker.do("close")
    assert [path.name for path in root.glob("v1/default/*")] == ["token"]


@pytest.mark.parametrize(("victim", "cleaner"), PAIRS)
def test_a_publisher_buries_the_dead_of_other_users(
    start: Start, root: Path, victim: User, cleaner: User
) -> None:
    sender = start(cleaner, 0o077, ZBUS_DIR=root)
    sender.do("send", "a", 0)
    killed = start(victim, 0o077, ZBUS_DIR=root)
    killed.do("subscribe", "mine", "a", "block")
    sender.do("send", "a", 1)
    killed.kill()

    def buried() -> bool:
        touch(root / "v1/default")
        sender.do("send", "a", 2)  # it meets the dead once it has seen that the connection broke
        return not {path.suffix for path in root.glob("v1/default/*")} & {".block", ".sock"}

    until(buried)


def test_the_process_of_another_user_is_seen_to_be_stopped(start: Start, root: Path) -> None:
    sender, stopped = start(SERVICE, ZBUS_DIR=root), start(ROOT, ZBUS_DIR=root)
    stopped.do("open")
    seen = sender.do("look", stopped.worker.pid)
    if seen is None:
        pytest.skip("/proc hides the processes of other users here (hidepid)")
    stopped.worker.signal(signal.SIGSTOP)
    until(lambda: (mine := process_state(stopped.worker.pid)) is not None and mine.stopped)
    assert sender.do("look", stopped.worker.pid)[-1] is True
    stopped.worker.signal(signal.SIGCONT)


def all_hear_all(parties: list[Party], numbers: Iterator[int]) -> bool:
    number = next(numbers)
    for party in parties:
        party.do("send", "a", number)
    heard = [party.do("hear", "all", number, len(parties)) for party in parties]
    return all(heard)


@pytest.mark.parametrize(
    ("what", "remover"), [("v1/default", SERVICE), ("v1", SHELL), ("v1", ROOT), ("v1/default/token", SHELL)]
)
def test_a_directory_that_one_user_removes_is_made_anew_for_all(
    start: Start, root: Path, remover: User, what: str
) -> None:
    parties = [start(user, 0o077, ZBUS_DIR=root) for user in ALL]
    for party in parties:
        party.do("subscribe", "all", "a", "drop")
    assert all_hear_all(parties, itertools.count())
    start(remover).do("remove", str(root / what))
    newcomer = start(SHELL, 0o077, ZBUS_DIR=root)
    newcomer.do("subscribe", "all", "a", "drop")
    parties.append(newcomer)
    until(functools.partial(all_hear_all, parties, itertools.count(1)))
    assert check_rights(root) == {user.uid for user in ALL}
