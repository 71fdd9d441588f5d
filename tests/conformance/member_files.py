"""The member files of `vectors/numbers.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["CASES", "Case", "build", "content"]

Case = dict[str, Any]

CASES: list[Case] = json.loads(
    (Path(__file__).parent / "vectors" / "numbers.json").read_text(encoding="utf-8")
)


def build(case: Case, path: Path) -> Path:
    """Write the member file of a case. What it only has as a hole takes no room."""
    path.write_bytes(_pieces(case))
    if "size" in case:
        os.truncate(path, case["size"])
    return path


def content(case: Case) -> bytes:
    """Return the bytes of the member file of a case."""
    made = _pieces(case)
    size = case.get("size", len(made))
    return made[:size].ljust(size, b"\0")


def _pieces(case: Case) -> bytes:
    made = bytearray()
    for piece in case["pieces"]:
        data = piece["text"].encode() if "text" in piece else piece["u64"].to_bytes(8, "little")
        end = piece["at"] + len(data)
        made.extend(bytes(max(0, end - len(made))))
        made[piece["at"] : end] = data
    return bytes(made)
