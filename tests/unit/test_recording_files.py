"""The files of a recording: what a ring keeps, names in a series, and amounts on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pytest

from zbus.cli.amounts import DURATION, SPLIT
from zbus.event import Gap
from zbus.recording.chunk import Chunk, PackedChunk, message_head, pack
from zbus.recording.file import Description, Topic
from zbus.recording.schema import EVENT, body_template
from zbus.recording.sinks import Ring, Series, Split
from zbus.recording.verify import verify

TOPICS = {3: Topic(3, "a/b", EVENT, {})}
WHAT = Description("test", {"bus": "b"}, TOPICS)
SECOND = 10**9


def packed(seq: int, log_time: int, path: str = "/x") -> PackedChunk:
    """Return a chunk with one event."""
    chunk = Chunk()
    body = body_template("a", "b", "0" * 8) % (b'"%b"' % path.encode(), b"null", seq)
    chunk.runs.append((3, log_time, 0))
    chunk.parts += message_head(3, len(body), seq, log_time, log_time), body
    return pack(chunk, "none")


def test_a_ring_keeps_the_last_seconds(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "r.mcap"), WHAT, lambda: b"[]", 10.0)
    now = time.time_ns()
    for age in range(30, 0, -1):
        ring.write(packed(31 - age, now - age * SECOND))
    ring.save()
    report = verify(str(tmp_path / "r-0001.mcap"))
    assert (report.verdict, report.events) == ("complete", 9)
    assert ring.written.files == [str(tmp_path / "r-0001.mcap")]


def test_a_ring_saves_nothing_that_has_become_too_old(tmp_path: Path) -> None:
    ring = Ring(str(tmp_path / "r.mcap"), WHAT, lambda: b"[]", 10.0)
    ring.write(packed(1, time.time_ns() - 20 * SECOND))
    ring.finish()
    assert verify(str(tmp_path / "r-0001.mcap")).events == 0


def test_a_series_goes_on_after_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "s-0001.mcap").write_text("mine")
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]", Split(size=1))
    series.write(packed(1, 5))
    series.write(packed(2, 6))
    series.finish()
    assert [Path(name).name for name in series.written.files] == ["s-0002.mcap", "s-0003.mcap"]
    assert (tmp_path / "s-0001.mcap").read_text() == "mine"
    assert series.written.events == 2


def test_a_series_is_split_by_time(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]", Split(seconds=1e-9))
    for seq in (1, 2, 3):
        series.write(packed(seq, seq))
    series.finish()
    assert len(series.written.files) == 3


def test_a_hole_that_nobody_recorded_is_found(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    for seq in (4, 5, 9):
        series.write(packed(seq, seq))
    series.finish()
    report = verify(str(tmp_path / "s.mcap"))
    assert report.verdict == "lossy"
    assert [loss[:6] for loss in report.losses] == [("0" * 8, "a", "b", 3, 6, 8)]


def test_what_was_left_out_as_malformed_makes_it_lossy(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    series.write(packed(1, 1)._replace(malformed=2))
    series.finish()
    report = verify(str(tmp_path / "s.mcap"))
    assert (report.verdict, report.malformed) == ("lossy", 2)


def test_losses_are_summed_up_by_stream(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    series.write(packed(1, 1)._replace(gaps=[Gap("f" * 8, "a", "b", 2, 4), Gap("f" * 8, "a", "b", 9, 9)]))
    series.finish()
    assert series.written.lost == 4


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5h", 5400), ("10m", 600), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)
    assert SPLIT.convert(text, None, None) == (0, pytest.approx(seconds))


@pytest.mark.parametrize(("text", "size"), [("500MB", 500_000_000), ("2GiB", 2**31), ("10kb", 10_000)])
def test_sizes(text: str, size: int) -> None:
    assert SPLIT.convert(text, None, None) == (size, 0)


@pytest.mark.parametrize("text", ["", "5", "0s", "-1s", "5 parsecs", "1e3s", "MB"])
def test_other_amounts_are_refused(text: str) -> None:
    for kind in (DURATION, SPLIT):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)
