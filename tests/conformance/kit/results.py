"""What came of each case: a verdict, and the tables made of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAIL", "MISSING", "PARTS", "PASS", "UNSUPPORTED", "Result", "tell"]

PASS, FAIL, UNSUPPORTED, MISSING = "pass", "FAIL", "not supported", "missing"
PARTS = ("vectors", "differential", "checks", "live")


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        row: a language, or a pair of them: `go → python`.
        part: one of `PARTS`, or `build`.
        check: what the case belongs to, for example `json`.
        case: its id.
        verdict: one of the four.
        message: why it fails or is not supported.
        seconds: how long it took; for information.
    """

    row: str
    part: str
    check: str
    case: str
    verdict: str
    message: str = ""
    seconds: float = 0.0


def tell(results: list[Result]) -> str:
    """Return one verdict for several cases: a failure if there is one, a pass if one passed."""
    verdicts = {result.verdict for result in results}
    if FAIL in verdicts:
        return FAIL
    if PASS in verdicts:
        return PASS
    return next(iter(verdicts), MISSING)
