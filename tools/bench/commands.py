"""What the commands cost the bus that they look at, and how fast they are.

A ratio is the median over pairs of runs right after each other, because the speed of the machine changes.
"""

from __future__ import annotations

import http.client
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from peers import await_subscribers
from processes import TIMEOUT, await_ready, finish, pair, start

sys.path.insert(0, str(Path(__file__).parents[2]))

__all__ = ["COMMANDS", "measure_commands"]

COMMANDS = ("top", "watched", "record", "replay", "page")
MIB = 1024 * 1024
MEMBERS, AT_ONCE = 60, 6
RUNS = 20
LARGE = 3000  # some ten times what the recorder holds in memory
LOADED = 100_000
SHOWN = 20
# A look at a value in the page: when it was sent, and when it is on the screen.
SCRIPT = """
window.late = []; window.long = [];
new MutationObserver(() => {
  for (const cell of document.querySelectorAll('#rows .value')) {
    const sent = cell.textContent.match(/"sent":([0-9.]+)/);
    if (!sent || sent[1] === window.latest) continue;
    window.latest = sent[1];
    late.push(Date.now() - Number(sent[1]));
  }
}).observe(document.querySelector('#rows'), {subtree: true, childList: true, characterData: true});
new PerformanceObserver(list => { for (const task of list.getEntries()) long.push(task.duration); })
  .observe({type: 'longtask'});
"""

Row = dict[str, Any]
Note = Callable[[str], None]


def measure_commands(what: list[str], rounds: int, events: int, note: Note) -> list[Row]:
    """Return the rows of the cases named."""
    cases = {
        "top": lambda: _top(note),
        "watched": lambda: _watched(rounds, events, note),
        "record": lambda: [*_record(rounds, events, note), *_record_large(rounds, note)],
        "replay": lambda: _replay(rounds, events, note),
        "page": lambda: _page(note),
    }
    return [row for name in what for row in cases[name]()]


def command(d: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "zbus", *args, "--bus", "bench", "--dir", d]


@contextmanager
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="zb-", dir="/dev/shm") as d:
        yield d


def _row(name: str, value: float, unit: str, target: str, holds: bool, ratio: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "ratio": ratio, "target": target, "holds": holds}


def _compared(
    name: str, target: float, rounds: int, base: Callable[[], float], ours: Callable[[], float], note: Note
) -> Row:
    """Measure both in turn, in changing order; return a row of the medians."""
    figures, ratios = [], []
    for number in range(rounds):
        measured = {case: case() for case in ((base, ours) if number % 2 else (ours, base))}
        figures.append(measured[ours])
        ratios.append(measured[ours] / measured[base])
        note(f"{name}: {figures[-1]:,.0f} events/s, {ratios[-1]:.3f} x")
    ratio = statistics.median(ratios)
    return _row(name, statistics.median(figures), "events/s", f">= {target:g} x", ratio >= target, ratio)


# --- top --once


def _top(note: Note) -> list[Row]:
    """Run `zbus top --once` beside 60 members; as installed, with compiled bytecode."""
    with directory() as d, _members(d), tempfile.TemporaryDirectory() as cache:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = cache
        times = []
        for _ in range(RUNS + 1):
            begin = time.perf_counter()
            subprocess.run(command(d, "top", "--once"), stdout=subprocess.DEVNULL, env=env, check=True)
            times.append(time.perf_counter() - begin)
            note(f"top --once: {times[-1]:.3f} s")
    median = statistics.median(times[1:])  # the first compiles
    return [
        _row(f"top --once, {MEMBERS} members", median, "s", "<= 0.5 s", median <= 0.5),
        _row(f"the longest of {RUNS}", max(times[1:]), "s", "", True),
    ]


@contextmanager
def _members(d: str) -> Iterator[None]:
    members: list[subprocess.Popen[str]] = []
    try:
        while len(members) < MEMBERS:
            begun = [start("watched.member", d, len(members) + number) for number in range(AT_ONCE)]
            members += begun
            for process in begun:
                await_ready(process)
        time.sleep(2.5)  # until each has published twice
        yield
    finally:
        for process in members:
            finish(process)


# --- throughput while top and metrics look


def _watched(rounds: int, events: int, note: Note) -> list[Row]:
    def rate(watch: bool) -> float:
        with directory() as d, ExitStack() as stack:
            import zbus

            stack.enter_context(zbus.Bus("bench", dir=d))  # somebody to look at, from the beginning
            if watch:
                stack.enter_context(_watching(d))
            return pair(("zbus_subscribe", d, 0), ("zbus_publish", d, events, 0, 1))["rate"]

    name = "throughput with top and metrics"
    return [_compared(name, 0.97, rounds, lambda: rate(False), lambda: rate(True), note)]


