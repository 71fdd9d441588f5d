"""The command line of the kit; `tools/conform --help` shows it."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from . import languages
from .live import matrix
from .lock import alone
from .manifest import Manifest, read_all
from .packages import install
from .parts import prove, ready
from .report import progress, show, write_junit
from .results import FAIL, MISSING, PARTS, Result
from .session import bus_root

__all__ = ["failed", "main", "run"]

_SEED = 20261127
_INTERRUPTED = 130
_AT_A_TIME = 2  # for each core: most of what runs waits


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="tools/conform", description="Prove peers in any language.")
    parser.add_argument("--only", type=_list, metavar="LANG[,LANG]", help="these languages")
    parser.add_argument(
        "--require", type=_list, default=[], metavar="LANG[,LANG]", help="fail if one is missing"
    )
    for part in PARTS[:-1]:
        parser.add_argument(f"--{part}", action="store_true", help="this part only")
    parser.add_argument(
        "--live",
        nargs="?",
        type=_live,
        const=[],
        metavar="CHECK[,CHECK]",
        help="this part only, or these checks of it",
    )
    parser.add_argument("--full", action="store_true", help="the long form: more cases, repeats and pairs")
    parser.add_argument("--seed", type=int, default=_SEED, help=f"of the random cases (default {_SEED})")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/languages.md")
    parser.add_argument("--install", action="store_true", help="install what is missing, as root on Debian")
    parser.add_argument("--keep", action="store_true", help="keep the directories of the buses")
    return parser.parse_args(argv)


def _list(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _live(text: str) -> list[str]:
    unknown = {*_list(text)} - matrix.CHECKS.keys()
    if unknown:
        told = f"no check {', '.join(sorted(unknown))}: there are {', '.join(matrix.CHECKS)}"
        raise argparse.ArgumentTypeError(told)
    return _list(text)


def main(argv: list[str]) -> int:
    """Run what `argv` asks for; return 0 if nothing fails."""
    args = parse(argv)
    peers = read_all()
    unknown = sorted({*(args.only or ()), *args.require} - peers.keys())
    if unknown:
        sys.exit(f"no peer {', '.join(unknown)}: there are {', '.join(peers)}")
    chosen = {name: peer for name, peer in peers.items() if args.only is None or name in args.only}
    if args.install:
        install(chosen.values())
    results: list[Result] = []
    interrupted = False
    try:
        with alone(chosen.values()), bus_root(args.keep) as root:
            run(chosen, peers["python"], args, root, results)
    except KeyboardInterrupt:
        interrupted = True
    show(results)
    if args.docs and not interrupted:
        languages.write(list(peers.values()), results)
    if args.junit:
        write_junit(results, args.junit)
    if interrupted:
        print("interrupted: these are not all", file=sys.stderr)
        return _INTERRUPTED
    return int(failed(results, args.require))


def run(
    chosen: dict[str, Manifest],
    python: Manifest,
    args: argparse.Namespace,
    root: Path,
    results: list[Result],
) -> None:
    """Build the chosen peers and run the parts that are asked for, of all peers at once.

    What comes of it is added to `results`, in order, also if the run is interrupted. What fails is told at
    once, too.
    """
    parts = [part for part in PARTS if getattr(args, part) not in (None, False)] or PARTS
    waiting: list[Future[list[Result]]] = []
    with ThreadPoolExecutor(_AT_A_TIME * (os.cpu_count() or 1)) as pool:
        running = {}
        for peer, why in zip(chosen.values(), pool.map(ready, chosen.values()), strict=True):
            results += why
            if not why:
                running[peer.language] = peer
        for peer in running.values():
            waiting.append(pool.submit(prove, peer, python, parts, root, args.seed, args.full))
        if "live" in parts:
            everyone = running if "python" in running else {**running, "python": python}
            pairs = matrix.pairs(running if args.full else everyone, args.full)
            checks = args.live or (list(matrix.CHECKS) if args.full else matrix.SHORT)
            waiting += matrix.submit(everyone, pairs, checks, root, args.full, pool)
        try:
            for count, done in enumerate(as_completed(waiting), start=1):
                progress(done.result(), count, len(waiting))
        finally:
            pool.shutdown(cancel_futures=True)
            for done in waiting:
                if not done.cancelled():
                    results += done.result()


def failed(results: list[Result], require: list[str]) -> bool:
    """Return whether a case failed, or a peer is missing that is required."""
    return any(
        result.verdict == FAIL or (result.verdict == MISSING and result.row in require) for result in results
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
