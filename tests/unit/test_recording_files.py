"""The files of a recording: what a ring keeps, names in a series, and amounts on the command line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click
import pytest
from mcap.reader import make_reader

from zbus.cli.amounts import DURATION, SPLIT
from zbus.event import Gap
from zbus.recording.chunk import Chunk, PackedChunk, message_head, pack
from zbus.recording.file import Description, Topic
from zbus.recording.room import release, reserve
from zbus.recording.schema import EVENT, body_template, gap_body
from zbus.recording.sinks import Ring, Series, Split
from zbus.recording.unwritten import Unwritten
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


class Clocks:
    """Stands for `time`: what it says is set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.wall * SECOND)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr("zbus.recording.sinks.time", clocks)
    return clocks


def test_a_ring_keeps_the_last_seconds(tmp_path: Path, clocks: Clocks) -> None:
    ring = Ring(str(tmp_path / "r.mcap"), WHAT, lambda: b"[]", 10.0)
    for seq in range(1, 31):
        clocks.now += 1.0
        ring.write(packed(seq, seq))
    ring.save()
    report = verify(str(tmp_path / "r-0001.mcap"))
    assert (report.verdict, report.events) == ("complete", 11)
    assert ring.written.files == [str(tmp_path / "r-0001.mcap")]


def test_a_ring_saves_nothing_that_has_become_too_old(tmp_path: Path, clocks: Clocks) -> None:
    ring = Ring(str(tmp_path / "r.mcap"), WHAT, lambda: b"[]", 10.0)
    ring.write(packed(1, 1))
    clocks.now += 20.0
    ring.finish(Unwritten())
    assert verify(str(tmp_path / "r-0001.mcap")).events == 0


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_ring_does_not_mind_when_the_clock_is_set(tmp_path: Path, clocks: Clocks, jump: int) -> None:
    ring = Ring(str(tmp_path / "r.mcap"), WHAT, lambda: b"[]", 10.0)
    clocks.wall = 10_000.0
    for seq in range(1, 21):
        clocks.now += 1.0
        clocks.wall += 1.0 + (jump if seq == 15 else 0)
        ring.write(packed(seq, clocks.time_ns()))
    ring.save()
    assert verify(str(tmp_path / "r-0001.mcap")).events == 11


def test_a_series_goes_on_after_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "s-0001.mcap").write_text("mine")
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]", Split(size=1))
    series.write(packed(1, 5))
    series.write(packed(2, 6))
    series.finish(Unwritten())
    assert [Path(name).name for name in series.written.files] == ["s-0002.mcap", "s-0003.mcap"]
    assert (tmp_path / "s-0001.mcap").read_text() == "mine"
    assert series.written.events == 2


def test_a_series_is_split_by_time(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]", Split(seconds=1e-9))
    for seq in (1, 2, 3):
        series.write(packed(seq, seq))
    series.finish(Unwritten())
    assert len(series.written.files) == 3


def test_a_hole_that_nobody_recorded_is_found(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    for seq in (4, 5, 9):
        series.write(packed(seq, seq))
    series.finish(Unwritten())
    report = verify(str(tmp_path / "s.mcap"))
    assert report.verdict == "lossy"
    assert [loss[:6] for loss in report.losses] == [("0" * 8, "a", "b", 3, 6, 8)]


def test_what_was_left_out_as_malformed_makes_it_lossy(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    series.write(packed(1, 1)._replace(malformed=2))
    series.finish(Unwritten())
    report = verify(str(tmp_path / "s.mcap"))
    assert (report.verdict, report.malformed) == ("lossy", 2)


def test_losses_are_summed_up_by_stream(tmp_path: Path) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    series.write(packed(1, 1)._replace(gaps=[Gap("f" * 8, "a", "b", 2, 4), Gap("f" * 8, "a", "b", 9, 9)]))
    series.finish(Unwritten())
    assert series.written.lost == 4


# what could not be written


def unwritten(*chunks: PackedChunk) -> Unwritten:
    found = Unwritten()
    for chunk in chunks:
        found.add(chunk)
    return found


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_what_is_in_a_chunk_is_counted_by_stream(compression: str) -> None:
    chunk = Chunk()
    chunk.runs.append((3, 5, 0))
    for origin, seq in (("0" * 8, 4), ("f" * 8, 1), ("0" * 8, 7)):
        body = body_template("a", "b", origin) % (b'"/x"', b'{"first":1}', seq)
        chunk.parts += message_head(3, len(body), seq, 5, 5), body
    body = gap_body(Gap("0" * 8, "a", "b", 8, 9))
    chunk.parts += message_head(1, len(body), 8, 5, 5), body
    found = unwritten(pack(chunk, compression), packed(12, 6))
    assert found.events == 4
    assert found.streams == {("0" * 8, "a", "b"): (3, 4, 12), ("f" * 8, "a", "b"): (1, 1, 1)}


def test_room_for_the_end_is_set_aside_before_a_chunk_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 0

    def reserve(_: int, begin: int, end: int) -> None:
        nonlocal room
        if end > 400_000:
            no_room()
        assert begin == room
        room = end

    monkeypatch.setattr("zbus.recording.file.reserve", reserve)
    series = Series(path := str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    assert room == 256 * 1024
    series.write(packed(1, 5))
    size = Path(path).stat().st_size
    assert room >= size + 256 * 1024
    large = packed(2, 6, "x" * 200_000)
    with pytest.raises(OSError, match="full"):
        series.write(large)
    assert Path(path).stat().st_size == size
    series.finish(unwritten(large))
    assert Path(path).stat().st_size < room
    report = verify(path)
    assert (report.verdict, report.events, report.unwritten) == ("lossy", 1, 1)
    assert report.losses == [("0" * 8, "a", "b", 1, 2, 2, 1, 5e-9)]


def test_what_is_set_aside_does_not_make_a_file_longer(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        reserve(file.fileno(), 0, 65_536)
        assert os.fstat(file.fileno()).st_size == 0
        release(file.fileno(), 0)
        assert os.fstat(file.fileno()).st_blocks == 0
    reader, writer = os.pipe()
    reserve(writer, 0, 65_536)
    os.close(reader)
    os.close(writer)


def test_an_end_that_does_not_fit_is_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zbus.recording.file.McapFile._summary", lambda *_: no_room())
    series = Series(path := str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    series.write(packed(1, 5))
    with pytest.raises(OSError, match="full"):
        series.finish(unwritten(packed(2, 6)))
    report = verify(path)
    assert (report.verdict, report.damage, report.unwritten) == ("lossy", "", 1)
    with open(path, "rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert [message.sequence for _, _, message in reader.iter_messages()] == [1]


def test_a_file_that_cannot_be_begun_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbus.recording.file.reserve", lambda *_: no_room())
    with pytest.raises(OSError, match="full"):
        Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]")
    assert os.listdir(tmp_path) == []


def test_when_the_next_file_cannot_be_made_nothing_is_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = Series(str(tmp_path / "s.mcap"), WHAT, lambda: b"[]", Split(size=1))
    series.write(packed(1, 5))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("zbus.recording.file.reserve", lambda *_: no_room())
        series.write(packed(2, 6))
    series.finish(unwritten(packed(2, 6)))
    written = series.written
    assert (written.events, written.unwritten, len(written.files)) == (1, 1, 1)
    assert written.size == Path(written.files[0]).stat().st_size
    assert os.listdir(tmp_path) == ["s-0001.mcap"]
    assert verify(written.files[0]).unwritten == 1


def no_room() -> None:
    raise OSError(errno.ENOSPC, "full")


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
