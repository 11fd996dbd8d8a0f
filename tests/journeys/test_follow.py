"""`follow` as a process: many at once, killed at any moment, ended by SIGTERM."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.account import Account
from app.services.sessions.search import known_sessions as known
from app.settings import Timing
from bench import following
from tests.journeys.conftest import service_environment
from tests.rows import add_synced, synced_sessions
from tests.service import Company

LAG = timedelta(seconds=Timing().follow_overlap + 20)
BEGIN_OF_TIME = datetime.fromtimestamp(0, UTC)
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def start(database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path) -> Any:
    """Start a process that follows, `start()`; its standard error is the file `log`."""

    @contextmanager
    def started(
        *options: str, app: str = "tests.wsgi", **settings: str
    ) -> Iterator["subprocess.Popen[bytes]"]:
        environment = service_environment(database, sandbox, secret_key) | settings
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", app, "follow", *options],
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_once_does_what_is_due_and_ends(start: Any, company: Company, control: Any) -> None:
    control.seed_session("test", company.nip, invoices=2)
    for _ in range(2):
        with start("--once") as process:
            assert process.wait(30) == 0
    assert control.call_counts()["GET /{environment}/v2/sessions/{reference}"] == 1


@pytest.mark.slow
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
        _until(lambda: _known_until(account) > BEGIN_OF_TIME)
    assert synced_sessions(database, account) == {
        number: session.reference_number for session in sessions for number in session.ksef_numbers
    }
    assert database.execute("SELECT count(*) FROM upos") == [(60,)]
    assert not [call for call in control.calls() if call.status == 429]


SCALE = 0.03  # an hour is 108 s
TIMING = {
    **{name: getattr(Timing(), name) * SCALE for name in ("follow_most", "follow_least")},
    **{name: getattr(Timing(), name) * SCALE for name in ("follow_moving", "follow_failing")},
    **{name: getattr(Timing(), name) * SCALE for name in ("fresh_least", "fresh_most", "relist")},
    "quota_scale": SCALE,
    "follow_poll": 0.3,
    "follow_turn": 3.0,
    "follow_lease": 6.0,
    "ksef_connect": 1.0,
    "ksef_call": 2.0,
    "retry_left": 1.0,
    "outage_after": 0.3,
    "outage_probe": 1.0,
    "outage_probe_every": 1.0,
}


@pytest.mark.slow
@pytest.mark.fault(43)
def test_an_erp_that_never_polls_has_everything(
    start: Any, company: Company, control: Any, database: Any
) -> None:
    """Seventy sessions an hour; three processes killed again and again; KSeF down for a while."""
    account = company.account()
    chosen = random.Random(43)
    control.settings(quota=True, quotaScale=SCALE)
    expected: dict[str, str] = {}
    begun = time.monotonic()
    with ExitStack() as running:
        processes: list[Any] = [None] * 3

        def begin(number: int) -> None:
            processes[number] = running.enter_context(
                start(app="bench.wsgi", BENCH_TIMING=json.dumps(TIMING))
            )

        for number in range(3):
            begin(number)
        kills = 0
        while (passed := time.monotonic() - begun) < 60:
            control.set_api("test", available=not 25 < passed < 35)
            session = control.seed_session(
                "test",
                company.nip,
                kind=chosen.choice(("online", "batch")),
                state=chosen.choice(("moving", "finished")),
                finishes_after=chosen.uniform(1, 4),
                invoices=chosen.randrange(1, 5),
                date_created=datetime.now(UTC).isoformat(),
            )
            numbers = [invoice.ksef_number for invoice in session.invoices]
            add_synced(database, account, numbers)
            expected |= dict.fromkeys(numbers, session.reference_number)
            time.sleep(1.5)
            if chosen.random() < 0.5:
                number = chosen.randrange(3)
                os.kill(processes[number].pid, signal.SIGKILL)
                begin(number)
                kills += 1
        assert kills > 5
        _until(lambda: synced_sessions(database, account) == expected, 120)
        _until(lambda: _unproved(database) == 0, 120)  # a killed one holds its lease for 60 s
        finished = datetime.now(UTC)
        _until(lambda: _known_until(account) > finished - LAG, 120)
    calls = control.calls("test")
    assert not [call for call in calls if call.status == 429]
    lists = [
        datetime.fromisoformat(call.at)
        for call in calls
        if call.route == "/{environment}/v2/sessions"
    ]
    hour = timedelta(hours=SCALE)
    assert max(sum(at <= other < at + hour for other in lists) for at in lists) <= 30


@pytest.mark.slow
@pytest.mark.fault(43)
def test_twenty_killed_processes_keep_each_rule() -> None:
    """A part of `make chaos`, without the time of live callers: a busy machine tells it wrong."""
    found = [verdict for verdict in following.run(20) if verdict.rule != "F6"]
    assert [str(verdict) for verdict in found if not verdict.holds] == []


def _known_until(account: Account) -> datetime:
    found = known(account)
    return (found and found.known_until) or BEGIN_OF_TIME


def _unproved(database: Any) -> int:
    """How many accepted invoices are in no archived UPO, neither their own nor a collective one,
    and how many finished sessions are not noted as archived."""
    [(invoices, sessions)] = database.execute(
        "SELECT (SELECT count(*) FROM kept_invoices AS invoice"
        " WHERE status @> '{\"code\": 200}' AND NOT EXISTS ("
        " SELECT FROM upos WHERE session_reference_number = invoice.session_reference_number"
        " AND upos.ksef_number IN (invoice.ksef_number, ''))),"  # none: a collective one
        " (SELECT count(*) FROM followed_sessions WHERE archived_at IS NULL)"
    )
    return int(invoices) + int(sessions)
