"""mypy and pyright find of the API what `promises.py` says, and in the examples of the docs no fault."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.test_docs import PAGES, ROOT, blocks

PROMISES = Path(__file__).parent / "promises.py"
PROGRAMS = sorted((ROOT / "docs" / "examples").rglob("*.py"))
SECONDS = 300

Errors = dict[tuple[str, int], list[str]]


def examples(directory: Path) -> dict[str, tuple[Path, int]]:
    """Write every example to a file of its own, at the lines it has in its page; return the page of each."""
    found = {}
    for page in PAGES:
        if page.name == "reference.md":  # signatures, not programs
            continue
        for line, code in blocks(page, "python"):
            name = f"{page.stem.replace('-', '_')}_{line}.py"
            (directory / name).write_text("\n" * (line - 1) + code)
            found[name] = page, line
    for program in PROGRAMS:
        name = f"{program.parent.name}_{program.name}"
        (directory / name).write_text(program.read_text())
        found[name] = program, 1
    return found


def checked(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(directory: Path) -> Errors:
    """Return what mypy finds by file and line. It knows the package by the checkout, not by its stubs."""
    (directory / "mypy.ini").write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT}\n")
    options = ("--no-error-summary", "--hide-error-context", "--cache-dir", directory / "cache")
    names = sorted(path.name for path in directory.glob("*.py"))
    errors: Errors = {}
    for line in checked("-m", "mypy", *options, *names, cwd=directory).splitlines():
        match = re.fullmatch(r"(.+?\.py):(\d+): error: (.*)", line)
        if match is not None:
            errors.setdefault((match[1], int(match[2])), []).append(match[3])
    return errors


def pyright(directory: Path) -> Errors:
    """Return what pyright finds by file and line, in the mode that it has by default."""
    configuration = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (directory / "pyrightconfig.json").write_text(json.dumps(configuration))
    output = checked("-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, cwd=directory)
    errors: Errors = {}
    for one in json.loads(output)["generalDiagnostics"]:
        if one["severity"] == "error":
            at = Path(one["file"]).name, one["range"]["start"]["line"] + 1
            errors.setdefault(at, []).append(one["message"])
    return errors


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_checkers_find_what_is_promised_and_nothing_in_the_docs(checker: object, tmp_path: Path) -> None:
    assert callable(checker)
    pages = examples(tmp_path)
    assert len(pages) >= 30
    code = PROMISES.read_text()
    (tmp_path / PROMISES.name).write_text(code)
    found = checker(tmp_path)
    in_docs = {f"{pages[name][0]}:{line}": why for (name, line), why in found.items() if name in pages}
    assert in_docs == {}
    wrong = {n for n, line in enumerate(code.splitlines(), 1) if line.endswith("# wrong")}
    assert wrong
    errors = {line: why for (name, line), why in found.items() if name == PROMISES.name}
    assert {line: why for line, why in errors.items() if line not in wrong} == {}
    assert wrong <= {*errors}, f"no error in lines {sorted(wrong - {*errors})}"
