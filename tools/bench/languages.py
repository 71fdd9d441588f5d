"""How fast the peers in other languages are, each beside the package itself.

One run measures Python to X, X to Python and Python to Python in turn. The peers are driven by
the drivers of `tools/conform`, and do the work in loops of their own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conformance.kit.driver import Driver, Unsupported
from tests.conformance.kit.manifest import Manifest, read_all

__all__ = ["LANGUAGES", "measure_languages", "show_languages"]

LANGUAGES = tuple(read_all())
BYTES = 100
CAPACITY = 1000
PINGS = 3000
JOINS = 100
BUSY_SECONDS = 5.0
TOPIC = {"system": "speed", "kind": "tick"}
BACK = {"system": "echo", "kind": "tick"}
# At least this much of Python to Python.
TARGETS = {"go": 1.0, "rust": 1.0, "c": 1.0}
OTHERS = 0.5
FIRST_EVENT_MS = 20.0

Figures = dict[str, float]
Row = dict[str, Any]


@contextmanager
def pair(sender: Manifest, receiver: Manifest) -> Iterator[tuple[Driver, Driver]]:
    """Run a driver of each on a bus of their own."""
    with (
        tempfile.TemporaryDirectory(prefix="zb-") as directory,
        Driver(sender, Path(directory)) as sends,
        Driver(receiver, Path(directory)) as receives,
    ):
        for driver in (sends, receives):
            driver.ask("open", bus="bench")
        yield sends, receives
        for driver in (sends, receives):
            driver.ask("close")
            driver.end()


def subscribe(driver: Driver, topic: dict[str, str], events: int) -> str:
    """Subscribe with `block`, or where the peer cannot, with room for all events; return which."""
    try:
        driver.ask("subscribe", name="s", overflow="block", capacity=CAPACITY, **topic)
    except Unsupported:
        driver.ask("subscribe", name="s", overflow="drop", capacity=events, **topic)
        return "drop"
    return "block"


def throughput(sender: Manifest, receiver: Manifest, events: int) -> float:
    """Return how many events a second arrive."""
    with pair(sender, receiver) as (sends, receives):
        subscribe(receives, TOPIC, events)
        receives.begin("speed", role="receive", name="s", count=events, bytes=BYTES, **TOPIC)
        sends.ask("speed", role="send", count=events, bytes=BYTES, path="/speed", **TOPIC)
        return (events - 1) / float(receives.answer()["seconds"])


def latency(sender: Manifest, receiver: Manifest) -> float:
    """Return half the median time of a round trip, in microseconds."""
    with pair(sender, receiver) as (sends, receives):
        subscribe(receives, TOPIC, PINGS)
        subscribe(sends, BACK, PINGS)
        receives.begin("echo", name="s", count=PINGS, **BACK)
        told = sends.ask("ping", name="s", count=PINGS, **TOPIC)
        receives.answer()
        return statistics.median(told["micros"]) / 2


def first_event(sender: Manifest, receiver: Manifest) -> float:
    """Return how long the first send of a new publisher takes, at the 99th percentile and in milliseconds."""
    with pair(sender, receiver) as (sends, receives):
        receives.ask("subscribe", name="s", overflow="drop", capacity=10 * JOINS, **TOPIC)
        receives.begin("busy", seconds=BUSY_SECONDS)
        told = sends.ask("joins", count=JOINS, **TOPIC)
        receives.answer()
        heard = receives.ask("receive", name="s", count=JOINS, until=JOINS, timeout=10, tally=True)
        if heard["received"] != JOINS:
            raise AssertionError(f"{receiver.language} received {heard['received']} of {JOINS} first events")
        return 1000 * statistics.quantiles(told["seconds"], n=100)[98]


def measure_languages(
    languages: list[str], rounds: int, events: int, note: Callable[[str], None]
) -> list[Row]:
    """Return the rows of the peers whose toolchain is here."""
    peers = read_all()
    python = peers["python"]
    there = [peers[language] for language in languages if not peers[language].missing()]
    for peer in there:
        peer.make()
    found: dict[tuple[str, str], list[float]] = {}

    def add(name: str, row: str, figure: float) -> None:
        found.setdefault((name, row), []).append(figure)
        note(f"{name} {row}: {figure:,.1f}")

    for _ in range(rounds):
        add("python", "rate", throughput(python, python, events))
        add("python", "latency", latency(python, python))
        for peer in there:
            if peer is not python:
                add(peer.language, "rate to", throughput(python, peer, events))
                add(peer.language, "rate from", throughput(peer, python, events))
                add(peer.language, "latency to", latency(python, peer))
                add(peer.language, "latency from", latency(peer, python))
            add(peer.language, "first event", first_event(python, peer))
    return [row for peer in there for row in _rows(peer.language, found)]


def _rows(language: str, found: dict[tuple[str, str], list[float]]) -> list[Row]:
    middle = {row: statistics.median(values) for (name, row), values in found.items() if name == language}
    base = {row: statistics.median(found["python", row]) for row in ("rate", "latency")}
    target = TARGETS.get(language, OTHERS)
    rows: list[Row] = []
    for row, name in (("to", f"python -> {language}"), ("from", f"{language} -> python")):
        if f"rate {row}" in middle:
            rate, micros = middle[f"rate {row}"], middle[f"latency {row}"]
            ratio = rate / base["rate"]
            rows.append({"name": name, "value": rate, "unit": "events/s", "ratio": ratio})
            rows[-1] |= {"target": f">= {target:g} x", "holds": ratio >= target}
            ratio = micros / base["latency"]
            rows.append({"name": f"{name}, latency p50", "value": micros, "unit": "us", "ratio": ratio})
            rows[-1] |= {"target": f"<= {1 / target:g} x", "holds": ratio <= 1 / target}
    if language == "python":
        rows = [
            {"name": "python -> python", "value": base["rate"], "unit": "events/s"},
            {"name": "python -> python, latency p50", "value": base["latency"], "unit": "us"},
        ]
        rows = [row | {"ratio": 1.0, "target": "", "holds": True} for row in rows]
    first = middle["first event"]
    row = {"name": f"first event to a busy {language}, p99", "value": first, "unit": "ms", "ratio": None}
    return [*rows, row | {"target": f"<= {FIRST_EVENT_MS:g} ms", "holds": first <= FIRST_EVENT_MS}]


def show_languages(rows: list[Row]) -> None:
    """Print the rows as a table."""
    line = "{:<36} {:>10} {:<9} {:>6}  {:<9} {}"
    print(line.format("median", "", "", "ratio", "target", ""))
    for row in rows:
        value = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.3g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        verdict = "" if not row["target"] else "holds" if row["holds"] else "MISSED"
        print(line.format(row["name"], value, row["unit"], ratio, row["target"], verdict))
