"""What the processes of the faults do: `python -m tests.faults.workers NAME ARGUMENTS...`.

As in `tests/live/workers.py`: JSON lines out, the first says that it is ready; lines in; none outlives its
standard input.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from . import giving, joins, numbers, odd, sizes, streams, tails

WORKERS: dict[str, Callable[..., None]] = {
    worker.__name__: worker
    for worker in (
        giving.giver,
        giving.keeper,
        joins.churn,
        joins.cramped,
        joins.greedy,
        joins.joiner,
        joins.late,
        joins.mount,
        joins.together,
        numbers.teller,
        odd.clocked,
        odd.forker,
        sizes.heavy_load,
        sizes.heavy_reader,
        streams.hold,
        streams.listen,
        streams.load,
        streams.resident,
        streams.torrent,
        streams.victim,
        tails.speaker,
        tails.speaker_on_topics,
        tails.tail_reader,
    )
}

if __name__ == "__main__":
    logging.getLogger("zbus").addHandler(logging.NullHandler())  # losses are meant here
    WORKERS[sys.argv[1]](*sys.argv[2:])
