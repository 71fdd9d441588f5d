"""What pytest loads: the fixtures of `plugin.py`, without importing zbus.

pytest loads the plugins of everything that is installed, also for tests that never use zbus. Those must not
pay for importing it. Tests that use it may want to see it imported: coverage measures only what is imported
after coverage has started.

Importing `zbus.testing.plugin` imports `zbus` first. So pip installs this file as a module of its own, beside
the package (see `force-include` in pyproject.toml), and it runs `plugin.py` as its own text. After
`pip install -e` that is the file of the checkout.
"""

import importlib.util
import sys
from pathlib import Path

_package = importlib.util.find_spec("zbus")  # which finds it and does not import it
assert _package is not None
assert _package.origin is not None
_plugin = importlib.util.spec_from_file_location(
    __name__, Path(_package.origin).parent / "testing" / "plugin.py"
)
assert _plugin is not None
assert _plugin.loader is not None
_plugin.loader.exec_module(sys.modules[__name__])
