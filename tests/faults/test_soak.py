"""A minute of the soak."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .soak import LEAST, check_least


@pytest.mark.timeout(600)
def test_a_minute_of_coming_going_stopping_and_dying() -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "1"]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=580, check=False
    )
    # Both have the seed and the ledger with what was violated.
    assert run.returncode == 0, f"{run.stderr}\n{run.stdout}"


def test_an_empty_run_cannot_pass() -> None:
    assert len(check_least(Counter(), 1.0)) == len(LEAST)
    assert check_least(Counter(LEAST), 1.0) == []
