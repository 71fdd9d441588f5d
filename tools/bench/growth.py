"""How the rate changes with more subscribers, publishers, channels and topics, with raw pyzmq beside it."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from typing import Any

from processes import Figures, finish, release, start

__all__ = ["GROWTH", "measure_growth", "show_growth"]

_WHAT = {
    "subscribers": (1, 2, 4, 8, 16, 32),
    "publishers": (1, 2, 4, 8, 16, 32),
    "channels": (1, 10, 100, 1000),
    "topics": (1, 100, 10_000, 60_000),
}
GROWTH = tuple(_WHAT)
_LOSSY_EVENTS = 60_000  # for `drop` channels: fewer than fit their queues, so that nothing is lost

Role = tuple[object, ...]


def _run(publishers: list[Role], subscribers: list[Role], events: int) -> Figures:
    """Run the processes; return the rate, first send to last receive, and the CPU time an event."""
    processes = [start(*map(str, role)) for role in (*subscribers, *publishers)]
    release(processes)
    figures = [finish(process) for process in processes]
    begin = min(entry["begin"] for entry in figures[len(subscribers) :])
    seconds = max(entry["end"] for entry in figures[: len(subscribers)]) - begin
    return {"rate": events / seconds, "cpu_us": sum(entry["cpu"] for entry in figures) / events * 1e6}


def _raw_subscribers(d: str, n: int, events: int) -> Figures:
    end = f"ipc://{d}/raw"
    each = events // n
    return _run([("many.raw_fan_out", end, n, each, 1)], [("many.raw_subscribe", end, 1)] * n, each)


def _zbus_subscribers(d: str, n: int, events: int) -> Figures:
    each = events // n
    return _run([("many.zbus_publish", d, n, each, 1)], [("many.zbus_subscribe", d, 1, 1)] * n, each)


def _raw_publishers(d: str, n: int, events: int) -> Figures:
    end = f"ipc://{d}/raw"
    return _run([("many.raw_fan_in", end, events // n)] * n, [("many.raw_collect", end, n)], events)


def _zbus_publishers(d: str, n: int, events: int) -> Figures:
    publisher = ("many.zbus_publish", d, 1, events // n, 1)
    return _run([publisher] * n, [("many.zbus_subscribe", d, n, n)], events)


def _raw_channels(d: str, n: int, events: int) -> Figures:
    end, count = f"ipc://{d}/raw", min(events, _LOSSY_EVENTS)
    return _run([("many.raw_to_channels", end, n, count)], [("many.raw_channels", end, n, count)], count)


def _zbus_channels(d: str, n: int, events: int) -> Figures:
    count = min(events, _LOSSY_EVENTS)
    return _run([("many.zbus_to_channels", d, n, count)], [("many.zbus_channels", d, n, count)], count)


def _raw_topics(d: str, n: int, events: int) -> Figures:
    end = f"ipc://{d}/raw"
    return _run([("many.raw_fan_out", end, 1, events, n)], [("many.raw_subscribe", end, n)], events)


def _zbus_topics(d: str, n: int, events: int) -> Figures:
    return _run([("many.zbus_publish", d, 1, events, n)], [("many.zbus_subscribe", d, n, 1)], events)


_CASES: dict[str, tuple[Callable[[str, int, int], Figures], ...]] = {
    "subscribers": (_raw_subscribers, _zbus_subscribers),
    "publishers": (_raw_publishers, _zbus_publishers),
    "channels": (_raw_channels, _zbus_channels),
    "topics": (_raw_topics, _zbus_topics),
}


def measure_growth(
    what: list[str], most: int, rounds: int, events: int, note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure each number, at most `most`, raw and zbus in turn; return the rows of the table.

    `events` is how many are received in one measurement, by all subscribers together.
    """
    steps = [(name, number) for name in what for number in _WHAT[name] if number <= most]
    found: dict[tuple[str, int], list[tuple[Figures, ...]]] = {step: [] for step in steps}
    for index in range(rounds):
        for step in steps:
            measured = []
            for case in _CASES[step[0]]:
                with tempfile.TemporaryDirectory(prefix="zb-") as directory:
                    measured.append(case(directory, step[1], events))
            found[step].append(tuple(measured))
            note(f"round {index + 1}/{rounds} {step[1]} {step[0]}: {measured}")
    return [_row(name, number, found[name, number]) for name, number in steps]


def _row(name: str, number: int, found: list[tuple[Figures, ...]]) -> dict[str, Any]:
    """Return medians, the ratio of medians, and the range of the ratios of the single rounds."""
    row: dict[str, Any] = {"name": f"{number:,} {name}", "measurements": found}
    for figure in ("rate", "cpu_us"):
        raw, ours = (statistics.median(each[side][figure] for each in found) for side in (0, 1))
        row[figure] = (raw, ours, ours / raw)
    ratios = [ours["rate"] / raw["rate"] for raw, ours in found]
    row["range"] = (min(ratios), max(ratios))
    return row


def show_growth(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    line = "{:<16} {:>10} {:>10} {:>6}  {:<13} {:>8} {:>8} {:>6}"
    print(line.format("events/s", "raw", "zbus", "ratio", "rounds", "raw us", "zbus us", "ratio"))
    for row in rows:
        (raw, ours, ratio), (raw_us, our_us, used) = row["rate"], row["cpu_us"]
        low, high = row["range"]
        cells = (f"{raw:,.0f}", f"{ours:,.0f}", f"{ratio:.2f}", f"{low:.2f} ... {high:.2f}")
        print(line.format(row["name"], *cells, f"{raw_us:.2f}", f"{our_us:.2f}", f"{used:.2f}"))
    print("us: CPU time of all processes for each event, user and system")
