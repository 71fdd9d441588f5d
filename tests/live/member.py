"""A member of a bus, run as another user: `python -m tests.live.member WHO`. `users.py` has the test's end.

`WHO` is `uid:gid:groups:umask:mapped`. To the kernel it is a real user: the process gives up root for good
once all that it needs is imported, since the interpreter may lie where others cannot read. If it is `mapped`,
it is root in a user namespace of its own, as in a container without privileges. It obeys JSON lines, each a
name of `Member` and arguments, and answers each with one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import zbus
from zbus.cli.ls import ls
from zbus.cli.why import why
from zbus.runtime.process_state import ProcessState, process_state

from .process import directory

GROUP = 61_234
"""Of the prepared directories: of no account."""

_PR_SET_DUMPABLE = 4
_CLONE_NEWUSER = 0x10000000


class Member:
    """What a process of a user can be told to do."""

    def __init__(self) -> None:
        self._bus: zbus.Bus | None = None
        self._subs: dict[str, zbus.Subscription] = {}

    @property
    def _open(self) -> zbus.Bus:
        self._bus = self._bus or zbus.Bus()
        return self._bus

    def open(self) -> str:
        """Open a bus; return its directory."""
        return str(directory(self._open))

    def subscribe(self, name: str, pattern: str, overflow: str, capacity: int = 65_536) -> None:
        self._subs[name] = self._open.subscribe(pattern, overflow=overflow, capacity=capacity)

    def send(self, system: str, *data: Any) -> None:
        for item in data:
            self._open.send(system, "told", "/user", item, timeout=30)

    def send_many(self, system: str, count: int) -> None:
        for number in range(1, count + 1):
            self._open.send(system, "told", "/user", number, timeout=30)

    def take(self, name: str, count: int) -> list[Any]:
        """Return the data of so many events."""
        channel = self._subs[name].channel()
        found = (channel.receive(timeout=30)[0] for _ in range(count))
        return [evt.data for evt in found if evt is not None]

    def drain(self, name: str) -> tuple[int, int]:
        """Receive what is there; return how many events that was, and how many are told to be lost."""
        sub, received = self._subs[name], 0
        with contextlib.suppress(zbus.Timeout):
            while True:
                sub.channel().receive(timeout=0.1)
                received += 1
        return received, sub.lost

    def hear(self, name: str, data: Any, count: int) -> bool:
        """Return whether so many events with that data come within a moment; others may come, too."""
        channel = self._subs[name].channel()
        with contextlib.suppress(zbus.Timeout):
            while count:
                evt, _ = channel.receive(timeout=0.5)
                count -= evt is not None and evt.data == data
        return not count

    def look(self, pid: int) -> ProcessState | None:
        return process_state(pid)

    def unsubscribe(self, name: str) -> None:
        self._subs.pop(name).close()

    def peers(self) -> list[dict[str, Any]]:
        return [peer._asdict() for peer in zbus.peers()]

    def ls(self) -> str:
        """Run `zbus ls`; return what it prints."""
        return _printed(ls)

    def why(self, *arguments: str) -> str:
        """Run `zbus why`; return what it prints."""
        return _printed(why, *arguments)

    def remove(self, path: str) -> None:
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def umask(self) -> int:
        before = os.umask(0)
        os.umask(before)
        return before

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None


def _printed(command: click.Command, *arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command.main([*arguments], standalone_mode=False)
    return printed.getvalue()


def become(who: str) -> None:
    """Be another user for good, as a process is that this user has started."""
    uid, gid, groups, umask, mapped = who.split(":")
    enter = map_ids(int(uid), int(gid)) if int(mapped) else None
    os.setgroups([int(group) for group in groups.split(",") if group])
    os.setresgid(*[int(gid)] * 3)
    os.setresuid(*[int(uid)] * 3)
    os.umask(int(umask, 8))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    if enter is not None:
        enter()


def map_ids(uid: int, gid: int) -> Callable[[], None]:
    """Return a call that makes this process root of a user namespace, in which the group keeps its number."""
    process = os.getpid()
    entered, mapped = os.pipe(), os.pipe()
    helper = os.fork()
    if not helper:
        os.read(entered[0], 1)
        for ids, text in (("uid", f"0 {uid} 1000\n"), ("gid", f"0 {gid} 1000\n{GROUP} {GROUP} 1\n")):
            Path(f"/proc/{process}/{ids}_map").write_text(text)
        os.write(mapped[1], b"x")
        os._exit(0)

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER):
            raise OSError(ctypes.get_errno(), "no user namespace")
        os.write(entered[1], b"x")
        os.read(mapped[0], 1)
        os.waitpid(helper, 0)

    return enter


def main(who: str) -> None:
    """Obey until the input ends."""
    become(who)
    member = Member()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"done": getattr(member, name)(*arguments)}
        except zbus.PermissionDenied as error:
            answer = {"refused": error.message}
        except (zbus.Error, OSError) as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)
    member.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
