"""A soak: processes come, go, stop and die at random, and what became of every event is proved.

It runs in *acts* of half a minute. In an act, publishers, subscribers and tools are started, stopped and
continued, ended or killed; then all but two have to leave: one publisher and one subscriber, the *elders*,
are on the bus for the whole run. While they are alone it is seen that the others left nothing behind, and a
checker process proves the act from what all had noted, while the next act runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .act import Act
from .cast import LIMIT, ROOT, Failure, Process, now, wait_for
from .ledger import COLUMNS, Ledger
from .remains import Holdings, leftovers, strangers

__all__ = ["main"]

ACT_SECONDS = 27.0
"""With the leaving and the looking, two acts are about a minute."""

# In each minute at the least, or the run has shown nothing.
LEAST = {
    "events": 20_000,
    "delivered": 50_000,
    "reported": 50,
    "subscriptions": 40,
    "kills": 6,
    "stops": 6,
    "publishers": 6,
    "tools": 4,
}


class Soak:
    """One run."""

    def __init__(self, seed: str, publishers: int, subscribers: int) -> None:
        self.ledger = Ledger()
        self._rng = random.Random(seed)
        self._most = {"publish": publishers, "listen": subscribers}
        self.directory = Path(tempfile.mkdtemp(prefix="zb-"))
        self._environment = {"ZBUS_DIR": str(self.directory / "bus"), "ZBUS_BUS": "default"}
        self._roster = self.directory / "bus" / "v1" / "default"
        self._elders: tuple[Process, ...] = ()
        self._holdings: dict[int, Holdings] = {}
        self._checkers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._suspect: set[Path] = set()
        self._acts = 0

    def run(self, minutes: float) -> None:
        """Play acts until the time is over, two at the least: the first shows what elders hold at rest.

        A busy machine does little in that time. It gets up to three times as many acts to do enough.
        """
        until = time.monotonic() + minutes * 60
        try:
            self._open()
            while self._acts < 2 or time.monotonic() + ACT_SECONDS / 2 < until:
                self._play()
            most = 3 * self._acts
            while self._acts < most and self._has_done_too_little(minutes):
                self._play()
            self._close()
        except Failure as failure:
            self.ledger.violation(str(failure))
        finally:
            for elder in self._elders:
                elder.kill()
            for checker, _ in self._checkers:
                checker.kill()
                checker.communicate()

    def _has_done_too_little(self, minutes: float) -> bool:
        self._collect()
        return bool(check_least(self.ledger.sums, minutes))

    def _open(self) -> None:
        directory = self.directory / "elders"
        directory.mkdir()
        act = Act(self._rng, directory, 1, self._most, self._environment)
        self._elders = (act.start("publish"), act.start("listen"))
        for elder in self._elders:
            if not elder.hear("ready"):
                raise Failure(f"{elder} did not open the bus: {elder.said()}")

    def _play(self) -> None:
        self._acts += 1
        directory = self.directory / f"act{self._acts}"
        directory.mkdir()
        since = now()
        act = Act(self._rng, directory, 1000 * self._acts, self._most, self._environment, self._elders)
        try:
            self._elders[1].tell(f"play {directory}")
            act.play(ACT_SECONDS)
            act.leave()
            self._elders[1].tell("rest")
            if not self._elders[1].hear("resting"):
                act.problems.append(f"{self._elders[1]} does not rest: {self._elders[1].said()}")
        finally:
            act.fall()
        for problem in (*act.problems, *self._look()):
            self.ledger.violation(f"act {self._acts}: {problem}")
            self._suspect.add(directory)
        self.ledger.sums.update(act.done)
        self._collect()
        self._prove(directory, act, since)
        self._report()

    def _look(self) -> list[str]:
        """Return what is there, while the elders are alone, that should not be."""
        for path in self._roster.glob("*.new"):
            path.unlink()  # what a SIGKILL leaves of it goes after a minute (R28), and that is not waited for
        join = [sys.executable, "-m", "zbus", "send", "tool", "joined", "/"]
        subprocess.run(join, cwd=ROOT, env={**os.environ, **self._environment}, check=True, timeout=LIMIT)
        living = {elder.fate.pid for elder in self._elders}
        found = [f"left on the roster: {name}" for name in leftovers(self._roster, living)]
        found += [f"left running: {text}" for text in strangers(living | self._checking())]
        for elder in self._elders:
            before = self._holdings.setdefault(elder.fate.pid, Holdings.of(elder.fate.pid))
            held = Holdings.settled(elder.fate.pid, before)
            if held.exceeds(before):
                found.append(f"{elder} holds {held}, after the first act {before}")
        return found

    def _checking(self) -> set[int]:
        return {checker.pid for checker, _ in self._checkers}

    def _prove(self, directory: Path, act: Act, since: int) -> None:
        fates = [process.fate for process in (*self._elders, *act.past)]
        # The elder subscriber's notes are in the act's directory, the elder publisher's go on in its own.
        fates[1] = replace(fates[1], directory=str(directory))
        facts = {"since": since, "fates": [asdict(fate) for fate in fates]}
        (directory / "act.json").write_text(json.dumps(facts))
        command = [sys.executable, "-m", "tests.faults.checker", str(directory)]
        self._checkers.append((subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE), directory))

    def _collect(self) -> None:
        """Take in the ledger of the act before; keep its notes only if something was wrong."""
        while self._checkers:
            checker, directory = self._checkers[0]
            out, _ = checker.communicate(timeout=10 * LIMIT)
            del self._checkers[0]
            if checker.returncode:
                raise Failure(f"the checker failed for {directory}")
            verdict: dict[str, Any] = json.loads(out)
            self.ledger.add(verdict["sums"], [f"{directory.name}: {text}" for text in verdict["texts"]])
            if not verdict["sums"].get("violations") and directory not in self._suspect:
                shutil.rmtree(directory)

    def _report(self) -> None:
        sums = self.ledger.sums
        print(
            f"act {self._acts} is over; proved so far: {sums['events']:,} events, {sums['pairs']:,} pairs,"
            f" {sums['violations']:,} violations",
            file=sys.stderr,
        )

    def _close(self) -> None:
        """End the elders; afterwards nothing is there at all."""
        for elder in self._elders:
            elder.dismiss()
        self._collect()
        for problem in wait_for(self._elders):
            self.ledger.violation(problem)
        for name in leftovers(self._roster, set()):
            self.ledger.violation(f"left on the roster at the end: {name}")


def check_least(sums: Counter[str], minutes: float) -> list[str]:
    """Return of what too little was done for the run to show anything."""
    return [
        f"too little was done: {sums[name]:,} {name}, want {int(least * minutes):,}"
        for name, least in LEAST.items()
        if sums[name] < int(least * minutes)
    ]


def print_ledger(ledger: Ledger) -> None:
    """Print the sums for people."""
    sums = ledger.sums
    print(f"{sums['events']:>14,}  events sent by {sums['publishers']:,} publishers and tools,")
    print(f"{sums['unheard']:>14,}      of them while nobody listened")
    print(f"{sums['subscriptions']:>14,}  subscriptions that came and went")
    done = "kills {kills:,}, stops {stops:,}, orderly ends {ends:,}, tools {tools:,}"
    print(f"{'':>14}  {done.format_map(sums)}")
    print(f"{sums['pairs']:>14,}  pairs of an event and a subscription that selects it, of which")
    for name, text in COLUMNS.items():
        print(f"{sums[name]:>14,}      {text}")
    print(f"{sums['violations']:>14,}  violations")
    for text in ledger.texts:
        print(f"    {text}")


def main(argv: list[str]) -> int:
    """Run a soak, print its ledger; return 0 if nothing was violated and enough was done."""
    parser = argparse.ArgumentParser(prog="tools/faults soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="default 2")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="what is done follows from it")
    parser.add_argument("--publishers", type=int, default=4, help="at a time, at most; default 4")
    parser.add_argument(
        "--subscribers", type=int, default=4, help="likewise, with 3 channels each; default 4"
    )
    parser.add_argument("--json", action="store_true", help="print the ledger as JSON")
    options = parser.parse_args(argv)
    print(f"soak: {options.minutes:g} minutes, --seed {options.seed}", file=sys.stderr)
    soak = Soak(options.seed, options.publishers, options.subscribers)
    soak.run(options.minutes)
    ledger = soak.ledger
    for problem in check_least(ledger.sums, options.minutes):
        ledger.violation(problem)
    if options.json:
        print(json.dumps({"seed": options.seed, "sums": ledger.sums, "violations": ledger.texts}))
    else:
        print_ledger(ledger)
    if ledger.sums["violations"]:
        print(f"soak: failed, --seed {options.seed}; notes are kept in {soak.directory}", file=sys.stderr)
        return 1
    shutil.rmtree(soak.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
