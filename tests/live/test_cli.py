"""The command line as people and scripts use it: real processes, their output and their exit codes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

import zbus
from zbus.cli.app import cli

ZBUS = [sys.executable, "-m", "zbus"]
SECONDS = 30.0

pytestmark = pytest.mark.usefixtures("zbus_dir")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let children get SIGINT even where this run is a background job, for which shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(*args: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run `zbus ARGS` to its end."""
    return subprocess.run(
        [*ZBUS, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **env},
    )


@contextmanager
def started(*args: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zbus ARGS`; its pipes are unbuffered, so that reading a line takes no more than that."""
    process = subprocess.Popen(
        [*ZBUS, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, **env},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def subscribed(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `zbus sub ARGS` and wait until it says that it has subscribed."""
    with started("sub", *args) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"zbus: subscribed to ")
        yield process


def ended(process: subprocess.Popen[bytes]) -> tuple[str, str, int]:
    """Return what is left on stdout and stderr, and the exit code, once the process ends."""
    out, err = process.communicate(timeout=SECONDS)
    return out.decode(), err.decode(), process.returncode


def assert_sent(*args: str, stdin: str = "") -> None:
    sent = run("send", *args, stdin=stdin)
    assert (sent.stdout, sent.stderr, sent.returncode) == ("", "", 0)


# send and sub


def test_sub_prints_what_send_sends() -> None:
    with subscribed("orders.**", "--count", "1") as process:
        assert_sent("orders", "order.created", "/orders/123", '{"total": 9.5}')
        assert ended(process) == ('orders  order.created  /orders/123  {"total":9.5}\n', "", 0)


def test_json_lines_hold_all_fields() -> None:
    with subscribed("*", "--json", "--count", "3") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/text", {"ü": [1, None]})
        bus.send("a", "b", "/bytes", b"\0\xff")
        bus.send("a", "b", "/none")
        out, err, code = ended(process)
    assert (err, code) == ("", 0)
    events = [json.loads(line) for line in out.splitlines()]
    assert [set(evt) for evt in events] == [{"system", "kind", "path", "data", "origin", "seq"}] * 3
    assert [(evt["path"], evt["data"], evt["seq"]) for evt in events] == [
        ("/text", {"ü": [1, None]}, 1),
        ("/bytes", {"base64": "AP8="}, 2),
        ("/none", None, 3),
    ]
    assert len({evt["origin"] for evt in events}) == 1
    assert re.fullmatch("[0-9a-f]{8,16}", events[0]["origin"])


@pytest.mark.parametrize(
    ("args", "stdin", "shown"),
    [
        ((), "", ""),
        (("null",), "", ""),
        (("-5",), "", "  -5"),
        (('"text"',), "", '  "text"'),
        (("-",), '{"from": "stdin"}\n', '  {"from":"stdin"}'),
    ],
)
def test_send_takes_json_from_its_argument_or_stdin(args: tuple[str, ...], stdin: str, shown: str) -> None:
    with subscribed("a", "--count", "1") as process:
        assert_sent("a", "b", "/c", *args, stdin=stdin)
        assert ended(process) == (f"a  b  /c{shown}\n", "", 0)


def test_human_lines_cannot_disturb_the_terminal() -> None:
    with subscribed("a", "--count", "2") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/\x1b[31m\n", "\x9b")
        bus.send("a", "b", "/bytes", b"\x1b" * 100)
        out, _, _ = ended(process)
    assert out.splitlines() == ['a  b  /\\x1b[31m\\n  "\\x9b"', f"a  b  /bytes  <100 bytes> {'1b' * 32}…"]


def test_sub_filters_by_kind() -> None:
    with subscribed("a", "order.*", "--count", "1") as process:
        assert_sent("a", "other", "/1")
        assert_sent("a", "order.paid", "/2")
        assert ended(process) == ("a  order.paid  /2\n", "", 0)


def test_each_event_is_printed_at_once() -> None:
    with subscribed("a", "--overflow", "block", "--count", "3") as process, zbus.Bus() as bus:
        assert process.stdout is not None
        for number in range(3):
            bus.send("a", "b", f"/{number}")
            assert process.stdout.readline() == b"a  b  /%d\n" % number
        assert ended(process) == ("", "", 0)


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_sub_takes_every_overflow(overflow: str) -> None:
    with subscribed("a", "--overflow", overflow, "--count", "1") as process:
        assert_sent("a", "b", "/1")
        assert ended(process) == ("a  b  /1\n", "", 0)


def test_sub_ends_after_count_events() -> None:
    with subscribed("a", "--count", "2", "--timeout", "20") as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [(f"/{number}", None) for number in range(5)])
        assert ended(process) == ("a  b  /0\na  b  /1\n", "", 0)


def test_sub_gives_up_after_its_timeout() -> None:
    with subscribed("a", "--count", "2", "--timeout", "0.5") as process:
        assert_sent("a", "b", "/c")
        assert ended(process) == ("a  b  /c\n", "zbus: no event within 0.5 s\n", 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_sub_cleanly(number: signal.Signals, code: int) -> None:
    with subscribed("a") as process:
        process.send_signal(number)
        assert ended(process) == ("", "", code)


@pytest.mark.parametrize("more", [False, True], ids=["idle", "busy"])
def test_sub_ends_when_its_reader_does(more: bool) -> None:
    with subscribed("a") as process, zbus.Bus() as bus:
        assert process.stdout is not None
        bus.send("a", "b", "/c")
        assert process.stdout.readline() == b"a  b  /c\n"
        if more:
            bus.send_many("a", "b", [(f"/{number}", None) for number in range(50_000)])
        process.stdout.close()
        process.stdout = None
        assert process.communicate(timeout=SECONDS) == (None, b"")
        assert process.returncode == 0


def test_sub_piped_into_head() -> None:
    with subprocess.Popen(
        ["sh", "-c", '"$0" -m zbus sub a | head -n 1', sys.executable],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as shell:
        assert shell.stderr is not None
        assert shell.stderr.readline().startswith(b"zbus: subscribed to ")
        assert_sent("a", "b", "/1")
        assert ended(shell) == ("a  b  /1\n", "", 0)


def test_sub_tells_how_many_events_were_lost() -> None:
    with subscribed("a") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/joined")  # a stopped process cannot join
        process.send_signal(signal.SIGSTOP)
        for number in range(300_000):
            bus.send("a", "b", f"/{number}")
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        with io.BufferedReader(process.stdout) as out:
            # The queue holds 65,536; once that many came out there is room for one that shows the gap.
            received = sum(1 for _ in zip(range(65_000), out, strict=False))
            bus.send("a", "b", "/end")
            for line in out:
                received += 1
                if line == b"a  b  /end\n":
                    break
            process.stdout = None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        last = err.decode().splitlines()[-1]
        assert last == f"zbus: {300_002 - received} events were lost: they came faster than they were read"


# which bus


def test_options_and_environment_name_the_bus(zbus_dir: str) -> None:
    with subscribed("a", "--count", "1", "--bus", "shop", "--dir", zbus_dir) as process:
        elsewhere = run("send", "a", "b", "/default")
        named = run("send", "a", "b", "/shop", ZBUS_BUS="shop")
        assert elsewhere.returncode == named.returncode == 0
        assert ended(process) == ("a  b  /shop\n", "", 0)


# wrong command lines and failures


@pytest.mark.parametrize("text", ["{x", "hello", "NaN", "", "-"])
def test_data_that_is_not_json_is_a_usage_error(text: str) -> None:
    sent = run("send", "a", "b", "/c", text, stdin="[1,")
    assert sent.returncode == 2
    assert sent.stdout == ""
    assert re.fullmatch(r"zbus: the data is not JSON .*\n", sent.stderr)


@pytest.mark.parametrize(
    "text",
    [
        "18446744073709551616",
        '{"a": [-9223372036854775809]}',
        "1e400",
        "0.1234567890123456789",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
    ],
)
def test_data_that_would_arrive_as_something_else_is_refused(text: str) -> None:
    for args, stdin in (((text,), ""), (("-",), text)):
        sent = run("send", "a", "b", "/c", *args, stdin=stdin)
        assert (sent.returncode, sent.stdout) == (2, "")
        assert re.fullmatch(r"zbus: the data cannot be sent as it is: .*\n", sent.stderr)


@pytest.mark.parametrize("text", ['"\\ud800"', "[" * 300 + "]" * 300])
def test_data_that_a_frame_cannot_carry_is_refused(text: str) -> None:
    sent = run("send", "a", "b", "/c", text)
    assert (sent.returncode, sent.stdout) == (1, "")
    assert re.fullmatch(r"zbus: data .*\n", sent.stderr)


@pytest.mark.parametrize("text", ["18446744073709551615", "-9223372036854775808", "0.1", "5e-324"])
def test_data_at_the_limits_arrives_exactly(text: str) -> None:
    with subscribed("a", "--count", "1") as process:
        assert_sent("a", "b", "/c", text)
        assert ended(process) == (f"a  b  /c  {text}\n", "", 0)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("send", "", "b", "/c"), 1, "zbus: system "),
        (("send", "a", "b", ""), 1, "zbus: path "),
        (("send", "a", "b", "/c", "1", "--bus", "a/b"), 1, "zbus: 'a/b' is not a bus name"),
        (("send", "a", "b"), 2, "zbus: Missing argument 'PATH'; see zbus send --help"),
        (("send", "--bsu", "x", "a", "b", "/c"), 2, "zbus: No such option"),
        (("sub", "ord*"), 1, "zbus: 'ord*' is not a system pattern"),
        (("sub", ""), 1, "zbus: "),
        (("sub", "a", "--count", "0"), 2, "zbus: Invalid value for '--count'"),
        (("sub", "a", "--overflow", "newest"), 2, "zbus: Invalid value for '--overflow'"),
        (("ls", "--dir", "/" + "x" * 100), 1, "zbus: "),
        (("nonsense",), 2, "zbus: No such command 'nonsense'"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(args: tuple[str, ...], code: int, message: str) -> None:
    failed = run(*args)
    assert (failed.stdout, failed.returncode) == ("", code)
    assert failed.stderr.startswith(message)
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_there_is_a_hint(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import zbus.cli; zbus.cli.main()"
    failed = subprocess.run(
        [sys.executable, "-c", program, "ls"], capture_output=True, text=True, timeout=SECONDS
    )
    hint = "zbus: the command line needs click and rich: pip install click rich\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)


# ls


def test_ls_says_that_a_bus_is_empty(zbus_dir: str) -> None:
    empty = run("ls")
    assert (empty.stdout, empty.stderr, empty.returncode) == ("", "zbus: nobody is on bus default\n", 0)
    assert run("ls", "--json").stdout == "[]\n"
    assert os.listdir(zbus_dir) == []


def test_ls_shows_the_living_and_the_dead() -> None:
    with subscribed("orders.**", "order.*", "--overflow", "block") as process:
        alive = run("ls")
        process.kill()
        process.wait(SECONDS)
        dead = run("ls")
    with zbus.Bus():  # cleans up
        pass
    for listing, state in ((alive, "alive"), (dead, "dead")):
        assert (listing.stderr, listing.returncode) == ("", 0)
        header, *rows = [re.split("  +", line) for line in listing.stdout.splitlines()]
        assert header == ["PROCESS", "PID", "LANGUAGE", "ROLE", "OVERFLOW", "STATE", "PATTERNS"]
        assert rows == [
            ["zbus", str(process.pid), "python", "member", "-", state, "-"],
            ["zbus", str(process.pid), "python", "subscriber", "block", state, "orders.** order.*"],
        ]


def test_ls_as_json() -> None:
    with zbus.Bus() as bus, bus.subscribe("orders.**"):
        peers = json.loads(run("ls", "--json").stdout)
    assert [peer["role"] for peer in peers] == ["member", "subscriber"]
    assert {peer["pid"] for peer in peers} == {os.getpid()}
    assert peers[1]["patterns"] == [["orders.**", "*"]]
    assert all(peer["alive"] for peer in peers)


def on_a_terminal(*args: str, **env: str) -> tuple[str, int]:
    """Run `zbus ARGS` with stdout on a terminal; return what that shows, and the exit code."""
    ours, theirs = pty.openpty()
    with (
        open(ours, "rb", buffering=0) as screen,
        subprocess.Popen(
            [*ZBUS, *args], stdout=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **env}
        ) as process,
    ):
        os.close(theirs)
        shown = b""
        try:
            while chunk := screen.read(65_536):
                shown += chunk
        except OSError:  # how Linux reports that nobody has the terminal open any more
            pass
        return shown.decode(), process.wait(SECONDS)


def test_ls_draws_a_table_on_a_terminal() -> None:
    with zbus.Bus() as bus, bus.subscribe("[x].**"):
        shown, code = on_a_terminal("ls")
    assert code == 0
    assert "\x1b[1mPROCESS" in shown
    assert "[x].**" in shown


# demo


def remains(directory: str) -> list[str]:
    """Return the files in `directory` and the processes that were told about it."""
    found = os.listdir(directory)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # ended meanwhile
            continue
        if os.fsencode(directory) in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_demo_shows_events_and_rates_and_leaves_nothing(zbus_dir: str) -> None:
    shown = run("demo", "--seconds", "2", TMPDIR=zbus_dir, FORCE_COLOR="1")
    assert (shown.stderr, shown.returncode) == ("", 0)
    assert "\x1b" not in shown.stdout
    assert len(shown.stdout.splitlines()) < 50
    assert re.search(r"subscriber 1  orders\.\w+  order\.\w+  /orders/\d+  \{", shown.stdout)
    assert re.search(r"[\d,]+ events/s +[\d,]+ received +0 lost", shown.stdout)
    sums = re.search(r"([\d,]+) events sent, ([\d,]+) received, 0 lost\n\Z", shown.stdout)
    assert sums is not None
    assert sums[1] == sums[2]
    assert remains(zbus_dir) == []


def test_demo_takes_numbers_of_processes(zbus_dir: str) -> None:
    args = ("--seconds", "1", "--publishers", "1", "--subscribers", "3")
    shown = run("demo", *args, TMPDIR=zbus_dir).stdout
    assert "publisher 1 " in shown
    assert "publisher 2 " not in shown
    assert "subscriber 3 " in shown
    assert "subscriber 4 " not in shown


def test_demo_on_a_terminal(zbus_dir: str) -> None:
    shown, code = on_a_terminal("demo", "--seconds", "1.5", TMPDIR=zbus_dir)
    assert code == 0
    assert "events/s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor, hidden and back
    assert remains(zbus_dir) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", [b"subscriber 1 ", b"look inside"], ids=["starting", "running"])
def test_a_signal_ends_demo_cleanly(zbus_dir: str, number: signal.Signals, code: int, when: bytes) -> None:
    with started("demo", "--seconds", "60", TMPDIR=zbus_dir) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(when):
            pass
        process.send_signal(number)
        out, err, returned = ended(process)
    assert (err, returned) == ("", code)
    assert ("events sent" in out) == (code == 0)
    assert remains(zbus_dir) == []


def test_processes_of_a_killed_demo_end(zbus_dir: str) -> None:
    with started("demo", "--seconds", "60", TMPDIR=zbus_dir) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"look inside"):
            pass
        process.kill()
        # They inherit stderr, so it ends when the last of them has ended.
        _, err, _ = ended(process)
    assert err == ""


# help


def commands() -> list[tuple[str, click.Command]]:
    return [("zbus", cli), *((f"zbus {name}", command) for name, command in cli.commands.items())]


def test_all_commands_are_there() -> None:
    assert set(cli.commands) == {"demo", "ls", "send", "sub"}


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    purpose = command.help.splitlines()[0]
    assert purpose.endswith("."), f"{name}: the first line of its help is not its purpose"
    assert purpose.rstrip(".") in command.get_short_help_str(80), f"{name}: its purpose is cut short"
    assert re.search(rf"Examples?\b.*:\n +(.*\| )?{name}\b", command.help), f"{name}: no example"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name} has no help"


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(args: tuple[str, ...]) -> None:
    shown = run(*args)
    assert (shown.stderr, shown.returncode) == ("", 0)
    for name, command in cli.commands.items():
        assert f"  {name}" in shown.stdout
        assert command.get_short_help_str(60) in shown.stdout


def test_version() -> None:
    assert re.fullmatch(r"zbus \d+\.\d+\.\d+\n", run("--version").stdout)
