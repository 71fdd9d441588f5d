"""`zbus record` when its file cannot be written any more: it ends, and tells exactly what is missing."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

import zbus
from zbus.recording.file import McapFile
from zbus.recording.session import Request, Session
from zbus.recording.tap import TapBus
from zbus.recording.verify import Report, verify

from .cli import ended, run
from .process import LIMIT
from .recordings import bodies, recording, until

pytestmark = pytest.mark.usefixtures("zbus_dir")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.mcap"


def limit_files(pid: int, size: int) -> None:
    """Let a process write no file beyond `size` bytes. To it that is like a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def missing(report: Report) -> list[tuple[str, str, int, int, int]]:
    return [(loss.system, loss.kind, loss.events, loss.first, loss.last) for loss in report.losses]


def failed(process: subprocess.Popen[bytes]) -> str:
    """Return the line that a recorder ends with by itself."""
    out, err, code = ended(process)
    assert (out, code) == ("", 1)
    assert err.count("\n") == 1
    return err


def test_a_full_disk_costs_what_is_told_and_no_more(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [("/x", number) for number in range(8)])
        until(file, 8)
        limit_files(process.pid, file.stat().st_size + 100_000)
        # One frame, so all of it has come when it does not fit. Nothing more follows: the recorder is idle.
        bus.send_many("a", "b", [("/x", os.urandom(200_000).hex()), ("/y", 1), ("/z", 2)])
        said = failed(process)
    numbers = "8 events were written, and can be read; 3 more were not, and are lost"
    assert said == f"zbus: {file}: File too large; {numbers}\n"
    assert [body["data"] for body in bodies(file)] == [*range(8)]
    report = verify(str(file))
    assert (report.verdict, report.events, report.unwritten) == ("lossy", 8, 3)
    assert missing(report) == [("a", "b", 3, 9, 11)]
    checked = run("record", "--verify", str(file))
    assert checked.returncode == 1
    lines = checked.stdout.splitlines()
    assert lines[1] == "lost: 3 events, all of them because the file could not be written"
    assert lines[2].startswith("  3 of a b from ")


def test_what_waits_in_the_queue_is_counted_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(McapFile, "write", full)
    with TapBus() as tapped, zbus.Bus() as bus:
        session = Session(tapped, None, Request(str(file)))
        bus.send_many("a", "b", [("/x", number) for number in range(100)])
        for number in range(3000):
            bus.send("a", "bc"[number % 2], "/x", number)
        bus.send("raw", "b", "/x", b"\0\xff")
        bus.flush(timeout=LIMIT)
        with pytest.raises(OSError, match="full"):
            session.run()  # until all that is counted: nobody stops it
    assert (session.written.events, session.written.unwritten) == (0, 3101)
    report = verify(str(file))
    assert (report.verdict, report.events, report.unwritten) == ("lossy", 0, 3101)
    assert missing(report) == [("a", "b", 1600, 1, 1600), ("a", "c", 1500, 1, 1500), ("raw", "b", 1, 1, 1)]


def test_json_tells_what_is_missing_too(file: Path) -> None:
    with recording(file, "--json") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/1")
        until(file, 1)
        limit_files(process.pid, file.stat().st_size + 100_000)
        bus.send("a", "b", "/2", os.urandom(200_000))
        out, err, code = ended(process)
    said = json.loads(out)
    assert (said["events"], said["unwritten"], said["files"], code) == (1, 1, [str(file)], 1)
    assert err.endswith("; 1 events were written, and can be read; 1 more were not, and are lost\n")


