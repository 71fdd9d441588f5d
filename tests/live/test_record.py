"""`zbus record`: what is in the file, whatever ends the recorder, and what `--verify` says of it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader

import zbus
from zbus.recording.verify import verify

from .cli import SECONDS, ended, run, run_without
from .process import LIMIT, stop
from .recordings import bodies, finished, recorded, recording, until

pytestmark = pytest.mark.usefixtures("zbus_dir")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "all.mcap"


def test_the_package_mcap_reads_what_was_sent(file: Path) -> None:
    before = time.time()
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("orders.eu", 'a"b', "/ü\n", {"ü": [1, None, 0.1]})
        bus.send("orders.eu", 'a"b', "/2", "%d")
        bus.send("raw", "b", "/bytes", b"\0\xff")
        bus.send("raw", "b", "/more", b"")
        bus.send("raw", "b", "/none")
        bus.send_many("many", "m", [("/1", 1), ("/2", None)])
        until(file, 7)
        finished(process)
    topics = [topic for topic, _ in recorded(file)]
    assert topics == ['orders.eu/a"b'] * 2 + ["raw/b"] * 3 + ["many/m"] * 2
    found = bodies(file)
    assert {body.pop("origin") for body in found} == {found_origin(file)}
    orders, raw, many = (
        {"system": s, "kind": k} for s, k in (("orders.eu", 'a"b'), ("raw", "b"), ("many", "m"))
    )
    assert found == [
        {**orders, "path": "/ü\n", "data": {"ü": [1, None, 0.1]}, "seq": 1},
        {**orders, "path": "/2", "data": "%d", "seq": 2},
        {**raw, "path": "/bytes", "base64": base64.b64encode(b"\0\xff").decode(), "seq": 1},
        {**raw, "path": "/more", "base64": "", "seq": 2},
        {**raw, "path": "/none", "data": None, "seq": 3},
        {**many, "path": "/1", "data": 1, "seq": 1},
        {**many, "path": "/2", "data": None, "seq": 2},
    ]
    with file.open("rb") as opened:
        for schema, channel, message in make_reader(opened).iter_messages():
            assert schema is not None
            assert (schema.encoding, channel.message_encoding) == ("jsonschema", "json")
            assert json.loads(schema.data)["type"] == "object"
            assert before * 1e9 <= message.publish_time <= message.log_time + 1e9 <= time.time() * 1e9 + 1e9
            assert channel.metadata.keys() == {"system", "kind"}


def found_origin(file: Path) -> str:
    """Return the only origin of the member that the attached roster shows beside the recorder."""
    with file.open("rb") as opened:
        rosters = {one.name: json.loads(one.data) for one in make_reader(opened).iter_attachments()}
    assert rosters.keys() == {"roster-start.json", "roster-end.json"}
    assert [peer["process"] for peer in rosters["roster-start.json"]] == ["zbus", "zbus"]
    [origin] = {origin for peer in rosters["roster-end.json"] for origin in peer["origins"]} - {
        origin for peer in rosters["roster-start.json"] for origin in peer["origins"]
    }
    return str(origin)


def test_a_pattern_and_a_kind_select(file: Path) -> None:
    with recording(file, "orders.*", "paid") as process, zbus.Bus() as bus:
        for system, kind in (
            ("orders.eu", "paid"),
            ("orders.eu", "sent"),
            ("order", "paid"),
            ("orders.us", "paid"),
        ):
            bus.send(system, kind, "/x")
        until(file, 2)
        finished(process)
    assert [topic for topic, _ in recorded(file)] == ["orders.eu/paid", "orders.us/paid"]


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_every_compression_can_be_read(file: Path, compression: str) -> None:
    with recording(file, "--compression", compression) as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [("/x", number) for number in range(1000)])
        finished_after(file, 1000, process)
    assert [body["data"] for body in bodies(file)] == [*range(1000)]
    with file.open("rb") as opened:
        summary = make_reader(opened).get_summary()
    assert summary is not None
    assert {chunk.compression for chunk in summary.chunk_indexes} == {compression.replace("none", "")}


def finished_after(path: Path, events: int, process: subprocess.Popen[bytes]) -> str:
    until(path, events)
    return finished(process)


def test_it_says_what_it_recorded(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("a", "b", "/c")
        said = finished_after(file, 1, process)
    assert said.startswith(f"zbus: recorded 1 events of 1 topics: {file}, ")
    checked = run("record", "--verify", str(file))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("complete: 1 events of 1 topics, ")
    with recording(file.with_name("b.mcap"), "--json") as process:
        process.send_signal(signal.SIGINT)
        out, _, code = ended(process)
    assert code == 0
    assert json.loads(out).keys() == {"files", "size", "events", "lost", "unwritten", "topics"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_complete_the_file_too(file: Path, number: int, code: int) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("a", "b", "/c")
        until(file, 1)
        process.send_signal(number)
        assert ended(process)[2] == code
    assert verify(str(file)).verdict == "complete"


# losses


def test_losses_are_told_where_they_happened(file: Path) -> None:
    with recording(file, "--overflow", "drop") as process:
        with zbus.Bus() as bus:
            bus.send("a", "b", "/joined")  # a stopped process cannot join
            stop(process.pid)
            for number in range(150_000):
                bus.send("a", "b", f"/{number}")
            process.send_signal(signal.SIGCONT)
            bus.flush(timeout=None)
        report = until(file, 150_001)
        assert report.lost
        assert f", {report.lost:,} were lost: " in finished(process)
    found = recorded(file)
    due = 1
    for topic, body in found:
        assert (topic == "zbus/lost") == ("first" in body)
        assert body.get("first", body.get("seq")) == due
        due = 1 + body.get("last", body.get("seq"))
    assert due == 150_002
    lost = sum(body["events"] for topic, body in found if topic == "zbus/lost")
    with file.open("rb") as opened:
        [losses] = [one.metadata for one in make_reader(opened).iter_metadata() if one.name == "zbus.losses"]
    assert losses["events"] == str(lost)
    assert (losses["system"], losses["kind"], losses["origin"]) == ("a", "b", found[0][1]["origin"])
    checked = run("record", "--verify", "--json", str(file))
    assert checked.returncode == 1
    said = json.loads(checked.stdout)
    assert (said["verdict"], said["lost"], said["events"]) == ("lossy", lost, 150_001 - lost)
    assert run("record", "--verify", str(file)).stdout.splitlines()[1] == f"lost: {lost:,} events"


# ends


def test_a_killed_recorder_leaves_what_it_has_flushed(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [("/x", number) for number in range(100)])
        until(file, 100)
        process.kill()
        process.wait(SECONDS)
    with zbus.Bus():  # cleans up
        pass
    with file.open("rb") as opened:
        records = StreamReader(opened).records
        found = [next(one for one in records if isinstance(one, Message)) for _ in range(100)]
    assert [json.loads(one.data)["data"] for one in found] == [*range(100)]
    checked = run("record", "--verify", str(file))
    size = file.stat().st_size
    assert (checked.returncode, checked.stderr) == (3, "")
    assert checked.stdout.startswith("damaged: 100 events of 1 topics")
    assert f"damaged: it ends too early; read {size:,} of {size:,} bytes\n" in checked.stdout


# many files


def test_split_files_are_each_complete(file: Path) -> None:
    with recording(file, "--split", "50kB") as process, zbus.Bus() as bus:
        for part in range(1, 4):
            for _ in range(6):
                bus.send("a", "b", "/x", os.urandom(10_000))
            until(file.with_name(f"all-{part:04}.mcap"), 1)
        said = finished(process)
    files = sorted(file.parent.glob("all-*.mcap"))
    assert len(files) >= 3
    assert "recorded 18 events of 1 topics: " in said
    numbers = [body["seq"] for one in files for body in bodies(one)]
    assert numbers == [*range(1, 19)]
    assert {verify(str(one)).verdict for one in files} == {"complete"}


def test_the_last_seconds_are_written_on_demand(file: Path) -> None:
    first, second = file.with_name("all-0001.mcap"), file.with_name("all-0002.mcap")
    with recording(file, "--last", "1h") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/1")
        bus.flush(timeout=LIMIT)
        assert not first.exists()
        process.send_signal(signal.SIGUSR1)
        while not (first.exists() and verify(str(first)).verdict == "complete"):
            assert process.poll() is None
            time.sleep(0.05)
        assert [body["path"] for body in bodies(first)] == ["/1"]  # however new it was
        bus.send("a", "b", "/2")
        bus.flush(timeout=LIMIT)
        assert finished(process).startswith("zbus: recorded ")
    assert [body["path"] for body in bodies(second)] == ["/1", "/2"]
    assert sorted(file.parent.glob("*")) == [first, second]


# wrong command lines


def test_an_existing_file_stays(file: Path) -> None:
    file.write_text("mine")
    failed = run("record", str(file))
    assert failed.stderr == f"zbus: {file} exists already: choose another name\n"
    assert (failed.returncode, file.read_text()) == (1, "mine")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("{}", "ord*"), 1, "zbus: 'ord*' is not a system pattern"),
        (
            ("{}", "--split", "5"),
            2,
            "zbus: Invalid value for '--split': '5' is neither a size nor a duration",
        ),
        (("{}", "--last", "10MB"), 2, "zbus: Invalid value for '--last': '10MB' is not a duration"),
        (("{}", "--last", "1m", "--split", "1h"), 2, "zbus: --split and --last exclude each other"),
        (("{}", "--verify"), 2, "zbus: there is no file "),
        (("-",), 2, "zbus: '-' would be a file of that name: name a file, or /dev/stdout for a pipe"),
        (("{}/x/y.mcap",), 1, "zbus: "),
        (("{}/x/y.mcap", "--last", "1m"), 1, "zbus: "),
    ],
)
def test_a_failure_is_one_line_and_leaves_no_file(
    file: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    failed = run("record", *(arg.format(file) for arg in args))
    assert (failed.stdout, failed.returncode) == ("", code)
    assert failed.stderr.startswith(message)
    assert failed.stderr.count("\n") == 1
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"x" * 1000, b"\x89MCAP0\r\n", b"\x89MCAP0\r\n" + b"\xff" * 100])
def test_what_is_no_recording_is_damaged(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    checked = run("record", "--verify", str(file))
    assert (checked.returncode, checked.stderr) == (3, "")
    assert checked.stdout.startswith("damaged: 0 events")


def test_every_changed_byte_of_the_events_is_found(file: Path) -> None:
    with recording(file) as process, zbus.Bus() as bus:
        bus.send("a", "b", "/x", "y" * 100)
        finished_after(file, 1, process)
    whole = file.read_bytes()
    with file.open("rb") as opened:
        summary = make_reader(opened).get_summary()
    assert summary is not None
    [chunk] = summary.chunk_indexes
    for at in range(chunk.chunk_start_offset, chunk.chunk_start_offset + chunk.chunk_length + 40, 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert verify(str(file)).verdict == "damaged", at


def test_without_mcap_there_is_a_hint() -> None:
    failed = run_without("mcap", "record", "x.mcap")
    hint = "zbus: this command needs mcap and pybase64, the extra `record`: pip install mcap pybase64\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)


def test_other_commands_do_not_wait_for_mcap() -> None:
    program = "import sys, zbus.cli.app; sys.exit(bool({'mcap', 'lz4', 'zstandard'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], timeout=SECONDS).returncode == 0
