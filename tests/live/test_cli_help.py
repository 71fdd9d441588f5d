"""What the help texts say is true: every example runs, and `--json` prints the fields they list."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

import zbus
from zbus.cli.app import cli
from zbus.recording.verify import Loss

from .cli import ended, run
from .process import LIMIT
from .recordings import finished, recording, until

# Which commands go on until Ctrl-C: without this option, or only with it. No command has the empty one.
GO_ON_WITHOUT = {
    "bw": "--once",
    "demo": "",
    "hz": "--once",
    "link": "",
    "record": "--verify",
    "sub": "--count",
    "top": "--once",
    "web": "",
}
GO_ON_WITH = {"metrics": "--port"}
SENT = (
    ("orders", "order.created"),
    ("orders.eu", "order.created"),
    ("camera.1", "frame"),
    ("metrics", "cpu.load"),
)
EXAMPLE = re.compile(r"^  +(\S.*)$", re.MULTILINE)


def help_of(name: str) -> str:
    return inspect.cleandoc(cli.commands[name].help or "")


def examples() -> list[Any]:
    """Return name and text of every example of every command."""
    found = []
    for name in cli.commands:
        text = help_of(name).partition("\b\nExample")[2].partition("\n\n")[0]
        found += [pytest.param(name, line, id=line) for line in EXAMPLE.findall(text)]
    return found


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory, interruptible: None) -> bytes:
    """Return a recording."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZBUS_DIR", str(folder / "buses"))
        with recording(folder / "today.mcap") as process, zbus.Bus() as bus:
            bus.send("orders.eu", "order.created", "/orders/1", {"total": 9.5})
            until(folder / "today.mcap", 1)
            finished(process)
    return (folder / "today.mcap").read_bytes()


@pytest.fixture
def place(tmp_path: Path, today: bytes) -> Path:
    """Return a home where `zbus` is this package, with the files that examples name or write to."""
    (tmp_path / "today.mcap").write_bytes(today)
    for folder in ("bin", ".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (tmp_path / folder).mkdir(parents=True)
    program = tmp_path / "bin" / "zbus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zbus "$@"\n')
    program.chmod(0o755)
    drawing = tmp_path / "bin" / "dot"  # Graphviz may not be installed
    drawing.write_text("#!/bin/sh\ncat > /dev/null\n")
    drawing.chmod(0o755)
    (tmp_path / "link.toml").write_text('default = "deny"\n')
    return tmp_path


@contextmanager
def members(*names: str) -> Iterator[None]:
    """Put `shop`, which sends, `mailer` and `report` on these buses; `mailer` receives on the first."""
    ending = threading.Event()

    def send(buses: list[zbus.Bus]) -> None:
        for number in itertools.count():
            if ending.wait(0.02):
                return
            for bus in buses:
                for system, kind in SENT:
                    bus.send(system, kind, "/x", number)

    by_program: dict[str, list[zbus.Bus]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for program in ("mailer", "report", "shop"):
            patch.setattr(sys, "argv", [program])
            by_program[program] = [zbus.Bus(name) for name in names]
    with by_program["mailer"][0].subscribe("**", overflow="latest"):
        for bus in by_program["shop"]:
            bus.send("orders.eu", "order.created", "/first")
        thread = threading.Thread(target=send, args=(by_program["shop"],))
        thread.start()
        try:
            deadline = time.monotonic() + LIMIT
            while not all(map(published, names)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            ending.set()
            thread.join(LIMIT)
    for bus in itertools.chain(*by_program.values()):
        bus.close()


def published(bus: str) -> bool:
    """Return whether a member of a bus has published all that it sends, which it does once a second."""
    told = [peer.numbers.by_topic for peer in zbus.peers(bus) if peer.numbers is not None]
    return any({*SENT} <= {(row.system, row.kind) for row in rows} for rows in told)


def goes_on(name: str, example: str) -> bool:
    words = example.split()
    return GO_ON_WITH.get(name) in words or (name in GO_ON_WITHOUT and GO_ON_WITHOUT[name] not in words)


@pytest.mark.usefixtures("zbus_dir", "interruptible")
@pytest.mark.parametrize(("name", "example"), examples())
def test_every_example_runs(name: str, example: str, place: Path) -> None:
    if "today.mcap" in example and goes_on(name, example):
        (place / "today.mcap").unlink()
    example = re.sub(r" --port \d+|(?<= web)$", " --port 0", example)  # that of the help may be in use
    example = example.replace("nats://hub:4222", "nats://127.0.0.1:1")  # nobody is there
    env = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place)}
    with (
        members("default", "shop"),
        open(place / "said", "wb") as said,
        subprocess.Popen(["bash", "-c", example], cwd=place, env=env, stdout=said, stderr=said) as process,
    ):
        try:
            if goes_on(name, example):
                deadline = time.monotonic() + LIMIT
                while not (place / "said").stat().st_size:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                process.send_signal(signal.SIGINT)
            code = process.wait(LIMIT)
        finally:
            process.kill()
    assert code in ((0, 130) if goes_on(name, example) else (0,)), (place / "said").read_text()


@pytest.mark.parametrize(("name", "example"), examples())
def test_examples_are_quoted(name: str, example: str) -> None:
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", example)
    assert not re.search(r"[*()\[\]{}]", bare)


# JSON

JSON_OPTION = sorted(
    name
    for name, command in cli.commands.items()
    if any(isinstance(one, click.Option) and "--json" in one.opts for one in command.params)
)
# How each is run so that all its fields show, and within which of them no field is listed: what anybody may
# send, or what the page names another place for.
RUNS: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "bench": [(("--rounds", "1"), ())],
    "bw": [(("*", "--once", "--window", "0.5"), ())],
    "check": [((), ())],
    "doctor": [((), ())],
    "graph": [((), ())],
    "hz": [(("*", "--once", "--window", "0.5"), ())],
    "ls": [(("--rates", "1"), ("counters", "numbers", "by_topic", "by_channel"))],
    "replay": [(("today.mcap",), ())],
    "sub": [(("*", "--count", "1"), ("data",))],
    "top": [(("--once",), ())],
    "why": [(("orders.eu", "order.created"), ())],
}
ELSEWHERE = {"process", "pid", "user", "bus", "root"}


