"""Start the programs of an example together: `python docs/examples orders`. Ctrl-C stops them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    names = sorted(path.name for path in HERE.iterdir() if any(path.glob("*.py")))
    if sys.argv[1:2] not in [[name] for name in names]:
        sys.exit(f"usage: python docs/examples ({'|'.join(names)})")
    files = sorted((HERE / sys.argv[1]).glob("*.py"))
    programs = [subprocess.Popen([sys.executable, file]) for file in files]

    def stop(*_: object) -> None:
        for program in programs:
            program.terminate()

    # The terminal sends Ctrl-C to the programs too; they don't mind being told twice.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for program in programs:
        program.wait()


if __name__ == "__main__":
    main()
