"""The command line of the kit; `tools/conform --help` shows it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from . import vectors
from .driver import Broken
from .manifest import BuildFailed, Manifest, read_all
from .report import show, write_junit
from .results import FAIL, MISSING, Result
from .session import Session, bus_root

__all__ = ["main"]

_PARTS = ("vectors",)


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="tools/conform", description="Prove peers in any language.")
    parser.add_argument("--only", type=_list, metavar="LANG[,LANG]", help="these languages")
    parser.add_argument(
        "--require", type=_list, default=[], metavar="LANG[,LANG]", help="fail if one is missing"
    )
    parser.add_argument(
        "--vectors", action="append_const", dest="parts", const="vectors", help="the vectors only"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    parser.add_argument("--keep", action="store_true", help="keep the directories of the buses")
    return parser.parse_args(argv)


def _list(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def ready(peers: dict[str, Manifest], results: list[Result]) -> dict[str, Manifest]:
    """Build the peers; note those that cannot be run, and return the others."""
    found = {}
    for language, peer in peers.items():
        missing = peer.missing()
        if missing:
            results.append(
                Result(language, "build", "build", "build", MISSING, f"needs {', '.join(missing)}")
            )
            continue
        try:
            peer.make()
        except BuildFailed as error:
            results.append(Result(language, "build", "build", "build", FAIL, str(error)))
            continue
        found[language] = peer
    return found


def run_vectors(peer: Manifest, root: Path) -> Iterator[Result]:
    """Run every vector through the driver of a peer, which must then end well."""
    with Session(peer, root) as session:
        yield from vectors.run(session)
        try:
            session.end()
        except Broken as error:
            yield Result(peer.language, "vectors", "end", "end", FAIL, str(error))


def main(argv: list[str]) -> int:
    """Run what `argv` asks for; return 0 if nothing fails."""
    args = parse(argv)
    peers = read_all()
    unknown = sorted({*(args.only or ()), *args.require} - peers.keys())
    if unknown:
        sys.exit(f"no peer {', '.join(unknown)}: there are {', '.join(peers)}")
    chosen = {name: peer for name, peer in peers.items() if args.only is None or name in args.only}
    results: list[Result] = []
    running = ready(chosen, results)
    parts = args.parts or _PARTS
    with bus_root(args.keep) as root:
        for peer in running.values():
            if "vectors" in parts:
                results += run_vectors(peer, root)
    show(results)
    if args.junit:
        write_junit(results, args.junit)
    return int(_failed(results, args.require))


def _failed(results: list[Result], require: list[str]) -> bool:
    return any(
        result.verdict == FAIL or (result.verdict == MISSING and result.row in require) for result in results
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
