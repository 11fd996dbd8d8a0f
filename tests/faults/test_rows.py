"""Every row of the fault matrix has a test."""

import subprocess
import sys

from tests.faults.__main__ import PROJECT, ROWS


def test_every_row_has_a_test() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--list"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
        text=True,
    )
    rows = {int(row): tests for row, *tests in map(str.split, listed.stdout.splitlines())}
    assert list(rows) == list(ROWS) == list(range(1, 35))
    assert [row for row, tests in rows.items() if not tests] == []
