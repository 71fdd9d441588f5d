"""What `conform.toml` says of a peer: how to build, start and check it, and what it does not support."""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .commands import run, there

__all__ = ["PEERS", "ROOT", "Manifest", "read_all"]

ROOT = Path(__file__).parents[3]
PEERS = ROOT / "tools" / "peers"
_BUILDS = ROOT / "build" / "peers"
_BUILD_SECONDS = 1200.0
_CHECK_SECONDS = 600.0
_VARIANT_FIELDS = {"build", "start", "needs"}
_FIELDS = {"language", "debian", "unsupported", "check", "check_needs", "variants", *_VARIANT_FIELDS}


@dataclass
class Manifest:
    """A peer.

    Attributes:
        language: its name in tables and options.
        folder: where its commands run.
        build, start: commands; `{build}` is a folder for what they make, `{python}` this Python.
        needs: programs that must be on the path. `pkg:libzmq` is what pkg-config knows, `/` begins a file,
            and a text with a space is a command that must succeed.
        check: commands that find mistakes in its source, by name.
        check_needs: what all of them need, in the form of `needs`.
        variants: other builds of the driver, by name: `build`, and `start` and `needs` if they differ.
        debian: packages that bring all that.
        unsupported: a verb, `verb.field` or a check, and why the peer cannot do it.
        environment: variables for its driver.
    """

    language: str
    folder: Path
    build: list[list[str]] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    check: dict[str, list[str]] = field(default_factory=dict)
    check_needs: list[str] = field(default_factory=list)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    debian: list[str] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder for what its build makes."""
        return _BUILDS / self.language

    def missing(self) -> list[str]:
        """Return what the peer needs and this machine has not."""
        return [need for need in self.needs if not there(need)]

    def missing_for(self, check: str) -> list[str]:
        """Return what a command of `check` needs and this machine has not."""
        program = self.check[check][0]
        needs = self.check_needs if "/" in program else [program, *self.check_needs]
        return [need for need in needs if not there(need)]

    def missing_at_all(self) -> bool:
        """Return whether this machine lacks anything that the peer, its checks or its variants need."""
        return bool(
            any(map(self.missing_for, self.check)) or any(peer.missing() for peer in [self, *self.others()])
        )

    def make(self) -> None:
        """Run the commands of `build`. They are expected to be quick when nothing has changed.

        Raises:
            CommandFailed: one of them failed.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        for command in self.build:
            run(self._filled(command), self.folder, self.environ(), _BUILD_SECONDS)

    def run_check(self, name: str, seconds: float = _CHECK_SECONDS) -> None:
        """Run a command of `check`.

        Raises:
            CommandFailed: it found something, or took more than `seconds`.
        """
        run(self._filled(self.check[name]), self.folder, self.environ(), seconds)

    def others(self) -> list[Manifest]:
        """Return the variants as peers of their own, named for the language and the variant."""
        return [
            replace(
                self,
                language=f"{self.language}-{name}",
                build=told.get("build", []),
                start=told.get("start", self.start),
                needs=[*self.needs, *told.get("needs", [])],
                check={},
                variants={},
            )
            for name, told in self.variants.items()
        ]

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


def _read(path: Path) -> Manifest:
    told: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    _only(f"{path}:", told, _FIELDS)
    for name, variant in told.get("variants", {}).items():
        _only(f"{path}: variant {name}:", variant, _VARIANT_FIELDS)
    return Manifest(folder=path.parent, **told)


def _only(where: str, told: dict[str, Any], fields: set[str]) -> None:
    if told.keys() - fields:
        raise ValueError(
            f"{where} unknown fields {sorted(told.keys() - fields)}, it may have {sorted(fields)}"
        )


def read_all(folder: Path = PEERS) -> dict[str, Manifest]:
    """Return the peers in a folder, by language; Python comes first."""
    found = [_read(path) for path in sorted(folder.glob("*/conform.toml"))]
    found.sort(key=lambda peer: (peer.language != "python", peer.language))
    return {peer.language: peer for peer in found}
