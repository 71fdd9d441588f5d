"""`zbus replay`: what was recorded is sent again, marked as replayed."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zbus
from zbus.recording.chunk import Chunk, message_head, pack
from zbus.recording.file import Description, Topic
from zbus.recording.replay import REPLAYED, Pace
from zbus.recording.schema import EVENT, body_template
from zbus.recording.sinks import Series
from zbus.recording.unwritten import Unwritten

from .cli import SECONDS, ZBUS, ended, run, started
from .process import receive
from .quiet import read_all
from .recordings import finished, recording, until
from .terminal import terminal

pytestmark = pytest.mark.usefixtures("zbus_dir")
SENT: list[tuple[str, str, str, Any]] = [
    ("orders.eu", "paid", "/1", {"ü": [1, None]}),
    ("orders.eu", "paid", "/2", 0.1),
    ("raw", "b", "/bytes", b"\0\xff"),
    ("orders.eu", "paid", "/3", None),
    ("orders.us", "sent", "/4", "text"),
]


def recorded(file: Path, send: Callable[[zbus.Bus], object], events: int) -> Path:
    """Record on a bus of its own what `send` sends."""
    with recording(file, "--bus", "before") as process, zbus.Bus("before") as bus:
        send(bus)
        until(file, events)
        finished(process)
    return file


def send_all(bus: zbus.Bus) -> None:
    for event in SENT:
        bus.send(*event)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return recorded(tmp_path / "all.mcap", send_all, len(SENT))


@pytest.mark.parametrize("how", [("--as-fast-as-possible",), ("--speed", "100"), ()])
def test_the_same_events_arrive_and_tell_that_they_are_replayed(file: Path, how: tuple[str, ...]) -> None:
    with zbus.Bus() as bus, bus.subscribe("*") as sub:
        replayed = run("replay", str(file), *how)
        assert (replayed.stdout, replayed.stderr, replayed.returncode) == ("", "zbus: sent 5 events\n", 0)
        found = [receive(sub) for _ in SENT]
    assert [(evt.system, evt.kind, evt.path, evt.data) for evt in found] == SENT
    assert {evt.origin[: len(REPLAYED)] for evt in found} == {REPLAYED}
    assert len({evt.origin for evt in found}) == 1


def test_patterns_select(file: Path) -> None:
    with zbus.Bus() as bus, bus.subscribe("*") as sub:
        assert run("replay", str(file), "orders.*", "paid", "--as-fast-as-possible").returncode == 0
        assert [receive(sub).path for _ in range(3)] == ["/1", "/2", "/3"]
        bus.send("a", "b", "/end")
        assert receive(sub).path == "/end"


def test_many_events_keep_their_order(tmp_path: Path) -> None:
    def send(bus: zbus.Bus) -> None:
        for number in range(5000):
            bus.send("a", "bc"[number // 700 % 2], "/x", number)

    file = recorded(tmp_path / "many.mcap", send, 5000)
    with zbus.Bus() as bus, bus.subscribe("*", overflow="block") as sub:
        assert run("replay", str(file), "--as-fast-as-possible").returncode == 0
        assert [receive(sub).data for _ in range(5000)] == [*range(5000)]
        assert sub.lost == 0


def test_it_is_seen_on_the_roster_and_loops_until_a_signal(file: Path) -> None:
    with (
        zbus.Bus() as bus,
        bus.subscribe("raw") as sub,
        started("replay", str(file), "--loop", "--speed", "1000") as process,
    ):
        origins = {receive(sub).origin for _ in range(3)}
        [peer] = [peer for peer in zbus.peers() if peer.pid == process.pid]
        assert peer.process == "zbus-replay"
        assert {*peer.origins} >= origins
        process.send_signal(signal.SIGINT)
        assert ended(process) == ("", "", 130)


def test_a_pause_lasts_until_it_is_over(file: Path) -> None:
    with (
        zbus.Bus() as bus,
        bus.subscribe("orders.us") as sub,
        started("replay", str(file), "--loop", "--as-fast-as-possible") as process,
    ):
        receive(sub)
        process.send_signal(signal.SIGUSR1)
        while True:
            try:
                sub.channel().receive(timeout=1.0)
            except zbus.Timeout:
                break
        process.send_signal(signal.SIGUSR1)
        receive(sub)
        process.send_signal(signal.SIGINT)
        assert ended(process) == ("", "", 130)


def test_the_space_bar_pauses_and_goes_on(file: Path) -> None:
    with (
        zbus.Bus() as bus,
        bus.subscribe("orders.us") as sub,
        terminal("replay", str(file), "--loop", "--as-fast-as-possible") as screen,
    ):
        receive(sub)
        screen.type(" ")
        screen.await_text("paused")
        read_all(sub, screen.process.pid)  # what was on its way
        assert read_all(sub, screen.process.pid) == []
        screen.type(" ")
        receive(sub)
        screen.process.send_signal(signal.SIGINT)
        assert screen.ended() == 130


def test_a_background_job_goes_on(file: Path) -> None:
    """The kernel stops one that asks its terminal for keys."""
    job = f"{shlex.join(ZBUS)} replay {shlex.quote(str(file))} --loop --as-fast-as-possible & wait $!"
    with (
        zbus.Bus() as bus,
        bus.subscribe("orders.us") as sub,
        terminal(command=("setsid", "--ctty", "sh", "-m", "-c", job)) as screen,
    ):
        assert receive(sub, SECONDS).path == "/4"
        [replaying] = [peer for peer in zbus.peers() if peer.role == "member" and peer.pid != os.getpid()]
        os.kill(replaying.pid, signal.SIGINT)
        assert screen.ended() == 130


def test_without_a_terminal_it_goes_on(file: Path) -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.us") as sub:
        for redirected in ("</dev/null", "<&-"):
            command = f"{shlex.join(ZBUS)} replay {shlex.quote(str(file))} {redirected}"
            subprocess.run(command, shell=True, check=True, timeout=SECONDS)
            assert receive(sub).path == "/4"


# time between events


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a recording of three events that were sent an hour apart."""
    return spaced(tmp_path / "slow.mcap", 1, 2, 3)


