"""The command line with standard streams that are closed, full, or a pipe that nobody reads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import zbus

from .cli import ZBUS, run, untimed

pytestmark = pytest.mark.usefixtures("zbus_dir", "interruptible")

SECONDS = 100.0  # a dozen programs that start at once on a busy machine take their time
ALL = [
    " ".join(these) for count in range(4) for these in itertools.combinations(("<&-", ">&-", "2>&-"), count)
]
FEW = [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"]
FULL = [">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "<&- >/dev/full"]
CLOSED = "zbus: stdout is closed, so there is nowhere to print to\n"


def started(*args: str, streams: str) -> subprocess.Popen[str]:
    """Start `zbus ARGS` with streams as a shell is told to redirect them; stdin is else empty."""
    return subprocess.Popen(
        ["sh", "-c", f'exec "$0" -W error -m zbus "$@" {streams}', sys.executable, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(*args: str, streams: list[str]) -> dict[str, tuple[str, str, int]]:
    """Run `zbus ARGS` with each of these redirections; return stdout, stderr and the exit code of each."""
    processes = {which: started(*args, streams=which) for which in streams}
    found = {}
    for which, process in processes.items():
        out, err = process.communicate(timeout=SECONDS)
        found[which] = out, err, process.returncode
    return found


def test_an_event_that_was_sent_is_a_success_whatever_is_closed(zbus_bus: zbus.Bus) -> None:
    sub = zbus_bus.subscribe("a")
    every = [*ALL, *FULL]
    assert results("send", "a", "b", "/c", "1", streams=every) == dict.fromkeys(every, ("", "", 0))
    for _ in every:
        assert sub.channel().receive(timeout=30)[1]
    zbus_bus.send("a", "b", "/end")
    evt, _ = sub.channel().receive(timeout=30)
    assert evt is not None
    assert evt.path == "/end"


def test_data_from_a_closed_stdin_is_an_error_and_nothing_is_sent(zbus_bus: zbus.Bus) -> None:
    sub = zbus_bus.subscribe("a")
    every = [streams for streams in ALL if "<&-" in streams]
    for streams, (out, err, code) in results("send", "a", "b", "/c", "-", streams=every).items():
        assert (out, code) == ("", 1)
        assert err == ("" if "2>&-" in streams else "zbus: stdin is closed, so there is nothing to read\n")
    with pytest.raises(zbus.Timeout):
        sub.channel().receive(timeout=0)


@pytest.mark.parametrize(
    ("command", "seen", "every"),
    [
        ("ls", "subscriber", [*ALL, *FULL]),
        ("ls --json", '"role":"subscriber"', FEW),
        ("--help", "Usage: ", FEW),
        ("--version", "zbus ", FEW),
    ],
    ids=["ls", "ls --json", "--help", "--version"],
)
def test_what_is_there_to_print_needs_stdout_alone(
    zbus_bus: zbus.Bus, command: str, seen: str, every: list[str]
) -> None:
    _sub = zbus_bus.subscribe("a")
    for streams, (out, err, returned) in results(*command.split(), streams=every).items():
        lines = [line for line in err.splitlines() if not line.startswith("zbus: ")]
        assert lines == [], streams
        if ">&-" in streams.split():
            assert (out, returned) == ("", 1), streams
            assert err == ("" if "2>&-" in streams else CLOSED)
        elif ">/dev/full" in streams.split():
            assert (out, returned) == ("", 1), streams
            assert err == ("" if "2>" in streams else "zbus: No space left on device\n")
        else:
            assert (seen in out, err, returned) == (True, "", 0), streams


def test_sub_prints_with_stdin_and_stderr_closed_and_else_says_why_it_cannot(zbus_bus: zbus.Bus) -> None:
    for streams, (out, err, code) in results(
        "sub", "a", streams=[s for s in ALL if ">&-" in s.split()]
    ).items():
        assert (out, err, code) == ("", "" if "2>&-" in streams else CLOSED, 1)
    readable = ["<&-", "2>&-", "<&- 2>&-", "2>/dev/full", ">/dev/full", ">/dev/full 2>/dev/full"]
    processes = {which: started("sub", "a", "--count", "1", streams=which) for which in readable}
    while sum(peer.role == "subscriber" for peer in zbus.peers()) < len(readable):
        assert all(process.poll() is None for process in processes.values())
    zbus_bus.send("a", "b", "/c")
    for which, process in processes.items():
        out, err = process.communicate(timeout=SECONDS)
        full = ">/dev/full" in which.split()
        shown = untimed(out) if out else out
        assert (shown, process.returncode) == (("", 1) if full else ("a  b  /c\n", 0)), which
        told = (
            "zbus: subscribed to a, every kind, on bus default\n" + full * "zbus: No space left on device\n"
        )
        assert err == ("" if "2>" in which else told)


@pytest.mark.parametrize("streams", [">&-", "<&- >&-", ">&- 2>&-"])
def test_demo_says_that_it_has_nowhere_to_print_to(zbus_dir: str, streams: str) -> None:
    assert results("demo", streams=[streams])[streams] == ("", "" if "2>&-" in streams else CLOSED, 1)


@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_demo_runs_without_stdin_and_stderr(zbus_dir: str, streams: str) -> None:
    out, err, code = results("demo", "--seconds", "0.5", streams=[streams])[streams]
    assert (err, code) == ("", 0)
    assert "events sent" in out


@pytest.fixture
def unread() -> Iterator[int]:
    """Give the writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    "command", ["ls", "ls --json", "send a b /c", "--help", "--version", "sub a", "demo"]
)
def test_that_the_reader_of_stdout_has_gone_is_no_failure(
    zbus_bus: zbus.Bus, unread: int, command: str
) -> None:
    done = subprocess.run(
        [*ZBUS, *command.split()], stdout=unread, stderr=subprocess.PIPE, text=True, timeout=SECONDS
    )
    said = "zbus: subscribed to a, every kind, on bus default\n" if command == "sub a" else ""
    assert (done.stderr, done.returncode) == (said, 0)


@pytest.mark.parametrize(
    ("command", "out", "code"),
    [
        ("ls --json --bus nobody", "[]\n", 0),
        ("sub a --timeout 0", "", 1),
        ("send a b /c", "", 0),
        ("nonsense", "", 2),
    ],
)
def test_a_notice_that_nobody_reads_changes_nothing(
    zbus_dir: str, unread: int, command: str, out: str, code: int
) -> None:
    done = subprocess.run(
        [*ZBUS, *command.split()], stdout=subprocess.PIPE, stderr=unread, text=True, timeout=SECONDS
    )
    assert (done.stdout, done.returncode) == (out, code)


def test_what_the_bus_opens_does_not_take_the_place_of_a_closed_stream() -> None:
    program = """
import os, sys
from zbus.cli.standard_streams import guard
for number in (0, 1, 2):
    os.close(number)
guard()
assert [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
assert all(os.get_inheritable(number) for number in (0, 1, 2))
assert os.open("/", os.O_RDONLY) > 2
os._exit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS)
    assert (done.stderr, done.returncode) == ("", 7)


def test_ls_that_fails_has_its_exit_code_whatever_is_closed() -> None:
    assert run("ls", "--bus", "a/b").returncode == 1
    for streams, (out, _, code) in results("ls", "--bus", "a/b", streams=ALL).items():
        assert (out, code) == ("", 1), streams
    for streams, (out, _, code) in results("nonsense", streams=FEW).items():
        assert (out, code) == ("", 2), streams
