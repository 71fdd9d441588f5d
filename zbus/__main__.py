"""`python -m zbus` is the command `zbus`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.argv[0] = "zbus"  # what `zbus ls` shows, instead of `__main__.py`
    main()
