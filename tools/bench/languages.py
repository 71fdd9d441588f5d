"""How fast the peers in other languages are, each beside the package itself.

One run measures Python to X and X to Python, each right after Python to Python. The peers are driven by
the drivers of `tools/conform`, and do the work in loops of their own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conformance.kit.driver import Driver, Unsupported
from tests.conformance.kit.live.stage import Stage
from tests.conformance.kit.lock import alone
from tests.conformance.kit.manifest import Manifest, read_all
from tests.conformance.kit.session import bus_root

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
PYTHON = "python -> python"

Row = dict[str, Any]
# By names of the pair and of the case: each figure and its ratio to Python to Python.
Found = dict[tuple[str, str], list[tuple[float, float | None]]]


@contextmanager
def pair(sender: Manifest, receiver: Manifest) -> Iterator[tuple[Driver, Driver]]:
    """Run a driver of each on a bus of their own."""
    with bus_root() as root, Stage(sender, receiver, sender, root, full=False) as stage:
        yield stage.publisher(), stage.another()
        stage.finish()


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
    there = [peers[language] for language in languages if not peers[language].missing()]
    with alone(there):
        for peer in there:
            peer.make()
        found = _measured(there, peers["python"], rounds, events, note)
    return [row for peer in there for row in _rows(peer.language, found)]


def _measured(
    peers: list[Manifest], python: Manifest, rounds: int, events: int, note: Callable[[str], None]
) -> Found:
    found: Found = {}

    def add(name: str, what: str, figure: float, base: float | None = None) -> None:
        found.setdefault((name, what), []).append((figure, figure / base if base else None))
        note(f"{name}, {what}: {figure:,.1f}" + (f", {figure / base:.2f} x" if base else ""))

    def compare(sender: Manifest, receiver: Manifest) -> None:
        # The speed of the machine changes within a run, so Python to Python runs right before each.
        for what, case in (("rate", partial(throughput, events=events)), ("latency", latency)):
            base = case(python, python)
            add(PYTHON, what, base)
            add(f"{sender.language} -> {receiver.language}", what, case(sender, receiver), base)

    for _ in range(rounds):
        for peer in peers:
            if peer is not python:
                compare(python, peer)
                compare(peer, python)
            add(peer.language, "first event", first_event(python, peer))
    return found


def _rows(language: str, found: Found) -> list[Row]:
    target = TARGETS.get(language, OTHERS)
    pairs = [PYTHON] if language == "python" else [f"python -> {language}", f"{language} -> python"]
    rows: list[Row] = []
    for pair in pairs:
        if (pair, "rate") in found:
            rows.append(_row(pair, "events/s", found[pair, "rate"]))
            rows.append(_row(f"{pair}, latency p50", "us", found[pair, "latency"]))
            if pair != PYTHON:
                ratio = rows[-2]["ratio"]
                rows[-2] |= {"target": f">= {target:g} x", "holds": ratio >= target}
                ratio = rows[-1]["ratio"]
                rows[-1] |= {"target": f"<= {1 / target:g} x", "holds": ratio <= 1 / target}
    first = _row(f"first event to a busy {language}, p99", "ms", found[language, "first event"])
    return [*rows, first | {"target": f"<= {FIRST_EVENT_MS:g} ms", "holds": first["value"] <= FIRST_EVENT_MS}]


def _row(name: str, unit: str, measured: list[tuple[float, float | None]]) -> Row:
    """Return the medians of the figures and of their ratios to the runs right before them."""
    ratios = [ratio for _, ratio in measured if ratio is not None]
    return {
        "name": name,
        "value": statistics.median(figure for figure, _ in measured),
        "unit": unit,
        "ratio": statistics.median(ratios) if ratios else None,
        "target": "",
        "holds": True,
    }


def show_languages(rows: list[Row]) -> None:
    """Print the rows as a table."""
    line = "{:<40} {:>10} {:<9} {:>6}  {:<9} {}"
    print(line.format("median", "", "", "ratio", "target", ""))
    for row in rows:
        value = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.3g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        verdict = "" if not row["target"] else "holds" if row["holds"] else "MISSED"
        verdict = row.get("verdict", verdict)
        print(line.format(row["name"], value, row["unit"], ratio, row["target"], verdict))
