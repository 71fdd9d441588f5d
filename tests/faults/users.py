"""Fault 20: a bus of several users, in a directory prepared for their group, and what each may do to it."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live.test_containers import NAMESPACES
from tests.live.users import GROUP, ROOT, SERVICE, SHELL, STRANGER, Party, User, prepared

from .harness import Row, Stage, until

__all__ = ["several_users"]

_USERS = {"root": ROOT, "www-data": SERVICE, "a shell user": SHELL}
_UMASKS = (0o077, 0o000, 0o027)
_OVERFLOWS = ("drop", "block", "latest")
_MEET_SECONDS = 5.0


def several_users(stage: Stage) -> Iterator[Row]:
    """Break a bus of several users, in all the ways that one of them can."""
    if os.geteuid():
        yield stage.row("several users on one bus").skip("only root can run processes as other users")
        return
    yield _killed(stage, "members of three users killed, other users clean up", ())
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        reason = "namespaces of mounts and processes are not allowed here"
        yield stage.row("the same, each in a container of its own").skip(reason)
    else:
        yield _killed(stage, "the same, each in a container of its own", NAMESPACES)
    yield _removed(stage)
    yield _refused(stage)


def _start(stage: Stage, user: User, root: Path, within: tuple[str, ...] = ()) -> Party:
    party = Party(user, stage.random.choice(_UMASKS), env={"ZBUS_DIR": str(root)}, within=within)
    stage.enter(party)
    return party


def _killed(stage: Stage, fault: str, within: tuple[str, ...]) -> Row:
    row = stage.row(fault)
    rounds = stage.size(12, 3)
    with prepared() as root:
        sender, reader = _start(stage, ROOT, root), _start(stage, SERVICE, root)
        reader.do("subscribe", "all", "a", "block")
        sender.do("open")
        kept = _files(root)
        cleaners = {user: _start(stage, user, root, within) for user in _USERS.values()}
        for number, (victim, cleaner) in zip(
            range(rounds), itertools.cycle(itertools.permutations(_USERS.values(), 2)), strict=False
        ):
            killed = _start(stage, victim, root, within)
            for overflow in _OVERFLOWS:
                killed.do("subscribe", overflow, "a", overflow)
            sender.do("send", "a", number)
            got = [killed.do("take", overflow, 1) for overflow in _OVERFLOWS]
            row.equal("got before the end", got, [[number]] * 3)
            row.claim("what is made is not the group's", _are_the_group_s(root))
            killed.kill()
            row.equal("seen to be dead", _dead(cleaners[cleaner]), 4)
            cleaners[cleaner].do("open")
            cleaners[cleaner].do("close")
            row.equal("files after another user has joined", _files(root), kept)
        row.equal("a steady reader got", reader.do("take", "all", rounds), list(range(rounds)))
        row.equal("it lost", reader.do("drain", "all"), [0, 0])
        for party in (sender, reader, *cleaners.values()):
            party.end()
        row.equal("files at the end", _files(root), [])
    row.done = f"{rounds}, of umasks 077, 000 and 027; the next join is another user's"
    row.lost = f"0 of {rounds} beside them"
    return row


def _dead(party: Party) -> int:
    return sum(not peer["alive"] for peer in party.do("peers"))


def _removed(stage: Stage) -> Row:
    row = stage.row("the directory of a group's bus removed by one of them")
    rounds = stage.size(3, 1)
    slowest = 0.0
    with prepared() as root:
        parties = [_start(stage, user, root) for user in _USERS.values()]
        for party in parties:
            party.do("subscribe", "all", "a", "drop")
        numbers = itertools.count()
        row.claim("they do not meet", _meet(parties, next(numbers)))
        for index in range(rounds):
            parties[index % 3].do("remove", str(root / ("v1", "v1/default")[index % 2]))
            began = time.monotonic()
            newcomer = _start(stage, SHELL, root)
            newcomer.do("subscribe", "all", "a", "drop")
            until(lambda late=newcomer: _meet([*parties, late], next(numbers)), 30, "all meet again")
            slowest = max(slowest, time.monotonic() - began)
            row.claim("what is made anew is not the group's", _are_the_group_s(root))
            newcomer.end()
        for party in parties:
            party.end()
    row.at_most("all processes hear each other again after", slowest, _MEET_SECONDS, "s")
    times = "once" if rounds == 1 else f"{rounds} times"
    row.done, row.lost = f"{times}, then a new process joins", "only what is sent before they notice"
    return row


def _meet(parties: list[Party], number: int) -> bool:
    for party in parties:
        party.do("send", "a", number)
    heard = [party.do("hear", "all", number, len(parties)) for party in parties]
    return all(heard)


def _refused(stage: Stage) -> Row:
    row = stage.row("a user outside the group; and the private bus of another user")
    said = []
    with prepared() as root:
        _start(stage, ROOT, root).do("open")
        said.append(_refusal(stage, STRANGER, root))
    with prepared(0o700, owner=SHELL.uid) as root:
        _start(stage, SHELL, root).do("open")
        said += [_refusal(stage, user, root) for user in (SERVICE, ROOT)]
    for text in said:
        row.claim(f"no advice: {text}", "usermod -aG" in text or "install -d -g GROUP -m 2770" in text)
    row.done, row.lost = "a stranger; www-data and root", "nothing: they are refused"
    row.show("the error says how to share a bus")
    return row


def _refusal(stage: Stage, user: User, root: Path) -> str:
    try:
        _start(stage, user, root).do("open")
    except PermissionError as error:
        return str(error)
    return "not refused"


def _files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("v1/default/*") if path.name != "token")


def _are_the_group_s(root: Path) -> bool:
    found = [path.lstat() for path in [root, *root.rglob("*")]]
    return all(
        info.st_gid == GROUP
        and stat.S_IMODE(info.st_mode) == (0o2770 if stat.S_ISDIR(info.st_mode) else 0o660)
        for info in found
    )
