"""Write docs/reference.md: the public API and the command line, from signatures and docstrings.

    python tools/reference            write the page
    python tools/reference --check    write nothing; show the difference and exit with 1 if there is one

The docstrings are taken from the live objects, because some are put together when the package is imported.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from page import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def main() -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python tools/reference", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, show what would change")
    check = parser.parse_args().check
    new, old = reference(), PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if not check:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    change = [*difflib.unified_diff(old.splitlines(), new.splitlines(), "the page", "the code", lineterm="")]
    print(*change, sep="\n")
    return 1 if change else 0


if __name__ == "__main__":
    sys.exit(main())
