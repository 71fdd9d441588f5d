"""The colours of the page of `zbus web` can be read, in light and in dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import zbus

STYLE = (Path(zbus.__file__).parent / "web" / "static" / "page.css").read_text()
LEAST_CONTRAST = 4.5  # what WCAG 2 asks of text at level AA


def schemes() -> list[dict[str, str]]:
    """Return the colours by name: in light, and in dark."""
    found = [
        dict(re.findall(r"--([\w-]+): (#\w+);", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)
    ]
    assert len(found) == 2
    return found


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_measure_of_contrast() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
def test_text_stands_out(scheme: dict[str, str]) -> None:
    for ground in ("ground", "panel"):
        for text in ("text", "muted", "accent", "bad"):
            assert contrast(scheme[text], scheme[ground]) >= LEAST_CONTRAST, (text, ground)
    assert contrast(scheme["on-accent"], scheme["accent"]) >= LEAST_CONTRAST
