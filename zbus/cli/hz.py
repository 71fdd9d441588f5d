"""`zbus hz`: how often, how regularly and how late events arrive."""

from __future__ import annotations

from typing import Any

import click

from .arrival_table import RATES
from .measuring import measure, measuring_options

__all__ = ["hz"]


@click.command()
@measuring_options
def hz(**options: Any) -> int:
    """Measure rate, jitter and latency of events, by topic.

    It subscribes to PATTERN and KIND as `zbus sub` does, and decodes no data. RATE/S counts events over the
    window, received and lost. LOST is what this command itself missed, which the numbers of events prove.
    MIN, MAX and STDEV are of the time between two frames, as they were sent. P50 and P99 are the latency,
    from the send until this command has the event. An event that does not tell its time has no latency.

    On a terminal the table stays in place; elsewhere one follows the other.

    The JSON object has `time` and `topics`. A topic has `system`, `kind`, `seconds` (the window so far),
    `received`, `lost`, `rate`, `bytes` (a second), `size`, `size_min` and `size_max` (bytes of a frame),
    `period`, `period_min`, `period_max` and `period_stdev` (between two frames), `latency_p50`, `latency_p99`
    and `latency_max`. Times are seconds, and what is unknown is null.

    Exit codes: 0 --once has seen events, 1 it has seen none or there is no such bus, 130 for Ctrl-C.

    \b
    Examples:
      zbus hz 'orders.**'
      zbus hz --once --window 5 --json '*' 'cpu.*'
    """
    return measure(RATES, **options)
