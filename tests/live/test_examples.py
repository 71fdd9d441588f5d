"""The programs in `docs/examples` do what their page says."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zbus

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SECONDS = 60.0


class Program:
    """A running program of an example."""

    def __init__(self, *words: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Return the first match of `pattern` in what it has printed, and wait for it if need be."""
        assert self.process.stdout is not None
        for line in self.printed:
            if found := re.search(pattern, line):
                return found
        for line in self.process.stdout:
            self.printed.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it ended without {pattern!r}: {self.printed}")

    def end(self) -> int:
        """Send it SIGTERM, read the rest of what it prints, and return its exit code."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        self.printed += self.process.stdout
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


Start = Callable[..., Program]


@pytest.fixture
def start(zbus_dir: str) -> Iterator[Start]:
    """Start programs on the test's bus."""
    programs: list[Program] = []

    def run(name: str, *words: str, **env: str) -> Program:
        programs.append(Program(str(EXAMPLES / name), *words, **env))
        return programs[-1]

    yield run
    for program in programs:
        program.kill()


def ask(port: str, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
    connection.request(method, path, body)
    response = connection.getresponse()
    status, answer = response.status, json.loads(response.read())
    connection.close()
    return status, answer


def test_orders_pass_from_the_web_api_to_the_worker_and_to_the_dashboard(start: Start) -> None:
    dashboard, worker = start("orders/dashboard.py"), start("orders/worker.py")
    dashboard.until("watching")
    worker.until("waiting")
    web = start("orders/web.py", PORT="0")
    port = web.until(r"running on http://127\.0\.0\.1:(\d+)")[1]

    status, good = ask(port, "POST", "/orders", '{"item": "tea", "price": 4.5}')
    assert status == 202
    dashboard.until(f"{good['order']} order.created")
    dashboard.until(f"{good['order']} order.accepted .*'total': 5.3")  # perhaps first: another publisher
    deadline = time.monotonic() + SECONDS
    while (shown := ask(port, "GET", good["order"])) != (200, {"state": "order.accepted"}):
        assert shown == (200, {"state": "order.created"})
        assert time.monotonic() < deadline

    status, bad = ask(port, "POST", "/orders", '{"item": "tea"}')
    assert status == 202
    dashboard.until(f"{bad['order']} order.rejected .*price")
    assert ask(port, "POST", "/orders", "tea")[0] == 400
    assert ask(port, "GET", "/orders/none")[0] == 404

    assert web.end() in (0, -signal.SIGTERM)  # uvicorn closes everything, then ends by the same signal
    assert any("shutdown complete" in line for line in web.printed)
    assert (worker.end(), dashboard.end()) == (0, 0)
    counts = "{'order.accepted': 1, 'order.created': 2, 'order.rejected': 1}, 0 missed"
    assert dashboard.printed[-1] == f"dashboard: {counts}\n"


def test_the_slow_detector_works_on_the_newest_frame(start: Start) -> None:
    detector = start("camera/detector.py")
    detector.until("waiting")
    camera = start("camera/camera.py")
    detector.until(r"/cameras/front frame \d+: \d+, \d+\.\d\d s old, [1-9]\d* superseded")
    assert (detector.end(), camera.end()) == (0, 0)
    frames = [int(number) for number in re.findall(r" frame (\d+)", "".join(detector.printed))]
    assert frames == sorted({*frames})
    words = re.fullmatch(r".* (\d+) processed, (\d+) superseded, (\d+) lost\n", detector.printed[-1])
    assert words is not None
    processed, superseded, lost = map(int, words.groups())
    assert processed == len(frames)
    assert lost or processed + superseded == frames[-1]  # each frame up to the last one is accounted for


def test_settings_reach_programs_that_run_and_that_start(start: Start, zbus_bus: zbus.Bus) -> None:
    collector = start("settings/collector.py")
    collector.until("waiting")
    shop, settings = start("settings/shop.py"), start("settings/settings.py")
    collector.until(rf"shop\[{shop.process.pid}\] info: /shop/greeting is now 'hello'")
    zbus_bus.send("settings", "setting.set", "/shop/discount", 0.2)
    collector.until(rf"shop\[{shop.process.pid}\] info: /shop/discount is now 0.2")

    late = start("settings/shop.py")
    collector.until(rf"shop\[{late.process.pid}\] info: /shop/discount is now 0.2")
    assert [program.end() for program in (shop, late, settings, collector)] == [0] * 4


def test_one_command_starts_and_stops_an_example(start: Start) -> None:
    example = start("", "camera")
    example.until("/cameras/front frame")
    assert example.end() == 0
    assert "processed" in example.printed[-1]


def test_the_page_names_every_program(start: Start) -> None:
    page = (EXAMPLES / "README.md").read_text()
    programs = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*.py")}
    assert programs == {*re.findall(r"\]\((\w+/\w+\.py)\)", page)}
    examples = {path.split("/")[0] for path in programs}
    assert examples == {*re.findall(r"python docs/examples (\w+)", page)}
    done = start("", "none").process
    assert (
        done.communicate(timeout=SECONDS)[0]
        == f"usage: python docs/examples ({'|'.join(sorted(examples))})\n"
    )
