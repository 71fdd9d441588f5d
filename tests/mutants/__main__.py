"""Put each mutant into a copy of the package, run the tests that must catch it, and tell which do not."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from . import MUTANTS
from .harness import BROKEN, CAUGHT, Tree, Verdict, plain
from .mutant import Mutant

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the mutants that the arguments name; return 0 if all are caught."""
    parser = argparse.ArgumentParser(prog="tools/mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=[""], help="names that contain this")
    parser.add_argument("--list", action="store_true", help="show them, and run nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="run so many at a time")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if any(text in mutant.name for text in options.only)]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name} ({mutant.file})", *mutant.tests, sep="\n    ")
        return 0
    start = time.monotonic()
    counts: Counter[str] = Counter()
    for verdict in verdicts(chosen, options.jobs):
        counts[verdict.what] += 1
        print(f"{verdict.what:14} {verdict.mutant.name}: {verdict.why}", flush=True)
    took = time.monotonic() - start
    figures = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"{len(chosen)} mutants: {figures or 'none'}; {took:.0f} s")
    return 0 if chosen and set(counts) == {CAUGHT} else 1


def verdicts(mutants: list[Mutant], jobs: int) -> Iterator[Verdict]:
    """Judge `mutants`, in `jobs` trees at a time; each as soon as it and those before it are done."""
    trees = [Tree() for _ in range(max(1, min(jobs, len(mutants))))]
    free: SimpleQueue[Tree] = SimpleQueue()
    for tree in trees:
        free.put(tree)
    try:
        failing = trees[0].failing(sorted({test for mutant in mutants for test in mutant.tests}))

        def judge(mutant: Mutant) -> Verdict:
            if broken := failing.intersection(map(plain, mutant.tests)):
                return Verdict(mutant, BROKEN, f"fails without the fault: {sorted(broken)}")
            tree = free.get()
            try:
                return tree.judge(mutant)
            finally:
                free.put(tree)

        with ThreadPoolExecutor(len(trees)) as pool:
            yield from pool.map(judge, mutants)
    finally:
        for tree in trees:
            tree.close()


if __name__ == "__main__":
    sys.exit(main())
