"""Write docs/reference.md, the public API, and docs/cli.md, the command line, from docstrings and help texts.

    python tools/reference            write the pages
    python tools/reference --check    write nothing; show the difference and exit with 1 if there is one

The docstrings are taken from the live objects, because some are put together when the package is imported.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from commands import commands
from page import reference

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {DOCS / "reference.md": reference, DOCS / "cli.md": commands}


def main() -> int:
    """Write the pages, or compare them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python tools/reference", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, show what would change")
    check = parser.parse_args().check
    changes = []
    for path, written in PAGES.items():
        new, old = written(), path.read_text(encoding="utf-8") if path.exists() else ""
        if check:
            changes += difflib.unified_diff(
                old.splitlines(),
                new.splitlines(),
                f"{path.name}, the page",
                f"{path.name}, the code",
                lineterm="",
            )
        else:
            path.write_text(new, encoding="utf-8")
    print(*changes, sep="\n", end="\n" if changes else "")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
