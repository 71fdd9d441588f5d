"""Which pairs play which checks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

from ..manifest import Manifest
from ..results import Result
from ..session import Judge
from . import ends, flows, losses, measures, meetings
from .stage import Stage, Wrong, unsupported

__all__ = ["CHECKS", "SHORT", "pairs", "play", "submit"]

CHECKS: dict[str, Callable[[Stage], None]] = {
    "order": flows.order,
    "data": flows.data,
    "topics": flows.topics,
    "batches": flows.batches,
    "sizes": flows.sizes,
    "block": flows.block,
    "block-close": flows.block_at_close,
    "loss": losses.loss_at_rest,
    "loss-close": losses.loss_at_close,
    "loss-batch": losses.loss_in_batches,
    "loss-slow": losses.loss_of_slow,
    "many": losses.many_topics,
    "strict": meetings.strict_joins,
    "joins": meetings.joins,
    "first": meetings.first_events,
    "busy": meetings.busy,
    "closed": ends.closed,
    "kill-pub": ends.killed_publisher,
    "kill-sub": ends.killed_subscriber,
    "stop-pub": ends.stopped_publisher,
    "stop-sub": ends.stopped_subscriber,
    "remade": ends.remade,
    "echo": measures.echo,
    "speed": measures.speed,
}
SHORT = [name for name in CHECKS if name != "many"]
"""The checks of the short form."""
_REPEATS = 3  # in the long form


def pairs(peers: dict[str, Manifest], full: bool) -> list[tuple[str, str]]:
    """Return publishers and subscribers: all with all, or all with Python and a ring of the others."""
    names = list(peers)
    if full:
        return [(one, other) for one in names for other in names]
    others = [name for name in names if name != "python"]
    found = [("python", "python")] if "python" in peers else []
    for name in others:
        found += [("python", name), (name, "python")]
    if len(others) > 1:
        found += zip(others, [*others[1:], others[0]], strict=True)
    elif others:
        found += [(others[0], others[0])]
    return found


def submit(
    peers: dict[str, Manifest],
    chosen: list[tuple[str, str]],
    checks: list[str],
    root: Path,
    full: bool,
    pool: Executor,
) -> list[Future[list[Result]]]:
    """Have `pool` play each check of each pair; return what will hold the result of each."""
    return [
        pool.submit(_job, peers, pair, name, number, root, full)
        for number in range(_REPEATS if full else 1)
        for name in checks
        for pair in chosen
    ]


def _job(
    peers: dict[str, Manifest], pair: tuple[str, str], name: str, number: int, root: Path, full: bool
) -> list[Result]:
    place = (
        root / f"{list(CHECKS).index(name)}.{list(peers).index(pair[0])}{list(peers).index(pair[1])}{number}"
    )
    place.mkdir()
    publisher, subscriber = (peers[language] for language in pair)
    result = play(name, publisher, subscriber, peers["python"], place, full)
    return [replace(result, case=f"{name} {number + 1}") if full else result]


def play(
    name: str, publisher: Manifest, subscriber: Manifest, python: Manifest, root: Path, full: bool = False
) -> Result:
    """Run one check in a directory of its own."""

    def action() -> str | None:
        with Stage(publisher, subscriber, python, root, full) as stage:
            try:
                unsupported(name, publisher, subscriber)
                CHECKS[name](stage)
                stage.finish()
            except Wrong as error:
                return str(error)
        return None

    return Judge(f"{publisher.language} → {subscriber.language}", "live").result(name, name, action)
