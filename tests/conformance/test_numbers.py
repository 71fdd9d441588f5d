"""Runs the vectors of live numbers through the package, and through a reader written from R56 alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from zbus.roster.numbers import read_numbers

from .member_files import CASES, Case, build

each = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["id"]))


@each
def test_numbers_are_read_as_the_vectors_say(case: Case, tmp_path: Path) -> None:
    found = read_numbers(build(case, tmp_path / "0123456789abcdef.member"))
    if found is None:
        assert case["numbers"] is None
        return
    told = found._asdict()
    told["time"] = round(told["time"] * 1_000_000)
    told["by_topic"] = [[*row] for row in told["by_topic"]]
    told["by_channel"] = [row._asdict() for row in told["by_channel"]]
    link = told.pop("link")
    if link is not None:
        told["link"] = link._asdict()
    assert told == case["numbers"]


@each
def test_the_specification_is_enough_to_read_them(case: Case, tmp_path: Path) -> None:
    content = build(case, tmp_path / "0123456789abcdef.member").read_bytes()
    told = plain(content)
    assert told == case["numbers"]


def test_every_id_is_used_once_and_half_of_them_are_refused() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert sum(case["numbers"] is None for case in CASES) >= len(CASES) / 2


def plain(content: bytes) -> Case | None:
    """Read a publication as R56 says, without a helping hand of the package."""

    def unsigned(at: int) -> int:
        return int.from_bytes(content[at : at + 8], "little")

    number = unsigned(40)
    slot = 65_536 + number % 2 * 262_144
    length = unsigned(slot)
    text = content[slot + 8 : slot + 8 + length]
    if not number or len(content) > 589_824 or length > 262_136 or len(text) != length:
        return None
    try:
        told = json.loads(text, parse_constant=lambda _: math.nan)
    except ValueError:
        return None
    if "NaN" in text.decode() or not isinstance(told, dict) or not count(told.get("time")):
        return None
    sent, received = thing(told.get("sent")), thing(told.get("received"))
    return {
        "time": told["time"],
        **{name: count(sent.get(name)) for name in ("events", "bytes", "topics")},
        "received": count(received.get("events")),
        "channels": count(received.get("channels")),
        "joins": count(told.get("joins")),
        "by_topic": [
            [*row[:2], *(count(value) for value in [*row[2:], 0, 0][:2])]
            for row in told.get("topics", [])
            if isinstance(row, list)
            and len(row) > 1
            and all(isinstance(name, str) and name for name in row[:2])
        ],
        "by_channel": [channel(row) for row in map(thing, told.get("channels", [])) if "system" in row],
    }


def channel(row: Case) -> Case:
    names = {name: row[name] for name in ("system", "kind", "overflow")}
    counts = ("received", "lost", "malformed", "superseded", "mismatched")
    unread = row.get("unread")
    known = type(unread) in (int, float) and unread >= 0
    return {
        "id": count(row.get("id")),
        **names,
        **{name: count(row.get(name)) for name in counts},
        "unread": unread if known else None,
    }


def count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def thing(value: object) -> Case:
    return value if isinstance(value, dict) else {}