def test_a_file_that_is_removed_meanwhile_is_an_error(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("a", "b", "/1")
        until(file, 1)
        file.unlink()
        bus.send("a", "b", "/2")
        said = failed(process)
    numbers = "0 events were written, and can be read; 2 more were not, and are lost"
    assert said == f"zbus: {file}: it was removed while it was recorded; {numbers}\n"
    assert not file.exists()


def test_a_file_that_is_removed_at_the_end_is_an_error(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("a", "b", "/1")
        until(file, 1)
        file.unlink()
        process.send_signal(signal.SIGINT)
        said = failed(process)
    assert said.endswith("; 0 events were written, and can be read; 1 more were not, and are lost\n")


def test_when_the_next_file_cannot_be_made_this_one_tells_what_is_missing(file: Path) -> None:
    moved = file.parent / "moved"
    folder = file.parent / "here"
    folder.mkdir()
    with recording(folder / "all.mcap", "--split", "10kB") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/1", os.urandom(20_000))
        until(folder / "all-0001.mcap", 1)
        folder.rename(moved)
        bus.send("a", "b", "/2", os.urandom(20_000))
        said = failed(process)
    numbers = "1 events were written, and can be read; 1 more were not, and are lost"
    assert said == f"zbus: {folder / 'all.mcap'}: No such file or directory; {numbers}\n"
    report = verify(str(moved / "all-0001.mcap"))
    assert (report.verdict, report.events, missing(report)) == ("lossy", 1, [("a", "b", 1, 2, 2)])


def test_a_pipe_whose_reader_goes_away_is_an_error(file: Path) -> None:
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    with recording(file) as process, zbus.Bus() as bus:
        os.close(reader)
        bus.send("a", "b", "/1")
        said = failed(process)
    assert "Broken pipe; 0 events were written, and can be read; 1 more were not, and are lost\n" in said


def test_a_pipe_that_nobody_reads_is_one_line(file: Path) -> None:
    os.mkfifo(file)
    refused = run("record", str(file))
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert refused.stderr == f"zbus: {file}: nobody reads this pipe: start what reads it first\n"


def test_what_goes_into_a_pipe_is_a_recording(file: Path) -> None:
    with recording(Path("/dev/stdout")) as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [("/x", number) for number in range(3)])
        bus.flush(timeout=LIMIT)
        process.send_signal(signal.SIGINT)
        written, _ = process.communicate(timeout=LIMIT)
    file.write_bytes(written)
    assert [body["data"] for body in bodies(file)] == [0, 1, 2]
    assert verify(str(file)).verdict == "complete"


def test_a_device_without_room_is_one_line() -> None:
    refused = run("record", "/dev/full")
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert refused.stderr == "zbus: /dev/full: No space left on device\n"


# memory that cannot be saved


def test_what_cannot_be_saved_now_is_saved_later(file: Path) -> None:
    first = file.with_name("all-0001.mcap")
    with recording(file, "--last", "1h") as process, zbus.Bus() as bus:
        limit_files(process.pid, 100_000)
        bus.send("a", "b", "/1", os.urandom(200_000))
        bus.flush(timeout=LIMIT)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        said = process.stderr.readline().decode()
        kept = "the events are still in memory, and recording goes on"
        assert said == f"zbus: {file}: File too large; {kept}\n"
        assert not first.exists()
        limit_files(process.pid, resource.RLIM_INFINITY)
        process.send_signal(signal.SIGINT)
        assert ended(process)[2] == 0
    assert [body["path"] for path in file.parent.glob("*.mcap") for body in bodies(path)] == ["/1"]


def test_memory_that_does_not_fit_at_the_end_is_told(file: Path) -> None:
    with recording(file, "--last", "1h") as process, zbus.Bus() as bus:
        limit_files(process.pid, 100_000)
        bus.send("a", "b", "/1", os.urandom(200_000))
        bus.flush(timeout=LIMIT)
        process.send_signal(signal.SIGINT)
        said = failed(process)
    assert said.endswith("; 0 events were written, and can be read; 1 more were not, and are lost\n")
    report = verify(str(file.with_name("all-0001.mcap")))
    assert (report.verdict, missing(report)) == ("lossy", [("a", "b", 1, 1, 1)])


# ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_the_end_short(file: Path, number: signal.Signals) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [("/x", number) for number in range(1000)])
        until(file, 1000)
        process.send_signal(number)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, err, _ = ended(process)
    assert "zbus: recorded 1,000 events of 1 topics: " in err
    assert verify(str(file)).verdict == "complete"
