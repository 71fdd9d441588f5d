"""Fillers go to the `block` ingresses that get frames of a topic, as their entries tell (W43)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from zbus.roster.file_names import Entry
from zbus.sending.fillers import Fillers

ID = "0123456789abcdef"
FILLER = b"\xff" + ID.encode() + b".3~"


def fillers(tmp_path: Path, text: bytes | None, *, blocking: bool = True, shown: int = 3) -> Fillers:
    """Return those for one link, whose entry holds `text`."""
    entry = Entry(ID, 3, "block")
    if text is not None:
        (tmp_path / entry.name).write_bytes(text)
    link: Any = SimpleNamespace(
        entry=entry, lane=SimpleNamespace(blocking=blocking), shown=shown, path=str(tmp_path / f"{ID}.sock")
    )
    made = Fillers()
    made.update([link])
    return made


def about(*patterns: tuple[str, str], channels: int | None = None) -> bytes:
    """Return the text of an entry."""
    count = len(patterns) if channels is None else channels
    return orjson.dumps({"patterns": [(*pattern, "block") for pattern in patterns], "channels": count})


@pytest.mark.parametrize(
    ("patterns", "topic", "gets"),
    [
        ([("a", "*")], ("a", "k"), True),
        ([("a", "*")], ("b", "k"), False),
        ([("a", "*")], ("a.b", "k"), False),
        ([("a", "k")], ("a", "l"), False),
        ([("a", "k")], ("a", "kk"), False),
        ([("a", "k"), ("b", "l")], ("b", "l"), True),
        ([("*", "*")], ("any.system", "k"), True),
        # ZeroMQ compares the first bytes only, so this takes a place in the queue although nobody gets it.
        ([("a.*.c", "*")], ("a.b.d", "k"), True),
    ],
)
def test_what_takes_a_place_in_the_queue_has_fillers(
    tmp_path: Path, patterns: list[tuple[str, str]], topic: tuple[str, str], gets: bool
) -> None:
    assert fillers(tmp_path, about(*patterns)).of(*topic) == [FILLER] * gets


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"no JSON",
        b"{}",
        about(),
        about(("a", "*"), channels=2),
        about(("a", "*"), channels=0),
        about(("a..b", "*")),
        b'{"patterns": [["a", "*"]], "channels": "1"}',
    ],
)
def test_an_entry_that_does_not_tell_gets_those_of_every_topic(tmp_path: Path, text: bytes | None) -> None:
    assert fillers(tmp_path, text).of("b", "k") == [FILLER]


@pytest.mark.parametrize("link", [{"blocking": False}, {"shown": 0}])
def test_none_go_to_drop_ingresses_or_to_those_that_have_not_joined(
    tmp_path: Path, link: dict[str, Any]
) -> None:
    assert fillers(tmp_path, about(("a", "*")), **link).of("a", "k") == []


def test_a_new_epoch_is_read_anew(tmp_path: Path) -> None:
    made = fillers(tmp_path, about(("a", "*")))
    assert made.of("b", "k") == []
    later = Entry(ID, 4, "block")
    (tmp_path / later.name).write_bytes(about(("b", "*")))
    link: Any = SimpleNamespace(
        entry=later, lane=SimpleNamespace(blocking=True), shown=4, path=str(tmp_path / f"{ID}.sock")
    )
    made.update([link])
    assert made.of("b", "k") == [FILLER.replace(b"3~", b"4~")]
