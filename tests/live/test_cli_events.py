"""`zbus send` and `zbus sub`: real processes, their output and their exit codes."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time

import pytest

import zbus

from .cli import SECONDS, assert_sent, ended, run, shown, subscribed, untimed
from .process import stop

pytestmark = pytest.mark.usefixtures("zbus_dir")


def test_sub_prints_what_send_sends() -> None:
    with subscribed("orders.**", "--count", "1") as process:
        assert_sent("orders", "order.created", "/orders/123", '{"total": 9.5}')
        assert shown(process) == ('orders  order.created  /orders/123  {"total":9.5}\n', "", 0)


def test_json_lines_hold_all_fields() -> None:
    before = time.time()
    with subscribed("*", "--json", "--count", "3") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/text", {"ü": [1, None]})
        bus.send("a", "b", "/bytes", b"\0\xff")
        bus.send("a", "b", "/none")
        out, err, code = ended(process)
    assert (err, code) == ("", 0)
    events = [json.loads(line) for line in out.splitlines()]
    assert [set(evt) for evt in events] == [{"system", "kind", "path", "data", "origin", "seq", "time"}] * 3
    assert [(evt["path"], evt["data"], evt["seq"]) for evt in events] == [
        ("/text", {"ü": [1, None]}, 1),
        ("/bytes", {"base64": "AP8="}, 2),
        ("/none", None, 3),
    ]
    assert all(before <= evt["time"] <= time.time() for evt in events)
    assert len({evt["origin"] for evt in events}) == 1
    assert re.fullmatch("[0-9a-f]{8,16}", events[0]["origin"])


@pytest.mark.parametrize(
    ("args", "stdin", "data"),
    [
        ((), "", ""),
        (("null",), "", ""),
        (("-5",), "", "  -5"),
        (('"text"',), "", '  "text"'),
        (("-",), '{"from": "stdin"}\n', '  {"from":"stdin"}'),
    ],
)
def test_send_takes_json_from_its_argument_or_stdin(args: tuple[str, ...], stdin: str, data: str) -> None:
    with subscribed("a", "--count", "1") as process:
        assert_sent("a", "b", "/c", *args, stdin=stdin)
        assert shown(process) == (f"a  b  /c{data}\n", "", 0)


def test_human_lines_cannot_disturb_the_terminal() -> None:
    with subscribed("a", "--count", "2") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/\x1b[31m\n", "\x9b")
        bus.send("a", "b", "/bytes", b"\x1b" * 100)
        out, _, _ = shown(process)
    assert out.splitlines() == ['a  b  /\\x1b[31m\\n  "\\x9b"', f"a  b  /bytes  <100 bytes> {'1b' * 32}…"]


def test_sub_filters_by_kind() -> None:
    with subscribed("a", "order.*", "--count", "1") as process:
        assert_sent("a", "other", "/1")
        assert_sent("a", "order.paid", "/2")
        assert shown(process) == ("a  order.paid  /2\n", "", 0)


def test_each_event_is_printed_at_once() -> None:
    with subscribed("a", "--overflow", "block", "--count", "3") as process, zbus.Bus() as bus:
        assert process.stdout is not None
        for number in range(3):
            bus.send("a", "b", f"/{number}")
            assert untimed(process.stdout.readline().decode()) == f"a  b  /{number}\n"
        assert ended(process) == ("", "", 0)


@pytest.mark.parametrize("overflow", ["drop", "block", "latest"])
def test_sub_takes_every_overflow(overflow: str) -> None:
    with subscribed("a", "--overflow", overflow, "--count", "1") as process:
        assert_sent("a", "b", "/1")
        assert shown(process) == ("a  b  /1\n", "", 0)


def test_sub_ends_after_count_events() -> None:
    with subscribed("a", "--count", "2", "--timeout", "20") as process, zbus.Bus() as bus:
        bus.send_many("a", "b", [(f"/{number}", None) for number in range(5)])
        assert shown(process) == ("a  b  /0\na  b  /1\n", "", 0)


def test_sub_gives_up_after_its_timeout() -> None:
    with zbus.Bus() as bus, subscribed("a", "--count", "2", "--timeout", "5") as process:
        bus.send("a", "b", "/c")
        assert shown(process) == ("a  b  /c\n", "zbus: no event within 5 s\n", 1)


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
        assert untimed(process.stdout.readline().decode()) == "a  b  /c\n"
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
        assert shown(shell) == ("a  b  /1\n", "", 0)


def test_sub_tells_how_many_events_were_lost() -> None:
    with subscribed("a") as process, zbus.Bus() as bus:
        bus.send("a", "b", "/joined")  # a stopped process cannot join
        stop(process.pid)
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
                if line.endswith(b"  a  b  /end\n"):
                    break
            process.stdout = None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        last = err.decode().splitlines()[-1]
        assert last == f"zbus: {300_002 - received} events were lost: they came faster than they were read"


# data


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
        assert shown(process) == (f"a  b  /c  {text}\n", "", 0)
