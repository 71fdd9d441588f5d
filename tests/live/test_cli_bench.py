"""`zbus bench`: throughput and latency beside raw pyzmq, without a trace on any bus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zbus

from .cli import SECONDS, ended, run, run_without, started
from .process import LIMIT
from .quiet import read_all

pytestmark = pytest.mark.usefixtures("zbus_dir")


def left(zbus_dir: str) -> list[str]:
    """Return the buses of benchmarks that have a directory."""
    return [path.name for path in Path(zbus_dir, "v1").glob("bench-*")]


def test_a_table_beside_raw_pyzmq_and_nobody_gets_its_events(zbus_dir: str) -> None:
    with zbus.Bus() as bus, bus.subscribe("**") as sub:
        told = run("bench", "--rounds", "1")
        assert read_all(sub) == []
        assert sub.lost == 0
    assert (told.stderr, told.returncode) == ("zbus: measuring for about 2 seconds\n", 0)
    header, *rows = told.stdout.splitlines()
    assert header.split() == ["pyzmq", "zbus", "ratio"]
    assert [row[:11].strip() for row in rows] == ["events/s", "latency p50", "latency p99", "latency max"]
    assert max(map(len, (header, *rows))) <= 40
    assert left(zbus_dir) == []


def test_json_has_one_shape() -> None:
    told = run("bench", "--rounds", "1", "--size", "100000", "--json")
    assert told.returncode == 0
    found = json.loads(told.stdout)
    assert [*found] == ["size", "rounds", "pyzmq", "zbus", "ratio"]
    assert (found["size"], found["rounds"]) == (100_000, 1)
    for name in ("pyzmq", "zbus"):
        assert found[name]["throughput"] > 0
        assert 0 < found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]
    for figure, ratio in found["ratio"].items():
        assert ratio == pytest.approx(found["zbus"][figure] / found["pyzmq"][figure])


@pytest.mark.parametrize(("name", "begin"), [("latency.svg", b"<?xml"), ("latency.PNG", b"\x89PNG")])
def test_the_latencies_are_drawn(tmp_path: Path, name: str, begin: bytes) -> None:
    told = run("bench", "--rounds", "1", "--plot", str(tmp_path / name), MPLCONFIGDIR=str(tmp_path))
    assert told.returncode == 0
    assert (tmp_path / name).read_bytes().startswith(begin)


def test_a_plot_that_cannot_be_drawn_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "latency.svg"
    failed = run("bench", "--plot", str(nowhere))
    said = f"zbus: {nowhere}: No such file or directory\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", said, 1)
    failed = run("bench", "--plot", "latency.pdf")
    assert (failed.stdout, failed.returncode) == ("", 2)
    assert "latency.pdf is neither an SVG nor a PNG: end its name with .svg or .png" in failed.stderr
    failed = run_without("matplotlib", "bench", "--plot", str(tmp_path / "latency.svg"))
    hint = "zbus: --plot needs matplotlib, the extra `plot`: pip install matplotlib\n"
    assert (failed.stdout, failed.stderr, failed.returncode) == ("", hint, 1)


@contextmanager
def measuring(zbus_dir: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a long benchmark; yield it and the process at the other end, once both have subscribed."""
    with started("bench", "--rounds", "1000") as process:
        deadline = time.monotonic() + LIMIT
        while True:
            assert time.monotonic() < deadline
            pids = {
                peer.pid for name in left(zbus_dir) for peer in zbus.peers(name) if peer.role == "subscriber"
            }
            if len(pids) == 2:
                break
            time.sleep(0.01)
        [other] = pids - {process.pid}
        yield process, other


def gone(pid: int, zbus_dir: str) -> bool:
    """Wait until a process has ended, and nothing of the benchmark is left."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        try:
            running = stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            running = False
        if not running and left(zbus_dir) == []:
            return True
        time.sleep(0.01)
    return False


def test_an_interrupt_leaves_no_process_and_no_bus(zbus_dir: str) -> None:
    with measuring(zbus_dir) as (process, other):
        process.send_signal(signal.SIGINT)
        out, err, code = ended(process)
        assert (out, err.count("\n"), code) == ("", 1, 130)
        assert gone(other, zbus_dir)


def test_nothing_is_left_either_if_it_is_killed(zbus_dir: str) -> None:
    with measuring(zbus_dir) as (process, other):
        process.kill()
        process.wait(SECONDS)
        assert gone(other, zbus_dir)


def test_it_does_not_wait_for_an_end_that_is_gone(zbus_dir: str) -> None:
    with measuring(zbus_dir) as (process, other):
        os.kill(other, signal.SIGKILL)
        out, err, code = ended(process)
    assert (out, code) == ("", 1)
    assert err.endswith("zbus: the other process of the benchmark has ended\n")
    assert left(zbus_dir) == []
