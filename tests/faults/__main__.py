"""Break things on purpose, on real processes and sockets, and print what survived as a table."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from . import (
    churn,
    crowds,
    directory,
    endings,
    files,
    fuzz,
    given,
    hangs,
    hostile,
    kills,
    limits,
    linking,
    numbers,
    places,
    queues,
    sizes,
    tails,
    users,
)
from .harness import FAIL, Case, Row, stage

__all__ = ["CASES", "SEED", "main", "run"]

SEED = 20261124

CASES: dict[int, Case] = {
    1: kills.publisher_killed,
    2: kills.subscriber_killed,
    3: queues.subscriber_stopped,
    4: queues.slow_reader,
    5: directory.unusable,
    6: directory.stale,
    7: churn.joins_and_leaves,
    8: fuzz.fuzzed,
    9: hostile.too_large,
    10: hostile.too_many,
    11: limits.limited,
    12: files.damaged,
    13: crowds.crowds,
    14: places.placed,
    15: endings.ended,
    16: given.given,
    17: hangs.hanging,
    18: crowds.neighbours,
    19: sizes.sizes,
    20: users.several_users,
    21: tails.told_to_the_end,
    22: numbers.publishing,
    23: linking.links_killed,
}


def run(number: int, seed: int, quick: bool) -> Iterator[Row]:
    """Make the faults of one number; a case that breaks down is a row that fails."""
    rows = 0
    try:
        with stage(number, seed, quick) as ours:
            for row in CASES[number](ours):
                rows += 1
                yield row
    except Exception as error:
        row = Row(number, CASES[number].__name__.replace("_", " "), strict=True)
        row.claim(f"broke down after {rows} rows: {type(error).__name__}: {error}", False)
        yield row


def facts(row: Row) -> dict[str, Any]:
    return {**vars(row), "verdict": row.verdict}


def show(row: Row) -> None:
    cells = (str(row.number), row.fault, row.done, row.lost, "; ".join(row.figures), row.verdict)
    print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)
    for claim in row.broken:
        print(f"  broken: {claim[:1000]}", file=sys.stderr, flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help=f"of all random choices (default {SEED})")
    parser.add_argument("--rounds", type=int, default=1, help="how often; the seed counts up (default 1)")
    parser.add_argument(
        "--only", type=int, nargs="+", choices=CASES, default=list(CASES), help="these faults"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, thresholds of speed not judged")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the faults that `argv` asks for; return 1 if one fails, else 0."""
    if argv[:1] == ["soak"]:
        soak = importlib.import_module("tests.faults.soak")  # a command line of its own, and much to import
        return int(soak.main(argv[1:]))
    args = parse(argv)
    print(f"seed {args.seed}, {args.rounds} rounds{', quick' if args.quick else ''}", file=sys.stderr)
    if not args.json:
        print("| # | fault | done | lost | measured | verdict |\n|---|---|---|---|---|---|", flush=True)
    verdicts: Counter[str] = Counter()
    for index in range(args.rounds):
        for number in args.only:
            for row in run(number, args.seed + index, args.quick):
                verdicts[row.verdict] += 1
                print(json.dumps(facts(row)), flush=True) if args.json else show(row)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()), file=sys.stderr)
    return int(verdicts[FAIL] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
