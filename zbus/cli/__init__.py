"""The command `zbus`: a client of the public API, one file a command.

It needs click and rich (the extra `cli`), which the library does not, so nothing here imports them before
`main` has seen that they are there.
"""

from __future__ import annotations

import importlib.util
import sys

from .signals import Interrupted, raise_signals
from .standard_streams import guard

__all__ = ["main"]

# It names those packages, not this one's extra: nobody knows how this one was installed, and to an index its
# name may mean a stranger's code.
_HINT = "zbus: the command line needs click and rich: pip install click rich"


def main() -> None:
    """Run the command that `sys.argv` names and exit the process with its exit code.

    0 is success, 1 a failure, 2 a wrong command line, 128 + n an end by signal n. It is success, too, when
    the reader of stdout has gone. That stderr takes nothing does not count.
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
