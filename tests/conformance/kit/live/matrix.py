"""Which pairs play which checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

from ..driver import Broken, PeerError, Unsupported
from ..manifest import Manifest
from ..results import FAIL, PASS, UNSUPPORTED, Result
from . import ends, flows, losses, measures, meetings
from .stage import Stage, Wrong, unsupported

__all__ = ["CHECKS", "pairs", "play", "run"]

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
_LONG = {"many"}  # in the long form only
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


def run(
    peers: dict[str, Manifest], chosen: list[tuple[str, str]], root: Path, full: bool, pool: Executor
) -> Iterator[Result]:
    """Have `pool` play each check of each pair; return the results in order, to be waited for."""
    jobs = [
        (pair, name, number)
        for number in range(_REPEATS if full else 1)
        for name in CHECKS
        if full or name not in _LONG
        for pair in chosen
    ]
    return pool.map(lambda job: _job(peers, *job, root, full), jobs)


def _job(
    peers: dict[str, Manifest], pair: tuple[str, str], name: str, number: int, root: Path, full: bool
) -> Result:
    place = (
        root / f"{list(CHECKS).index(name)}.{list(peers).index(pair[0])}{list(peers).index(pair[1])}{number}"
    )
    place.mkdir()
    publisher, subscriber = (peers[language] for language in pair)
    began = time.monotonic()
    verdict, message = play(name, publisher, subscriber, peers["python"], place, full)
    seconds = time.monotonic() - began
    case = f"{name} {number + 1}" if full else name
    return Result(" → ".join(pair), "live", name, case, verdict, message, seconds)


def play(
    name: str, publisher: Manifest, subscriber: Manifest, python: Manifest, root: Path, full: bool = False
) -> tuple[str, str]:
    """Run one check; return the verdict, and why."""
    stage = Stage(publisher, subscriber, python, root, full)
    try:
        unsupported(name, publisher, subscriber)
        CHECKS[name](stage)
        stage.finish()
        return PASS, ""
    except Unsupported as error:
        return UNSUPPORTED, str(error)
    except PeerError as error:
        return FAIL, f"raised {error}"
    except (Wrong, Broken) as error:
        return FAIL, str(error)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return FAIL, f"an answer has another form: {type(error).__name__}: {error}"
    finally:
        stage.kill_all()
