"""The histogram of `zbus bench`. It needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import BinaryIO

from matplotlib.figure import Figure

__all__ = ["draw"]

_BINS = 120
_COLOURS = ("#8a94a0", "#2f6fde")


def draw(file: BinaryIO, format: str, latencies: Mapping[str, Sequence[float]]) -> None:
    """Draw how often each latency occurred.

    Args:
        file: where to.
        format: `svg` or `png`.
        latencies: seconds, by what was measured.
    """
    every = [value * 1e6 for values in latencies.values() for value in values]
    low, high = math.log10(min(every)), math.log10(max(every))
    edges = [10 ** (low + (high - low) * index / _BINS) for index in range(_BINS + 1)]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, values), colour in zip(latencies.items(), _COLOURS, strict=True):
        micros = [value * 1e6 for value in values]
        middle = median(micros)
        axes.hist(micros, bins=edges, alpha=0.6, color=colour, label=f"{name}, p50 {middle:.0f} µs")
        axes.axvline(middle, color=colour, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("one-way latency, µs")
    axes.set_ylabel("events")
    axes.legend()
    figure.savefig(file, format=format)
