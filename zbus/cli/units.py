"""Counts, sizes and ages as short text, of a known number of characters, for columns."""

from __future__ import annotations

__all__ = ["age_text", "count_text", "duration_text", "size_text"]

_PREFIXES = "kMGTPEZY"


def count_text(value: float) -> str:
    """Return a number of events in at most six characters."""
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 99_999.5 else _scaled(value, "")


def size_text(value: float | None) -> str:
    """Return a number of bytes in at most seven characters."""
    if value is None:
        return "-"
    return f"{value:.0f} B" if value < 999.5 else _scaled(value, "B")


def _scaled(value: float, unit: str) -> str:
    scaled = value
    for prefix in _PREFIXES:
        scaled /= 1000
        if scaled < 999.5:
            digits = f"{scaled:.1f}" if scaled < 99.95 else f"{scaled:.0f}"
            return f"{digits} {prefix}{unit}" if unit else digits + prefix
    return f"{value:.0e}"  # nobody is so fast, but anybody may write so


def age_text(seconds: float | None) -> str:
    """Return an age in at most seven characters."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds else "0"
    if seconds < 99_999.5:
        return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
    return f"{seconds / 86_400:.0f} d" if seconds < 8e9 else f"{seconds:.0e}s"


def duration_text(seconds: float) -> str:
    """Return a short time in at most six characters."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms" if seconds < 0.00995 else f"{seconds * 1e3:.0f} ms"
    return age_text(seconds)
