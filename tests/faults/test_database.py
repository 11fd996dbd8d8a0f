"""Rows 25 to 27 of the fault matrix: PostgreSQL fails, on a server of this module's own."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import postgres
from tests.answers import HttpAnswer, assert_problem
from tests.conftest import PROJECT, DatabaseServer, TestDatabase, migrated
from tests.faults.conftest import BOTH, ENDPOINTS, GRACE, NIP, TIMING, Asker, Logged, StartReplicas
from tests.journeys.conftest import RunningService
from tests.rows import SYNCED, one_connection

pytestmark = pytest.mark.slow

# KSeF may take its time, so that PostgreSQL can fail meanwhile.
PATIENT = replace(TIMING, ksef_call=6.0, request=12.0)
Ask = Callable[[], dict[str, HttpAnswer]]


@dataclass
class Server:
    """A PostgreSQL that can be stopped, started again and frozen."""

    folder: Path
    running: postgres.EmbeddedPostgres

    def stop(self) -> None:
        self.running.stop()

    def start(self) -> None:
        self.running = postgres.start(self.folder, durable=False)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """All its processes stand still: connections are open, and taken on, and nobody answers."""
        postmaster = psutil.Process(self.running.process.pid)
        processes = [postmaster, *postmaster.children()]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = PROJECT / f".test/postgres-faults-{os.getpid()}"
    server = Server(folder, postgres.start(folder, durable=False))
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.running.folder)
        shutil.rmtree(folder, ignore_errors=True)  # where the folder was moved


@pytest.fixture(scope="module")
def _migrated_database(server: Server) -> Iterator[tuple[TestDatabase, str]]:
    with migrated(DatabaseServer(server.running.dsn())) as database:
        yield database


@pytest.fixture(scope="module")
def _running_replicas(
    _migrated_database: Any, start_replicas: StartReplicas
) -> Iterator[list[RunningService]]:
    with start_replicas(_migrated_database[0], {}, {}, {}, timing=PATIENT) as replicas:
        yield replicas


def ask_at_once(asker: Asker, *more: str) -> dict[str, HttpAnswer]:
    """Both questions, and other paths, each of a replica of its own."""
    with ThreadPoolExecutor() as callers:
        asked = {
            name: callers.submit(asker.get, asker.path(name) if name in ENDPOINTS else name)
            for name in (*ENDPOINTS, *more)
        }
        return {name: answer.result() for name, answer in asked.items()}


def assert_503(answer: HttpAnswer, seconds: float) -> None:
    assert_problem(answer, 503, "unavailable", retry_after=5)
    assert answer.seconds <= seconds


@contextmanager
def while_ksef_is_asked(asker: Asker) -> Iterator[Ask]:
    """Both questions are with KSeF, which takes three seconds; then their answers can be had."""
    asker.control.fault("delay", path="/sessions/", times=2, seconds=3)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask_at_once, asker)
        wait_until(lambda: not asker.control.waiting_faults())
        yield asked.result


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- restart, down, hung --------------------------------------------------------------------


@pytest.mark.fault(25)
def test_restart_while_ksef_is_asked_is_not_noticed(asker: Asker, server: Server) -> None:
    with while_ksef_is_asked(asker) as answers:
        server.stop()
        server.start()
    assert {name: answer.status_code for name, answer in answers().items()} == {
        "status": 200,
        "upo": 200,
    }
    assert all(asker.linked())
    assert len(asker.calls()) == 3  # the session, its list, the UPO: nothing was asked again


@pytest.mark.fault(25)
def test_restart_under_load(asker: Asker, server: Server) -> None:
    """Whoever is not answered meanwhile is refused in time; afterwards everybody is answered."""
    asker.keep_answers()
    asked, over = 0, threading.Event()
    refused: list[HttpAnswer] = []

    def ask(number: int) -> None:
        nonlocal asked
        replica = asker.replicas[number % len(asker.replicas)]
        while not over.is_set():
            answer = asker.ask(ENDPOINTS[number % 2], of=replica)
            asked += 1
            if answer.status_code != 200:
                refused.append(answer)

    with ThreadPoolExecutor(6) as callers:
        asking = [callers.submit(ask, number) for number in range(6)]
        try:
            wait_until(lambda: asked > 30)
            server.stop()
            wait_until(lambda: len(refused) > 6)
            server.start()
            for replica in asker.replicas:
                wait_until(lambda replica=replica: asker.ask("upo", of=replica).status_code == 200)
            known, before = len(refused), asked
            wait_until(lambda: asked > before + 30)
        finally:
            over.set()
        for one in asking:
            one.result()
    assert len(refused) <= known + len(asking)  # those that were on their way
    for answer in refused:
        assert_503(answer, 2 + GRACE)
    assert asker.control.calls() == []


@pytest.mark.fault(25)
def test_down(asker: Asker, server: Server) -> None:
    asker.keep_answers()
    server.stop()
    try:
        for _ in range(2):
            for name, answer in ask_at_once(asker, "/readyz").items():
                assert_503(answer, 2 + (GRACE if name == "status" else 0))
        assert asker.get("/livez").status_code == 200
        assert asker.control.calls() == []
    finally:
        server.start()
    answers = ask_at_once(asker, "/readyz")
    assert [answer.status_code for answer in answers.values()] == [200] * 3
    assert asker.control.calls() == []


@pytest.mark.fault(25)
def test_hanging(asker: Asker, server: Server) -> None:
    """First on connections that stand, then on new ones that nobody answers."""
    for replica in asker.replicas:
        assert asker.ask("status", of=replica).status_code == 200
    asker.control.clear_calls()
    with server.hanging():
        for _ in range(2):
            for answer in ask_at_once(asker, "/readyz").values():
                assert_503(answer, 6)
    assert asker.control.calls() == []
    for replica in asker.replicas:
        wait_until(lambda replica=replica: asker.ask("status", of=replica).status_code == 200)


@pytest.mark.fault(25)
def test_hanging_once_ksef_was_asked(asker: Asker, server: Server) -> None:
    with while_ksef_is_asked(asker) as answers, server.hanging():
        told = answers()
    assert_503(told["status"], 3 + 6)
    # It was checked, though neither archived nor audited (row 27).
    assert told["upo"].status_code == 200
    for replica in asker.replicas:
        wait_until(lambda replica=replica: asker.ask("status", of=replica).status_code == 200)
    assert all(asker.linked())


# -- deadlock, serialization failure --------------------------------------------------------


WAITS_FOR_LOCK = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND application_name = 'ksef-proxy'"
)


@pytest.mark.fault(26)
@pytest.mark.parametrize("stored", [False, True], ids=["cold", "stored"])
def test_deadlock_with_a_transaction_of_the_erp(asker: Asker, stored: bool) -> None:
    """The service locks the first row and waits for the second; the ERP does it the other way."""
    if stored:
        asker.keep_answers()
        asker.database.execute(f"UPDATE {SYNCED} SET session_reference_number = NULL")
    first, second = sorted(asker.session.ksef_numbers)
    change = f"UPDATE {SYNCED} SET invoice_number = 'x' WHERE ksef_number = '{{}}'"
    with (
        ThreadPoolExecutor() as pool,
        one_connection(asker.database) as watcher,
        one_connection(asker.database) as erp,
    ):
        erp.execute("SET deadlock_timeout = '1min'")  # so that it is the service that gives way
        erp.execute("BEGIN")
        erp.execute(change.format(second))
        asked = pool.submit(asker.ask, "status")
        wait_until(lambda: watcher.execute(WAITS_FOR_LOCK))
        erp.execute(change.format(first))
        erp.execute("COMMIT")
        answer = asked.result()
    assert answer.status_code == 200, answer.text
    assert all(asker.linked())
    assert len(asker.calls()) == (0 if stored else 2)
    assert asker.database.execute(f"SELECT count(*) FROM {SYNCED} WHERE invoice_number = 'x'") == [
        (2,)
    ]
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    wait_until(lambda: asker.database.execute(deadlocks)[0][0] > 0)


@contextmanager
def failing(asker: Asker, sqlstate: str, *tables: str, times: int = 10**9) -> Iterator[None]:
    """Writes to the tables fail for the first `times`, as PostgreSQL fails with this SQLSTATE."""
    execute = asker.database.execute
    execute(
        "CREATE SEQUENCE failures;"
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        f" IF nextval('failures') <= {times} THEN"
        f" RAISE 'made to fail' USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$"
    )
    for table in tables:
        execute(
            f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION fail()"
        )
    try:
        yield
    finally:
        execute("DROP FUNCTION fail CASCADE; DROP SEQUENCE failures")


SERIALIZATION_FAILURE = "40001"
WRITES = [("quota_calls", "status"), ("quota_calls", "upo"), ("kept_sessions", "status")]
WRITES += [("kept_invoices", "status"), (SYNCED, "status")]


@pytest.mark.fault(26)
@pytest.mark.parametrize(("table", "endpoint"), WRITES)
def test_serialization_failure_is_retried_three_times(
    asker: Asker, table: str, endpoint: str
) -> None:
    with failing(asker, SERIALIZATION_FAILURE, table, times=3):
        answer = asker.ask(endpoint)
    assert answer.status_code == 200, answer.text
    assert len(asker.calls()) == (2 if endpoint == "status" else 1)
    assert endpoint == "upo" or all(asker.linked())


@pytest.mark.fault(26)
@pytest.mark.parametrize(("table", "endpoint"), WRITES)
def test_serialization_failure_that_stays_is_503_and_the_repeat_converges(
    asker: Asker, table: str, endpoint: str
) -> None:
    with failing(asker, SERIALIZATION_FAILURE, table, times=4):
        assert_503(asker.ask(endpoint), GRACE)
        assert not any(asker.linked())
        assert asker.ask(endpoint).status_code == 200
    assert endpoint == "upo" or all(asker.linked())


# -- disk full, read-only -------------------------------------------------------------------


@contextmanager
def read_only(asker: Asker) -> Iterator[None]:
    """As on a standby: whoever connects may read."""
    name = asker.database.name
    admin = asker.database.server
    leave = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'ksef-proxy'"
    )
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    admin.execute(leave)
    try:
        yield
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        admin.execute(leave)


@contextmanager
def full_disk(asker: Asker) -> Iterator[None]:
    tables = asker.database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind = 'r' AND relname <> 'schema_migrations'"
    )
    with failing(asker, "53100", *(table for (table,) in tables)):
        yield


@pytest.mark.fault(27)
@BOTH
@pytest.mark.parametrize("trouble", [read_only, full_disk])
def test_stored_answers_are_served_and_ksef_is_not_asked(
    asker: Asker, trouble: Any, endpoint: str
) -> None:
    asker.keep_answers()
    cold = asker.control.seed_session("test", NIP)
    stored = asker.stored()
    with trouble(asker):
        for _ in asker.replicas:
            assert asker.ask(endpoint).status_code == 200
        assert_503(asker.ask(endpoint, cold), GRACE)
    assert asker.control.calls() == []
    assert asker.stored() == stored
    assert asker.ask(endpoint, cold).status_code == 200


@pytest.mark.fault(27)
@pytest.mark.parametrize("trouble", [read_only, full_disk])
def test_a_stored_answer_that_is_still_to_be_completed_is_served(
    asker: Asker, trouble: Any
) -> None:
    asker.keep_answers()
    asker.database.execute(
        "UPDATE kept_invoices SET more = NULL;"
        " UPDATE kept_sessions SET body_form = NULL, asked_at = asked_at - interval '1 hour'"
    )
    stored = asker.stored()
    with trouble(asker):
        for _ in asker.replicas:
            answer = asker.ask("status")
            assert (answer.status_code, answer.json["final"]) == (200, True)
            assert {invoice["invoiceHash"] for invoice in answer.json["invoices"]} == {None}
    assert asker.control.calls() == []
    assert asker.stored() == stored
    assert None not in {i["invoiceHash"] for i in asker.ask("status").json["invoices"]}


@pytest.mark.fault(27)
@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
def test_archive_that_cannot_be_written_does_not_fail_the_answer(
    asker: Asker, doc_type: str
) -> None:
    with failing(asker, "53100", "upos"):
        assert asker.get(f"{asker.path('upo')}?docType={doc_type}").status_code == 200
    assert asker.database.execute("SELECT count(*) FROM upos") == [(0,)]


@pytest.mark.fault(27)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_archive_on_a_disk_that_is_really_full(
    asker: Asker, server: Server, logged: Logged
) -> None:
    disk = server.running.folder / "disk"
    disk.mkdir()
    owner = (server.running.folder / "data").stat()
    options = f"size=256k,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    execute = asker.database.execute
    try:
        execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        execute("ALTER TABLE upos SET TABLESPACE small")
        execute("TRUNCATE upos")  # else a row may fit in where one of an earlier test was
        free = os.statvfs(disk)
        (disk / "rest").write_bytes(bytes(free.f_bavail * free.f_bsize))
        assert asker.ask("upo").status_code == 200
        assert execute("SELECT count(*) FROM upos") == [(0,)]
        assert '"sqlstate":"53100"' in logged.text()
        (disk / "rest").unlink()
        assert asker.ask("upo").status_code == 200
        assert execute("SELECT count(*) FROM upos") == [(1,)]
    finally:
        (disk / "rest").unlink(missing_ok=True)
        execute("ALTER TABLE upos SET TABLESPACE pg_default")
        execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", "-l", disk], check=True)
