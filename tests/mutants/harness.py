"""Trees: copies of the checkout, in which a mutant is put and the tests named for it are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .mutant import Mutant

__all__ = ["BROKEN", "CAUGHT", "CHECKOUT", "MISSED", "STALE", "Tree", "Verdict", "plain"]

CHECKOUT = Path(__file__).parents[2]
CAUGHT, MISSED, STALE, BROKEN = "caught", "NOT CAUGHT", "does not apply", "BROKEN TEST"

_COPIED = ("zbus", "tests", "docs", "tools", "pyproject.toml", "README.md", "LICENSE")
_LIMIT_SECONDS = 150
_TEST_SECONDS = 60
_PASSED, _FAILED = 0, 1  # exit codes of pytest
_REPORTED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Verdict(NamedTuple):
    """What became of one mutant, and why."""

    mutant: Mutant
    what: str
    why: str


class Tree:
    """A copy of the checkout in a directory of its own."""

    def __init__(self) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix="zm-")
        self.root = Path(self._holder.name)
        for name in _COPIED:
            source, target = CHECKOUT / name, self.root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        # No bytecode: it would be taken for that of the next mutant, if that has the same size and second.
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._check_what_is_imported()

    def close(self) -> None:
        """Remove the copy."""
        self._holder.cleanup()

    def _check_what_is_imported(self) -> None:
        """Make sure that the tests, and the processes that they start anywhere, import the copy."""
        command = [sys.executable, "-c", "import zbus; print(zbus.__file__)"]
        done = subprocess.run(
            command, cwd="/", env=self._environment, capture_output=True, text=True, check=True
        )
        if not Path(done.stdout.strip()).is_relative_to(self.root):
            raise RuntimeError(f"{done.stdout.strip()} would be tested, not the copy in {self.root}")

    def failing(self, tests: Iterable[str]) -> set[str]:
        """Return which of `tests` fail in the copy as it is, without their parameters."""
        _, said = self._run(tests, stop=False, limit=None)
        return {plain(found) for found in _REPORTED.findall(said)}

    def judge(self, mutant: Mutant) -> Verdict:
        """Put the mutant in, run its tests, and take it out again."""
        path = self.root / "zbus" / mutant.file
        before = path.read_text(encoding="utf-8")
        try:
            changed = mutant.apply(before)
        except ValueError as error:
            return Verdict(mutant, STALE, str(error))
        path.write_text(changed, encoding="utf-8")
        try:
            code, said = self._run(mutant.tests, stop=True, limit=_LIMIT_SECONDS)
        finally:
            path.write_text(before, encoding="utf-8")
        if code == _PASSED:
            return Verdict(mutant, MISSED, "its tests pass")
        if code is None:
            return Verdict(mutant, CAUGHT, f"no end within {_LIMIT_SECONDS} s")
        if code < 0:
            return Verdict(mutant, CAUGHT, f"the tests were ended by signal {-code}")
        if code == _FAILED and (failed := _REPORTED.findall(said)):
            return Verdict(mutant, CAUGHT, failed[0])
        return Verdict(mutant, BROKEN, f"pytest ended with {code}: {said[-2000:]}")

    def _run(self, tests: Iterable[str], *, stop: bool, limit: float | None) -> tuple[int | None, str]:
        """Run `tests` in the copy; return pytest's exit code, `None` after `limit`, and what it said."""
        options = ["-q", "-p", "no:cacheprovider", "--tb=line", "-rfE", f"--timeout={_TEST_SECONDS}"]
        command = [sys.executable, "-m", "pytest", *options, *(["-x"] if stop else [])]
        process = subprocess.Popen(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=self.root,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit)
            return process.returncode, said
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            _end_session(process)


def plain(test: str) -> str:
    """Return a node id as a mutant names it: below `tests/`, without parameters."""
    return test.removeprefix("tests/").partition("[")[0]


def _end_session(process: subprocess.Popen[str]) -> None:
    """End what the tests have started and left, since a mutant may keep it from ending."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
