"""`make faults`: the fault matrix, one line a row.

Runs every test marked `@pytest.mark.fault(row, ...)`, wherever it stands. A row passes when all of
its tests pass, and fails when one fails or there is none. What pytest itself says goes to a file.

    python -m tests.faults [--list]     --list: the tests of each row, without running them
"""

import sys
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

ROWS = {
    1: "no connection: refused, no route, no name",
    2: "TLS that proves nothing",
    3: "reset before an answer",
    4: "answer cut short",
    5: "slow or silent server",
    6: "HTTP 5xx, JSON or HTML",
    7: "429 with any Retry-After",
    8: "429 in the middle of a list",
    9: "JSON that is broken or of another shape",
    10: "web page in place of an answer",
    11: "list without an end, bad page tokens",
    12: "list that stutters, loses its place or lags",
    13: "UPO whose hash is wrong or missing",
    14: "hostile, oversized or wrong UPO",
    15: "download link to somebody else, redirects",
    16: "download link that no longer works",
    17: "KSeF does not know it, or not yet",
    18: "403 for want of a right",
    19: "403 of the firewall",
    20: "access token ends within a call",
    21: "new token refused, refresh token ended",
    22: "replicas' tokens end together, one dies",
    23: "login: lost, keys changed, stuck, blocked",
    24: "a replica's clock is wrong",
    25: "PostgreSQL restarts, is down, hangs, is full of callers",
    26: "deadlock, serialization failure",
    27: "disk full, read-only database",
    28: "worker killed before or within a commit",
    29: "SIGTERM under load",
    30: "Latarnia down, slow or talking nonsense",
    31: "Latarnia says outage, KSeF answers",
    32: "simulated outage, also of prod",
    33: "hostile paths and parameters",
    34: "PDF of odd texts and of 10,000 invoices",
    35: "21173 for a session that KSeF has shown, or of today",
    36: "pages of up to 32 MiB and longer, more than 10,000 invoices",
    37: "duplicate that names its own session, none, or a wrong one",
    38: "outage announced while a renewal, a login or a bulk list fails",
    39: "PostgreSQL's answer lost after its commit",
    40: "clients that send half, never close, guess passwords",
    41: "logout beside a login, a renewal, a status check",
    42: "UPO whose signature is broken, a stranger's or missing",
    43: "followers killed, two at once, KSeF down; receivers of webhooks killed, hanging",
    44: "identifiers, times or keys of KSeF that cannot be",
}
PROJECT = Path(__file__).parents[2]
LOG = PROJECT / ".test/faults.log"


class Matrix:
    """A plugin of pytest that collects what became of each row's tests."""

    def __init__(self) -> None:
        self.tests: dict[int, set[str]] = defaultdict(set)
        self.failed: set[int] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The tests are known; where they are only listed, that is all."""
        for item in session.items if session.config.option.collectonly else ():
            self._add(item.user_properties, item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test has ended: skipped is neither passed nor failed."""
        if report.failed:
            self.failed |= _rows(report.user_properties)
        elif report.passed and report.when == "call":
            self._add(report.user_properties, report.nodeid)

    def _add(self, properties: Any, test: str) -> None:
        for row in _rows(properties):
            self.tests[row].add(test)


def _rows(properties: Any) -> set[int]:
    """The rows that tests/conftest.py has written down beside a test."""
    return {row for name, row in properties if name == "fault"}


def main(arguments: list[str]) -> int:
    """Run or list the matrix; 1 where a row fails."""
    matrix = Matrix()
    listing = arguments == ["--list"]
    options = ["--collect-only", "--numprocesses=0"] if listing else []
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log, redirect_stdout(log), redirect_stderr(log):
        code = pytest.main(["-m", "fault", *options, str(PROJECT / "tests")], plugins=[matrix])
    for row, words in ROWS.items():
        if listing:
            print(row, *sorted(matrix.tests[row]))
        else:
            good = matrix.tests[row] and row not in matrix.failed
            print(f"{row:2}  {words:56} {'pass' if good else 'FAIL'}")
    unknown = (set(matrix.tests) | matrix.failed) - set(ROWS)
    failed = code or unknown or matrix.failed or not all(matrix.tests[row] for row in ROWS)
    if failed:
        print(f"What pytest said: {LOG}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
