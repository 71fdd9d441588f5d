"""The reference is what its tool would write, so it says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = ("tools/reference", "--check")


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, *TOOL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (
        f"docs/reference.md differs from the code: run `python tools/reference`\n{done.stdout}{done.stderr}"
    )


def test_every_public_name_has_an_entry() -> None:
    import zbus
    from zbus import aio, errors, testing

    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for module in (zbus, aio, errors, zbus.logging, testing):
        section = page.partition(f"\n## {module.__name__}\n")[2].partition("\n## ")[0]
        for name in module.__all__:
            assert f"`{name}`" in section, f"{module.__name__}.{name}"
