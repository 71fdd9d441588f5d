"""Frames good and bad, for tests that decode them by the thousand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

_WIRE = Path(__file__).parent.parent / "conformance" / "vectors" / "wire.json"
# What the format gives a meaning to, so that a random frame is wrong in an interesting way.
_BYTES = b'\0\0\0\0..abk019+-_ \n*()|\xff\x80\xc3\xa9[[]]{}"",,:\\u\x01ntf'


def known() -> list[bytes]:
    """Return the frames of the conformance vectors, good and bad."""
    wire = json.loads(_WIRE.read_text(encoding="utf-8"))
    return [
        bytes.fromhex(case["frame_hex"]) for name in ("accept", "control", "reject") for case in wire[name]
    ]


def noise(random: Random) -> bytes:
    """Return up to 40 bytes that look like a frame at best."""
    return bytes(random.choices(_BYTES, k=random.randrange(41)))


def mutated(frame: bytes, random: Random) -> bytes:
    """Return `frame` with one to three small damages."""
    for _ in range(random.randint(1, 3)):
        damage: Callable[[bytes, Random], bytes] = random.choice(_DAMAGES)
        frame = damage(frame, random)
    return frame


def _replace(frame: bytes, random: Random) -> bytes:
    at = random.randrange(len(frame) + 1)
    return frame[:at] + bytes([random.choice(_BYTES)]) + frame[at + 1 :]


def _insert(frame: bytes, random: Random) -> bytes:
    at = random.randrange(len(frame) + 1)
    return frame[:at] + bytes([random.choice(_BYTES)]) + frame[at:]


def _remove(frame: bytes, random: Random) -> bytes:
    at = random.randrange(len(frame) + 1)
    return frame[:at] + frame[at + random.randint(1, 4) :]


def _cut(frame: bytes, random: Random) -> bytes:
    return frame[: random.randrange(len(frame) + 1)]


def _flip(frame: bytes, random: Random) -> bytes:
    at = random.randrange(len(frame) + 1)
    return (
        frame[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in frame[at : at + 1]) + frame[at + 1 :]
    )


def _swap(frame: bytes, random: Random) -> bytes:
    fields = frame.split(b"\0", 4)
    random.shuffle(fields)
    return b"\0".join(fields)


def _empty(frame: bytes, random: Random) -> bytes:
    fields = frame.split(b"\0", 4)
    fields[random.randrange(len(fields))] = b""
    return b"\0".join(fields)


_DAMAGES = (_replace, _insert, _remove, _cut, _flip, _swap, _empty)
