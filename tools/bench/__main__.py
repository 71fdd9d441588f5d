"""Measure zbus against raw pyzmq, and its own ways against each other, in one run, interleaved: ratios.

    python tools/bench [--rounds N] [--events N] [--json]
    python tools/bench --growth [subscribers] [publishers] [channels] [topics] [--most N]
    python tools/bench --languages [LANGUAGE ...]
    python tools/bench --commands [CASE ...]
    python tools/bench --link [CASE ...]

The machine may be noisy; a ratio of medians from one run is what to quote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from commands import COMMANDS, measure_commands
from growth import GROWTH, measure_growth, show_growth
from languages import LANGUAGES, measure_languages, show_languages
from link import LINK, measure_link
from processes import Figures, await_ready, finish, pair, start, waiting, wake_ups

MIB = 1024 * 1024
GROWTH_HELP = f"instead: what happens with more of {', '.join(GROWTH)} (default: of each)"

LANGUAGES_HELP = f"instead: the peers in {', '.join(LANGUAGES)} (default: all that can be built here)"

COMMANDS_HELP = (
    f"instead: what the commands cost, and how fast they are: {', '.join(COMMANDS)} (default: all)"
)

LINK_HELP = f"instead: a link to NATS, beside nats-py alone: {', '.join(LINK)} (default: all)"


class Bench:
    """The cases; each method is one measurement in a fresh directory."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.large = 2000
        self.pings = 5000

    def raw(self, d: str) -> Figures:
        end = f"ipc://{d}/raw"
        return pair(("raw_subscribe", end, 0), ("raw_publish", end, self.events, 0))

    def zbus(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("zbus_publish", d, self.events, 0, 1))

    def zbus_many(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("zbus_publish", d, self.events * 4, 0, 100))

    def coalesced(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("coalesce_publish", d, self.events * 2, 1))

    def coalesced_turns(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("coalesce_publish", d, self.events, 4))

    def turns(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("turns_publish", d, self.events, 4))

    def coalesced_latency(self, d: str) -> Figures:
        return pair(("coalesce_pong", d), ("coalesce_ping", d, self.pings))

    def raw_large(self, d: str) -> Figures:
        end = f"ipc://{d}/raw"
        return pair(("raw_subscribe", end, MIB), ("raw_publish", end, self.large, MIB))

    def zbus_large(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, MIB), ("zbus_publish", d, self.large, MIB, 1))

    def raw_latency(self, d: str) -> Figures:
        ends = (f"ipc://{d}/ping", f"ipc://{d}/pong")
        return pair(("raw_pong", *ends), ("raw_ping", *ends, self.pings))

    def zbus_latency(self, d: str) -> Figures:
        return pair(("zbus_pong", d), ("zbus_ping", d, self.pings))

    def aio(self, d: str) -> Figures:
        return pair(("aio_subscribe", d), ("zbus_publish", d, self.events, 0, 1))

    def aio_latency(self, d: str) -> Figures:
        return pair(("aio_pong", d), ("aio_ping", d, self.pings))

    def one_thread(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("zbus_publish_threads", d, self.events // 2, 1))

    def eight_threads(self, d: str) -> Figures:
        return pair(("zbus_subscribe", d, 0), ("zbus_publish_threads", d, self.events // 2, 8))

    def joins(self, d: str) -> Figures:
        with waiting(d, 3):
            return finish(start("zbus_join", d))

    def memory(self, d: str) -> Figures:
        base, used = finish(start("memory_base")), finish(start("memory_zbus", d))
        return {"mib": (used["kib"] - base["kib"]) / 1024}

    def nulls(self, d: str) -> Figures:
        with waiting(d, 1):
            return finish(start("costs.nulls", d, 60))

    def idle(self, d: str) -> Figures:
        processes = [start("costs.idle_subscriber", d), start("costs.idle_publisher", d)]
        for process in processes:
            await_ready(process)
        subscriber, publisher = wake_ups(processes)
        for process in reversed(processes):  # the publisher's last event ends the subscriber
            finish(process)
        return {"subscriber": subscriber, "publisher": publisher}


CASES = (
    "raw",
    "zbus",
    "zbus_many",
    "coalesced",
    "turns",
    "coalesced_turns",
    "raw_large",
    "zbus_large",
    "raw_latency",
    "zbus_latency",
    "coalesced_latency",
    "aio",
    "aio_latency",
    "one_thread",
    "eight_threads",
    "joins",
    "memory",
    "nulls",
    "idle",
)


def measure(
    bench: Bench, rounds: int, cases: list[str], note: Callable[[str], None]
) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {case: [] for case in cases}
    for index in range(rounds):
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="zb-") as directory:
                found[case].append(getattr(bench, case)(directory))
            note(f"round {index + 1}/{rounds} {case}: {found[case][-1]}")
    return found


def median(rows: list[Figures], figure: str) -> float:
    return statistics.median(row[figure] for row in rows)


# name, case, figure, baseline case, unit, target, and whether more is better
RATIOS = (
    ("send / iterate", "zbus", "rate", "raw", "events/s", 0.75, True),
    ("send_many of 100", "zbus_many", "rate", "raw", "events/s", 3.0, True),
    ("send, coalesce=0.001", "coalesced", "rate", "raw", "events/s", 2.0, True),
    ("the same, 4 topics in turn, over plain", "coalesced_turns", "rate", "turns", "events/s", 0.9, True),
    ("1 MiB bytes", "zbus_large", "rate", "raw_large", "events/s", 0.7, True),
    ("one-way latency p50", "zbus_latency", "p50_us", "raw_latency", "us", 1.5, False),
    (
        "latency p50, coalesce=0.001, over plain",
        "coalesced_latency",
        "p50_us",
        "zbus_latency",
        "us",
        1.1,
        False,
    ),
    ("asyncio: iterate, over threads", "aio", "rate", "zbus", "events/s", 0.7, True),
    ("asyncio: latency p50, over threads", "aio_latency", "p50_us", "zbus_latency", "us", 1.5, False),
    ("send by 8 threads, over 1", "eight_threads", "sent_rate", "one_thread", "events/s", 0.8, True),
)
PLAIN = (
    ("subscribe(), p50", "joins", "subscribe_ms", "ms", 1.0),
    ("first subscribe() of a process", "joins", "first_subscribe_ms", "ms", None),
    ("first send, 3 subscribers, p50", "joins", "first_send_ms", "ms", 5.0),
    ("memory of a subscriber over zmq+orjson", "memory", "mib", "MiB", 8.0),
    ("send: a null in the data, over a 0", "nulls", "flat", "x", 1.5),
    ("send: nulls in nested data, over 0", "nulls", "nested", "x", None),
    ("send_many: a null in the data, over a 0", "nulls", "batch", "x", None),
    ("wake-ups of an idle publisher", "idle", "publisher", "1/s", 2.0),
    ("wake-ups of an idle subscriber", "idle", "subscriber", "1/s", 2.0),
)


def rows_of(found: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, case, figure, base, unit, target, more in RATIOS:
        if case in found and base in found:
            ours, theirs = median(found[case], figure), median(found[base], figure)
            pick = max if more else min
            best = pick(row[figure] for row in found[case]) / pick(row[figure] for row in found[base])
            ratio = ours / theirs
            holds = ratio >= target if more else ratio <= target
            rows.append(
                {"name": name, "base": theirs, "zbus": ours, "unit": unit, "ratio": ratio, "best": best}
            )
            rows[-1] |= {"target": f"{'>=' if more else '<='} {target:g} x", "holds": holds}
    for name, case, figure, unit, limit in PLAIN:
        if case in found:
            ours = median(found[case], figure)
            row = {"name": name, "base": None, "zbus": ours, "unit": unit, "ratio": None}
            row["best"] = min(entry[figure] for entry in found[case])
            row |= {
                "target": f"<= {limit:g} {unit}" if limit else "",
                "holds": limit is None or ours <= limit,
            }
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    line = "{:<40} {:>9} {:>10} {:<9} {:>6} {:>6}  {:<10} {}"
    print(line.format("median", "base", "zbus", "", "ratio", "best", "target", ""))
    for row in rows:
        verdict = "" if not row["target"] else "holds" if row["holds"] else "MISSED"
        cells = (number(row[key]) for key in ("base", "zbus"))
        ratio = number(row["ratio"])
        print(
            line.format(row["name"], *cells, row["unit"], ratio, number(row["best"]), row["target"], verdict)
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of all cases (default 7)")
    parser.add_argument("--events", type=int, default=800_000, help="events in a throughput case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="only these")
    parser.add_argument("--json", action="store_true", help="print the rows and every measurement as JSON")
    parser.add_argument("--growth", nargs="*", choices=GROWTH, metavar="WHAT", help=GROWTH_HELP)
    parser.add_argument("--languages", nargs="*", choices=LANGUAGES, metavar="LANGUAGE", help=LANGUAGES_HELP)
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, metavar="CASE", help=COMMANDS_HELP)
    parser.add_argument("--link", nargs="*", choices=LINK, metavar="CASE", help=LINK_HELP)
    parser.add_argument("--most", type=int, default=60_000, help="with --growth: no larger numbers")
    args = parser.parse_args()
    rows: list[dict[str, Any]]
    if args.link is not None:
        found = {}
        what = args.link or list(LINK)
        rows, table = measure_link(what, args.rounds, args.events // 20, note), show_languages
    elif args.commands is not None:
        found = {}
        what = args.commands or list(COMMANDS)
        rows, table = measure_commands(what, args.rounds, args.events, note), show_languages
    elif args.languages is not None:
        found = {}
        what = args.languages or list(LANGUAGES)
        rows, table = measure_languages(what, args.rounds, args.events // 4, note), show_languages
    elif args.growth is None:
        found = measure(Bench(args.events), args.rounds, args.cases, note)
        rows, table = rows_of(found), show
    else:
        found = {}
        what = args.growth or list(GROWTH)
        rows, table = measure_growth(what, args.most, args.rounds, args.events, note), show_growth
    print(json.dumps({"rows": rows, "measurements": found}, indent=1)) if args.json else table(rows)


def note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
