"""The command `zbus`: a client of the public API, with one file for each command.

It needs click and rich (the extra `cli`), which the library does not need. So they are imported only after
`main` has checked that they are installed.
"""

from __future__ import annotations

import importlib.util
import sys

from .signals import Interrupted, raise_signals
from .standard_streams import guard

__all__ = ["main"]

# Names the packages, not the extra `zbus[cli]`: this package may have been installed from anywhere, and on an
# index its name may be another project's.
_HINT = "zbus: the command line needs click and rich: pip install click rich"


def main() -> None:
    """Run the command in `sys.argv`, and exit the process with its exit code.

    0 means success, 1 failure, 2 a wrong command line, 128 + n that signal n ended the command. It is also a
    success if the reader of stdout has gone away, or if stderr cannot be written.
    """
    guard()
    raise_signals()
    try:
        if not all(map(importlib.util.find_spec, ("click", "rich"))):
            sys.exit(_HINT)
        from .app import run

        code = run(sys.argv[1:])
    except Interrupted as interrupted:
        code = 128 + interrupted.signal
    sys.exit(code)
