"""Completion in real shells, which ask the real command at Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zbus

from .cli import run
from .process import LIMIT
from .terminal import Terminal, terminal

pytestmark = pytest.mark.usefixtures("zbus_dir")

SLOW = pytest.mark.timeout(300)  # each Tab starts a program
PROMPT = "ready> "
CLEAR = "\x15"  # what Ctrl-U sends
# What is typed before Tab, and what the line becomes.
LINES = [
    ("zbus comple", "zbus completion "),
    ("zbus ls --bus sh", "zbus ls --bus shop "),
    ("zbus why --bus shop a b --to stock", "zbus why --bus shop a b --to stock.py "),
    ("zbus record --verify toda", "zbus record --verify today.mcap "),
]
SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), ""),
    "zsh": (("zsh", "-f", "-i"), "autoload -U compinit; compinit -u -D; "),
}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not installed")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a search path on which `zbus` is this package."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "zbus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zbus "$@"\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a program on the bus `shop`."""
    monkeypatch.setattr(sys, "argv", ["stock.py"])
    with zbus.Bus("shop"):
        yield


@contextmanager
def interactive(shell: str, path: str, folder: Path) -> Iterator[Terminal]:
    """Start a shell that has loaded the completion, in `folder`."""
    command, before = SHELLS[shell]
    with terminal(
        command=command, columns=200, PATH=path, PS1=PROMPT, HOME=str(folder), HISTFILE=""
    ) as screen:
        screen.await_text(PROMPT)
        screen.type(f'cd {folder}; {before}eval "$(zbus completion {shell})"; echo load""ed\n')
        screen.await_text("loaded", PROMPT)
        yield screen
        screen.type(f"{CLEAR}exit\n")
        assert screen.ended() == 0


@SLOW
@pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in SHELLS])
def test_tab_completes_a_line(shell: str, path: str, shop: None, tmp_path: Path) -> None:
    (tmp_path / "today.mcap").touch()
    with interactive(shell, path, tmp_path) as screen:
        for typed, completed in LINES:
            screen.type(f"{typed}\t")
            screen.await_text(completed)
            screen.type(CLEAR)


@SLOW
@needs("fish")
def test_fish_completes_too(path: str, shop: None, tmp_path: Path) -> None:
    (tmp_path / "today.mcap").touch()
    asked = "; ".join(f"echo; complete -C '{typed}'" for typed, _ in LINES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"zbus completion fish | source; {asked}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    answers = done.stdout.split("\n\n")
    assert len(answers) == len(LINES)
    for answer, (_, completed) in zip(answers, LINES, strict=True):
        assert completed.split()[-1] in [line.partition("\t")[0] for line in answer.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_the_command(shell: str) -> None:
    printed = run("completion", shell)
    assert (printed.stderr, printed.returncode) == ("", 0)
    assert "_ZBUS_COMPLETE" in printed.stdout


def test_another_shell_is_one_line() -> None:
    failed = run("completion", "ksh")
    assert (failed.stdout, failed.returncode) == ("", 2)
    assert failed.stderr.count("\n") == 1


def complete(*words: str, **env: str) -> str:
    """Return what is offered for the last of `words`, as bash is told it."""
    asked = run(
        _ZBUS_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1), **env
    )
    assert (asked.stderr, asked.returncode) == ("", 0)
    return asked.stdout


def test_where_nobody_can_look_nothing_is_offered(shop: None) -> None:
    assert complete("zbus", "ls", "--bus", "sh") == "plain,shop\n"
    for place in ("/nowhere", "/" + "x" * 200):
        assert complete("zbus", "ls", "--dir", place, "--bus", "s") == "\n"
        assert complete("zbus", "why", "--dir", place, "--to", "s") == "\n"


def test_looking_for_names_makes_no_directory(zbus_dir: str) -> None:
    before = os.listdir(zbus_dir)
    assert complete("zbus", "why", "--bus", "none", "--to", "s") == "\n"
    assert os.listdir(zbus_dir) == before