def spaced(file: Path, *hours: int) -> Path:
    """Return a recording of events that were sent at these hours, each in a chunk of its own."""
    path = str(file)
    topics = {3: Topic(3, "a/b", EVENT, {})}
    series = Series(path, Description("test", {"bus": "b"}, topics), lambda: b"[]")
    for seq, hour in enumerate(hours, 1):
        chunk, sent = Chunk(), (1_000_000 + hour * 3600) * 10**9
        body = body_template("a", "b", "0" * 8) % (b'"/%d"' % seq, b"null", seq)
        chunk.runs.append((3, sent, 0))
        chunk.parts += message_head(3, len(body), seq, sent, sent), body
        series.write(pack(chunk, "none"))
    series.finish(Unwritten())
    return file


@pytest.mark.parametrize("how", [("--speed", "1e6"), ("--as-fast-as-possible",)])
def test_hours_between_events_pass_as_fast_as_told(slow: Path, how: tuple[str, ...]) -> None:
    with zbus.Bus() as bus, bus.subscribe("a") as sub:
        assert run("replay", str(slow), *how).returncode == 0
        assert [receive(sub).path for _ in range(3)] == ["/1", "/2", "/3"]


def test_an_event_waits_for_its_time(slow: Path) -> None:
    assert_sent_at_once(slow, "/1")


def test_an_event_waits_for_its_time_after_the_clock_was_set_back(tmp_path: Path) -> None:
    """And what is then earlier than everything before does not wait."""
    assert_sent_at_once(spaced(tmp_path / "set.mcap", 100, 1, 2), "/1", "/2")


def assert_sent_at_once(file: Path, *paths: str) -> None:
    """Replay a recording until these events have come, and see that no other one has."""
    with (
        zbus.Bus() as bus,
        bus.subscribe("a") as sub,
        started("replay", str(file)) as process,
    ):
        assert [receive(sub).path for _ in paths] == [*paths]
        process.send_signal(signal.SIGINT)
        assert ended(process)[2] == 130
        bus.send("a", "b", "/end")
        assert receive(sub).path == "/end"


def test_a_terminal_shows_how_far_it_is(file: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    command = [*ZBUS, "replay", str(file), "--loop", "--as-fast-as-possible"]
    with (
        zbus.Bus() as bus,
        bus.subscribe("raw") as sub,
        open(ours, "r+b", buffering=0) as terminal,
        subprocess.Popen(command, stdin=theirs, stderr=theirs, start_new_session=True, env=env) as process,
    ):
        os.close(theirs)
        receive(sub)
        shown = b""
        while b"events" not in shown:
            shown += terminal.read(4096)
        assert b"all.mcap" in shown
        process.send_signal(signal.SIGINT)
        try:
            while terminal.read(65_536):
                pass
        except OSError:  # how Linux reports the end
            pass
        assert process.wait(SECONDS) == 130


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "it ends too early; read 0 of 0 bytes"), (b"x" * 99, "not a valid MCAP file")],
)
def test_what_is_no_recording_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.mcap").write_bytes(content)
    failed = run("replay", str(tmp_path / "x.mcap"))
    assert (failed.stdout, failed.returncode) == ("", 3)
    assert said in failed.stderr


def test_a_recording_that_was_cut_short_is_sent_up_to_there(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    cut = run("replay", str(file), "--as-fast-as-possible")
    assert cut.returncode == 3
    assert cut.stderr.startswith("zbus: sent 5 events\n")
    assert "is damaged: " in cut.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("nowhere.mcap",), 2, "zbus: Invalid value for 'FILE'"),
        (("{}", "--speed", "0"), 2, "zbus: Invalid value for '--speed'"),
        (("{}", "ord*"), 1, "zbus: 'ord*' is not a system pattern"),
    ],
)
def test_a_failure_is_one_line(file: Path, args: tuple[str, ...], code: int, message: str) -> None:
    failed = run("replay", *(arg.format(file) for arg in args))
    assert (failed.stdout, failed.returncode) == ("", code)
    assert failed.stderr.startswith(message)
    assert failed.stderr.count("\n") == 1


# the pace


def test_events_are_due_as_far_apart_as_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("zbus.recording.replay.time.monotonic", lambda: now)
    pace = Pace(2.0)
    assert pace.left(10_000_000_000) == 0.0
    assert pace.left(12_000_000_000) == pytest.approx(1.0)
    now = 50.6
    assert pace.left(12_000_000_000) == pytest.approx(0.4)
    pace.toggle()
    now = 70.0
    assert pace.left(12_000_000_000) > 0
    pace.toggle()
    assert pace.left(12_000_000_000) == pytest.approx(0.4)
    now = 70.5
    assert pace.left(12_000_000_000) == 0.0
    assert pace.left(5) == 0.0
    pace.restart()
    assert pace.left(99) == 0.0
    assert Pace(None).left(2**62) == 0.0
