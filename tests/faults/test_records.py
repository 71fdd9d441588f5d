"""Records: whole to whoever reads them, however their writer ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from .records import Records

FORM = "QI4x"
WRITER = """
import os, signal, sys
from pathlib import Path
from tests.faults.records import Records
records = Records(Path(sys.argv[1]), "QI4x")
for number in range(20_000):
    records.append(2**63 + number, number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_is_read(tmp_path: Path) -> None:
    records = Records(tmp_path / "r", FORM)
    assert Records.read(tmp_path / "r", FORM) == []
    records.append(1, 2)
    records.append(3, 4)
    records.append(5, 6)
    records.withdraw()
    records.amend(3, 9)
    assert Records.read(tmp_path / "r", FORM) == [(1, 2), (3, 9)]
    records.close()
    assert Records.read(tmp_path / "r", FORM) == [(1, 2), (3, 9)]


def test_of_a_killed_writer_nothing_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "r"
    done = subprocess.run([sys.executable, "-c", WRITER, path], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Records.read(path, FORM) == [(2**63 + number, number) for number in range(20_000)]


def test_a_file_that_is_not_there_or_empty_has_none(tmp_path: Path) -> None:
    assert Records.read(tmp_path / "r", FORM) == []
    os.close(os.open(tmp_path / "r", os.O_CREAT))
    assert Records.read(tmp_path / "r", FORM) == []
