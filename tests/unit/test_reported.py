"""All that zbus reports is known, and `tests/live/test_reports.py` has a handler that sends at each of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import zbus

ROOT = Path(zbus.__file__).parent

# Each call that reports something, by file and how its text begins. A new one needs a test there, too.
SITES = {
    ("runtime/housekeeping.py", "{} raised an error"),
    ("receiving/channel_base.py", "{} of channel {} {} raised an error"),
    ("receiving/channel_base.py", "channel {} {}: {}{}"),
    ("receiving/channel_base.py", "lost {} events"),
    ("receiving/channel_base.py", "skipped an event"),
    ("receiving/channel_base.py", "skipped {} malformed frames"),
    ("sending/links.py", "subscriber {} did not finish joining"),
    ("sending/links.py", "subscriber {} takes nothing"),
    ("sending/coalescer.py", "{} events to {} {} could not be handed over"),
    ("roster/location.py", "XDG_RUNTIME_DIR={} belongs to user {}"),
    ("node/presence.py", "files of this process are missing"),
    ("node/presence.py", "files of this process were missing"),
    ("node/presence.py", "{}"),
    ("links/nats.py", "link: {}"),
    ("web/server.py", "cannot answer {}"),  # `tests/unit/test_web_server.py`; no lock is near
    ("testing/faults.py", "an event that `delay` held back could not be sent"),
}


def template(node: ast.expr) -> str | None:
    """Return a text with `{}` for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(s|d|\.3g)", "{}", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def reported() -> set[tuple[str, str]]:
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "report",
                "self._warn",
                "self._report_once",
            ):
                text = template(node.args[0]) if node.args else None
                if text is not None:
                    found.add((str(path.relative_to(ROOT)), text))
    return found


def test_these_are_all_that_zbus_reports() -> None:
    unknown = reported()
    for file, start in sorted(SITES, key=lambda site: -len(site[1])):
        those = {(name, text) for name, text in unknown if name == file and text.startswith(start)}
        assert len(those) == 1, f"{file}: {start!r} is said {len(those)} times"
        unknown -= those
    assert unknown == set(), "new reports: test them in tests/live/test_reports.py, and list them here"
