"""A command on a terminal, as a picture."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.live.terminal import terminal

__all__ = ["draw"]

_COLUMNS = 84
# The picture asks no other host for a font.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def draw(path: Path, title: str, *args: str, **env: str) -> None:
    """Write what `zbus ARGS` shows on a terminal, with its colours, as SVG."""
    with terminal(*args, columns=_COLUMNS, **{**env, "TERM": "xterm-256color"}) as screen:
        screen.ended()
        shown = screen.shown
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(shown.strip().replace("\r\n", "\n")))
    path.write_text(console.export_svg(title=title, code_format=_FORMAT))
