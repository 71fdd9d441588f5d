"""The cases of `vectors/json.json` as text, and as the data of a frame."""

from __future__ import annotations

from .sequences import Case, read

__all__ = ["JSON", "frame_of", "text_of"]

JSON = read("json.json")


def text_of(case: Case) -> bytes:
    """Return the data field of a case."""
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    if "text" in case:
        return str(case["text"]).encode()
    nested = case["nested"]
    times = nested["times"]
    text = nested["open"] * times + nested["inner"] + nested["close"] * times
    return (f'[["/a",{text}]]' if nested.get("batch") else text).encode()


def frame_of(case: Case) -> bytes:
    """Return the frame of a case."""
    path = b"" if case.get("nested", {}).get("batch") else b"/p"
    return b"\0".join((b"s", b"k", path, b"0123abcd.1", text_of(case)))
