"""Users of a machine, and the test's end of their processes: see `member.py`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .member import GROUP
from .process import Worker

__all__ = [
    "CONTAINED",
    "GROUP",
    "ROOT",
    "SERVICE",
    "SHELL",
    "STRANGER",
    "Party",
    "Start",
    "User",
    "only_root",
    "prepared",
    "root",
    "start",
]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run processes as other users")


class User(NamedTuple):
    """Who runs a process."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    mapped: bool = False

    def with_umask(self, umask: int) -> str:
        """Return the argument that names this user."""
        return f"{self.uid}:{self.gid}:{','.join(map(str, self.groups))}:{umask:o}:{self.mapped:d}"


ROOT = User(0, 0, ())
SERVICE = User(33, 33, (GROUP,))  # www-data
SHELL = User(61_001, GROUP, ())  # the group is its own; no account
STRANGER = User(61_002, 61_002, ())
CONTAINED = User(100_000, 100_000, (GROUP,), mapped=True)


class Party:
    """A process of a user, from the test's end."""

    def __init__(
        self,
        user: User,
        umask: int = 0o022,
        *,
        env: Mapping[str, str],
        within: tuple[str, ...] = (),
    ) -> None:
        """Start it, with no bus open."""
        who = user.with_umask(umask)
        self.user = user
        self.worker = Worker(who, module="tests.live.member", env=env, within=within).ready()
        self.pid = self.worker.pid
        if within:  # its namespace may make it another's child, with another id there
            while children := Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                self.pid = int(children[0])

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, if it still runs."""
        if self.worker.process.poll() is None:
            self.kill()
        elif self.worker.process.stdin is not None and not self.worker.process.stdin.closed:
            self.worker.end()

    def do(self, name: str, *arguments: object) -> Any:
        """Have it do something; return what it answers.

        Raises:
            PermissionError, RuntimeError: it could not; the former if the bus was refused.
        """
        self.begin(name, *arguments)
        return self.answer()

    def begin(self, name: str, *arguments: object) -> None:
        """Have it do something, and don't wait for that."""
        self.worker.tell(json.dumps([name, *arguments]))

    def answer(self) -> Any:
        """Return what it answers to what it was told."""
        answer = self.worker.hear()
        if "refused" in answer:
            raise PermissionError(answer["refused"])
        if "failed" in answer:
            raise RuntimeError(answer["failed"])
        return answer["done"]

    def end(self) -> None:
        """Let it close its bus and end."""
        if self.worker.process.stdin is not None and not self.worker.process.stdin.closed:
            assert self.worker.end() == 0

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.worker.end()


@contextlib.contextmanager
def prepared(mode: int = 0o2770, group: int = GROUP, owner: int = 0) -> Iterator[Path]:
    """Prepare a directory that is not the user's of the test; whatever becomes of it is removed."""
    top = Path(tempfile.mkdtemp(prefix="zu-", dir="/tmp"))
    try:
        top.chmod(0o755)
        path = top / "bus"
        path.mkdir()
        os.chown(path, owner, group)
        path.chmod(mode)
        yield path
    finally:
        shutil.rmtree(top)


Start = Callable[..., Party]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes of users; those that still run at the end are killed."""
    with contextlib.ExitStack() as running:

        def start(user: User, umask: int = 0o022, **env: object) -> Party:
            given = {"ZBUS_DIR": "", "XDG_RUNTIME_DIR": "", "ZBUS_BUS": ""}
            given |= {name: str(value) for name, value in env.items()}
            return running.enter_context(Party(user, umask, env=given))

        yield start


@pytest.fixture
def root() -> Iterator[Path]:
    """Prepare a directory for the group."""
    with prepared() as path:
        yield path
