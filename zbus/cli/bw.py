"""`zbus bw`: how many bytes arrive."""

from __future__ import annotations

from typing import Any

import click

from .arrival_table import BANDWIDTH
from .measuring import measure, measuring_options

__all__ = ["bw"]


@click.command()
@measuring_options
def bw(**options: Any) -> int:
    """Measure how many bytes arrive, by topic.

    It subscribes to PATTERN and KIND as `zbus sub` does, and decodes no data. BYTES/S counts whole frames
    over the window, as they were received; MEAN, MIN and MAX are their sizes. Events that were sent together
    are one frame. RATE/S counts events, received and lost. LOST is what this command itself missed, which the
    numbers of events prove, and whose bytes nobody knows.

    On a terminal the table stays in place; elsewhere one follows the other.

    The JSON object is that of `zbus hz`.

    Exit codes: 0 --once has seen events, 1 it has seen none or there is no such bus, 130 for Ctrl-C.

    \b
    Examples:
      zbus bw 'camera.*'
      zbus bw --once --window 5 --json '*'
    """
    return measure(BANDWIDTH, **options)
