"""What `conform.toml` says of a peer: how to build and start its driver, and what it does not support."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "ROOT", "BuildFailed", "Manifest", "read_all"]

ROOT = Path(__file__).parents[3]
PEERS = ROOT / "tools" / "peers"
_BUILDS = ROOT / "build" / "peers"
_BUILD_SECONDS = 1200
_FIELDS = {"language", "build", "start", "needs", "debian", "unsupported"}


class BuildFailed(Exception):
    """A command of `build` failed; the text is what it printed."""


@dataclass
class Manifest:
    """A peer.

    Attributes:
        language: its name in tables and options.
        folder: where its commands run.
        build, start: commands; `{build}` is a folder for what they make, `{python}` this Python.
        needs: programs that must be on the path. `pkg:libzmq` is what pkg-config knows, `/` begins a file,
            and a text with a space is a command that must succeed.
        debian: packages that bring them.
        unsupported: a verb, `verb.field` or a check, and why the peer cannot do it.
        environment: variables for its driver.
    """

    language: str
    folder: Path
    build: list[list[str]] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    debian: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder for what its build makes."""
        return _BUILDS / self.language

    def missing(self) -> list[str]:
        """Return what the peer needs and this machine has not."""
        return [need for need in self.needs if not _there(need)]

    def make(self) -> None:
        """Run the commands of `build`. They are expected to be quick when nothing has changed.

        Raises:
            BuildFailed: one of them failed.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        for command in self.build:
            words = self._filled(command)
            try:
                done = subprocess.run(
                    words,
                    cwd=self.folder,
                    env=self.environ(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=_BUILD_SECONDS,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildFailed(f"{' '.join(words)}: {error}") from error
            if done.returncode:
                said = done.stdout.decode(errors="replace")[-4000:]
                raise BuildFailed(f"{' '.join(words)} ended with {done.returncode}:\n{said}")

    def command(self) -> list[str]:
        """Return the command that starts the driver; it runs in `folder`."""
        return self._filled(self.start)

    def environ(self) -> dict[str, str]:
        """Return the environment of its commands."""
        return {**os.environ, "BUILD": str(self.output), **self.environment}

    def reason(self, *names: str) -> str | None:
        """Return why the peer does not support one of these, `None` if it supports all."""
        return next((self.unsupported[name] for name in names if name in self.unsupported), None)

    def _filled(self, words: list[str]) -> list[str]:
        return [
            word.replace("{build}", str(self.output)).replace("{python}", sys.executable) for word in words
        ]


def _there(need: str) -> bool:
    if " " in need:
        try:
            return not subprocess.run(need.split(), capture_output=True).returncode
        except OSError:
            return False
    if need.startswith("pkg:"):
        if shutil.which("pkg-config") is None:
            return False
        return not subprocess.run(["pkg-config", "--exists", need[4:]], capture_output=True).returncode
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None


def _read(path: Path) -> Manifest:
    told: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    if told.keys() - _FIELDS:
        raise ValueError(
            f"{path}: unknown fields {sorted(told.keys() - _FIELDS)}, it may have {sorted(_FIELDS)}"
        )
    return Manifest(folder=path.parent, **told)


def read_all(folder: Path = PEERS) -> dict[str, Manifest]:
    """Return the peers in a folder, by language; Python comes first."""
    found = [_read(path) for path in sorted(folder.glob("*/conform.toml"))]
    found.sort(key=lambda peer: (peer.language != "python", peer.language))
    return {peer.language: peer for peer in found}