@contextmanager
def _watching(d: str) -> Iterator[None]:
    """Run `zbus top` on a terminal, and `zbus metrics` that is scraped each second."""
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    top = subprocess.Popen(command(d, "top"), stdin=theirs, stdout=theirs, env=env)
    os.close(theirs)
    metrics = subprocess.Popen(command(d, "metrics", "--port", "0"), stderr=subprocess.PIPE, text=True)
    assert metrics.stderr is not None
    port = int(metrics.stderr.readline().rpartition(":")[2].partition("/")[0])
    drawn, scraped, stop = threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        with suppress(OSError):  # the terminal is closed
            while os.read(ours, 65536):
                drawn.set()

    def scrape() -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            connection.close()
            scraped.set()
            stop.wait(1)

    threads = [threading.Thread(target=read), threading.Thread(target=scrape)]
    for thread in threads:
        thread.start()
    try:
        assert drawn.wait(TIMEOUT), "top has drawn nothing"
        assert scraped.wait(TIMEOUT), "metrics have answered nothing"
        yield
    finally:
        stop.set()
        threads[1].join()
        for process in (top, metrics):
            process.terminate()
            process.wait()
        threads[0].join()
        os.close(ours)


# --- record and replay


@contextmanager
def _recording(d: str) -> Iterator[Path]:
    """Record what is sent; at the end it must be complete."""
    file = Path(d, "recorded.mcap")
    recorder = subprocess.Popen(command(d, "record", str(file), "--json"), stdout=subprocess.PIPE, text=True)
    await_subscribers(d, 1)
    yield file
    recorder.terminate()  # a job in the background may ignore SIGINT
    out, _ = recorder.communicate(timeout=TIMEOUT)
    told = json.loads(out)
    assert (told["lost"], told["unwritten"]) == (0, 0), told


def _record(rounds: int, events: int, note: Note) -> list[Row]:
    def recorded() -> float:
        with directory() as d, _recording(d):
            return finish(start("watched.publish", d, events, 0))["rate"]

    def sent() -> float:
        # Both roles report a rate, so only the publisher is asked.
        with directory() as d:
            subscriber = start("zbus_subscribe", d, 0)
            rate = finish(start("watched.publish", d, events, 0))["rate"]
            finish(subscriber)
            return rate

    return [_compared("send to record, over to a subscriber", 0.667, rounds, sent, recorded, note)]


def _record_large(rounds: int, note: Note) -> list[Row]:
    rates = []
    for _ in range(rounds):
        with directory() as d, _recording(d):
            rates.append(finish(start("watched.publish", d, LARGE, MIB))["rate"] * MIB / 1e6)
        note(f"record of 1 MiB: {rates[-1]:,.0f} MB/s")
    median = statistics.median(rates)
    return [_row("record of 1 MiB frames, in memory", median, "MB/s", ">= 300", median >= 300)]


def _replay(rounds: int, events: int, note: Note) -> list[Row]:
    def plain() -> float:
        with directory() as d:
            return pair(("zbus_subscribe", d, 0), ("zbus_publish", d, events, 0, 1))["rate"]

    with directory() as kept:
        with _recording(kept) as file:
            finish(start("watched.publish", kept, events, 0))

        def replayed() -> float:
            with directory() as d:
                subscriber = start("zbus_subscribe", d, 0)
                await_subscribers(d, 1)
                again = command(d, "replay", str(file), "--as-fast-as-possible")
                subprocess.run(again, stderr=subprocess.DEVNULL, check=True)
                return finish(subscriber)["rate"]

        return [_compared("replay at full speed, over send", 0.8, rounds, plain, replayed, note)]


# --- the page


def _page(note: Note) -> list[Row]:
    """Look at the page in a headless Chromium, idle and under load."""
    if not all(map(shutil.which, ("chromium", "chromedriver"))):
        return [_row("page", float("nan"), "ms", "", True) | {"verdict": "missing: chromium"}]
    import zbus
    from tests.live.browser import browser
    from tests.live.pages import serving

    with directory() as d, ExitStack() as stack:
        os.environ.update(ZBUS_DIR=d, ZBUS_BUS="bench")
        page, shown = stack.enter_context(serving()), stack.enter_context(browser())
        bus = stack.enter_context(zbus.Bus())
        shown.open(page.url)
        shown.run(SCRIPT)
        idle = _late(bus, shown)
        note(f"page, idle: {idle}")
        load = start("watched.load", d, LOADED)
        time.sleep(3)
        loaded = _late(bus, shown)
        longest = max(shown.run("return long"), default=0.0)
        rate = finish(load)["rate"]
        note(f"page, {rate:,.0f} events/s of {LOADED:,} asked for: {loaded}")
    return [
        _row("page: an event is shown, idle, longest", max(idle), "ms", "<= 500 ms", max(idle) <= 500),
        _row("the same under load", max(loaded), "ms", "<= 500 ms", max(loaded) <= 500),
        _row("that load, as it was reached", rate, "events/s", ">= 95,000/s", rate >= 0.95 * LOADED),
        _row("longest task of the page", longest, "ms", "<= 50 ms", longest <= 50),
    ]


def _late(bus: Any, shown: Any) -> list[float]:
    """Send events one after the other; return after how many milliseconds the page shows each."""
    shown.run("late.length = 0; long.length = 0")
    for number in range(SHOWN):
        bus.send("a.latency", "k", "/1", {"sent": time.time() * 1000})
        shown.until(lambda: len(shown.run("return late")) > number)  # noqa: B023
    return [float(value) for value in shown.run("return late")]