def fields(value: Any, apart: tuple[str, ...] = ()) -> set[str]:
    """Return the names of all fields of a value, but for those within the fields `apart`."""
    if isinstance(value, list):
        return set().union(*(fields(one, apart) for one in value))
    if not isinstance(value, dict):
        return set()
    inner = (fields(one, apart) for name, one in value.items() if name not in apart)
    return {*value}.union(*inner)


def listed(name: str) -> set[str]:
    """Return the fields that the help of a command lists."""
    paragraphs = [text for text in help_of(name).split("\n\n") if text.startswith("The JSON ")]
    assert paragraphs, f"the help of zbus {name} has no paragraph that begins with 'The JSON '"
    text = " ".join(paragraphs)
    if other := re.search(r"is that of `zbus (\w+)`", text):
        return listed(other[1])
    return {*re.findall(r"`(\w+)`", text)}


def test_every_json_is_described_and_run() -> None:
    assert {*RUNS, "link", "record"} >= {*JSON_OPTION}
    for name in JSON_OPTION:
        assert listed(name)


@pytest.mark.usefixtures("zbus_dir")
@pytest.mark.parametrize("name", RUNS)
def test_json_has_the_fields_that_the_help_lists(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    found = set()
    with members("default"), zbus.Bus("other") as other, other.subscribe("elsewhere"):
        for args, apart in RUNS[name]:
            done = run(name, "--json", *args)
            assert done.returncode == 0, done.stderr
            found |= fields(json.loads(done.stdout), apart)
        if name == "why":
            nobody = json.loads(run(name, "--json", "elsewhere", "x", "--to", "shop").stdout)
            assert {*nobody["elsewhere"][0]} == ELSEWHERE
            found |= ELSEWHERE
    assert found == listed(name)


@pytest.mark.usefixtures("zbus_dir", "interruptible")
def test_json_of_a_recording_has_the_fields_that_the_help_lists(place: Path) -> None:
    with recording(place / "new.mcap", "--json") as process:
        process.send_signal(signal.SIGINT)
        found = fields(json.loads(ended(process)[0]))
    checked = json.loads(run("record", "--verify", "--json", str(place / "today.mcap")).stdout)
    assert checked["losses"] == []
    assert found | fields(checked, ("recording",)) | {*Loss._fields} == listed("record")
