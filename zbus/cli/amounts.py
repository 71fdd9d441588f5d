"""Sizes and durations as people write them: `500MB`, `10m`, `1.5h`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

__all__ = ["DURATION", "SPLIT"]

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class _Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        seconds = _amount(value.lower(), _SECONDS)
        if not seconds:
            self.fail(f"{value!r} is not a duration: write 30s, 10m or 1.5h", param, ctx)
        return seconds


class _Split(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "split"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, float]:
        """Return bytes and seconds, one of which is 0."""
        size, seconds = _amount(value.upper(), _BYTES), _amount(value.lower(), _SECONDS)
        if not (size >= 1 or seconds):
            self.fail(f"{value!r} is neither a size nor a duration: write 500MB, 2GiB, 10m or 1h", param, ctx)
        return int(size), seconds


def _amount(text: str, units: Mapping[str, float]) -> float:
    """Return the amount that `text` names in one of `units`, else 0."""
    match = _AMOUNT.fullmatch(text.strip())
    return float(match[1]) * units.get(match[2], 0.0) if match else 0.0


DURATION = _Duration()
SPLIT = _Split()
