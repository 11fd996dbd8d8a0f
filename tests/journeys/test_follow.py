"""`follow` as a process: many at once, killed at any moment, ended by SIGTERM."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.services.events import follow
from tests.journeys.conftest import service_environment
from tests.rows import add_synced, synced_sessions
from tests.service import Company

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def start(database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path) -> Any:
    """Start a process that follows, `start()`; its standard error is the file `log`."""

    @contextmanager
    def started(*options: str) -> Iterator["subprocess.Popen[bytes]"]:
        environment = service_environment(database, sandbox, secret_key)
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "tests.wsgi", "follow", *options],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    return started


def _until(done: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_sigterm_ends_it_soon_and_cleanly(
    start: Any, company: Company, control: Any, database: Any, tmp_path: Path
) -> None:
    """Also while it waits for KSeF."""
    control.fault("hang", seconds=30, path="/v2/sessions$", times=None)
    with start() as process:
        _until(lambda: control.call_counts())
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 3
    log = (tmp_path / "log").read_text()
    assert "following ends" in log
    assert "Traceback" not in log
    assert database.execute("SELECT * FROM leases") == []


def test_once_does_what_is_due_and_ends(start: Any, company: Company, control: Any) -> None:
    control.seed_session("test", company.nip, invoices=2)
    for _ in range(2):
        with start("--once") as process:
            assert process.wait(30) == 0
    assert control.call_counts()["GET /{environment}/v2/sessions/{reference}"] == 1


@pytest.mark.fault(43)
def test_three_of_them_killed_again_and_again_leave_nothing_undone(
    start: Any, company: Company, control: Any, database: Any
) -> None:
    account = company.account()
    chosen = random.Random(16)
    sessions = [control.seed_session("test", company.nip, invoices=3) for _ in range(20)]
    for session in sessions:
        add_synced(database, account, session.ksef_numbers)

    def done() -> bool:
        [(left,)] = database.execute(
            "SELECT count(*) FROM followed_sessions WHERE archived_at IS NULL"
        )
        [(found,)] = database.execute("SELECT count(*) FROM followed_sessions")
        return bool(found == 20 and left == 0)

    for _ in range(6):
        with start() as one, start() as two, start() as three:
            time.sleep(chosen.uniform(0.8, 2.0))
            for process in (one, two, three):
                os.kill(process.pid, signal.SIGKILL)
        database.execute("UPDATE leases SET expires_at = now()")  # it has run out
    with start():
        _until(done)
        _until(lambda: follow.known_until(account) is not None)
    assert synced_sessions(database, account) == {
        number: session.reference_number for session in sessions for number in session.ksef_numbers
    }
    assert database.execute("SELECT count(*) FROM upos") == [(60,)]
    assert not [call for call in control.calls() if call.status == 429]
