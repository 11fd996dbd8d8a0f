"""Rows 1, 24, 28 and 29 of the fault matrix: what befalls a replica itself, or its machine."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from tests.answers import assert_problem
from tests.faults.conftest import BOTH, ENDPOINTS, GRACE, NIP, TIMING, Asker, StartReplicas, serve
from tests.journeys.conftest import RunningService
from tests.journeys.test_tokens_end_together import workers
from tests.rows import OFFLINE

pytestmark = pytest.mark.slow


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- 1: names -------------------------------------------------------------------------------


@contextmanager
def silent_name_server(folder: Path) -> Iterator[list[str]]:
    """A command: what it runs asks a name server that takes every question and never answers.

    The file that names the server is covered in a mount namespace of the command's own.
    """
    address = "127.0.0.153"
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {address}\n")
    command = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", command, str(file)]
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can redirect the resolver")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((address, 53))
        yield before
        silent.setblocking(False)
        assert silent.recv(4096)  # it was asked


@pytest.mark.fault(1)
def test_name_server_that_never_answers(
    asker: Asker, database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> None:
    """With the durations of production."""
    with (
        silent_name_server(tmp_path) as before,
        serve(
            database,
            sandbox,
            secret_key,
            tmp_path / "log",
            application="wsgi:app",
            before=before,
            KSEF_URL_TEST="https://ksef.example.com/v2",
        ) as replica,
        ThreadPoolExecutor() as callers,
    ):
        asked = [callers.submit(asker.ask, endpoint, of=replica) for endpoint in ENDPOINTS]
        answers = [answer.result() for answer in asked]
        for answer in answers:
            assert_problem(answer, 502, "ksef_unreachable")
            assert answer.seconds <= 6
            assert answer.json["outage"]["consecutiveFailures"] == 0  # our own trouble
    assert asker.wrote_nothing()


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    "url",
    ["https://ksef.invalid/v2", "https://[100::1]/v2"],
    ids=["no such name", "an address without a route"],
)
def test_network_of_our_own_that_fails(
    asker: Asker, database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path, url: str
) -> None:
    asker.control.set_latarnia("test", "FAILURE")  # not even this makes it an outage of KSeF
    latarnia = f"{sandbox.url}/latarnia/test"
    settings = {"KSEF_URL_TEST": url, "LATARNIA_URL_TEST": latarnia}
    with serve(database, sandbox, secret_key, tmp_path / "log", **settings) as replica:
        for endpoint in ENDPOINTS:
            answer = asker.ask(endpoint, of=replica)
            assert_problem(answer, 502, "ksef_unreachable")
            assert answer.seconds <= TIMING.ksef_connect + GRACE
            assert answer.json["outage"]["consecutiveFailures"] == 0
    assert asker.wrote_nothing()


# -- 24: clocks -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running_clocks(
    _migrated_database: Any, start_replicas: StartReplicas
) -> Iterator[list[RunningService]]:
    """Replicas whose clocks are right, ten minutes fast, and ten minutes slow."""
    each: list[dict[str, str]] = [{}, {"CLOCK_AHEAD": "600"}, {"CLOCK_AHEAD": "-600"}]
    with start_replicas(_migrated_database[0], *each) as replicas:
        yield replicas


@pytest.fixture
def clocks(running_clocks: list[RunningService], asker: Asker) -> Asker:
    return replace(asker, replicas=running_clocks)


def told(answer: Any) -> Any:
    """All that is the same, whichever replica answers."""
    return {name: value for name, value in answer.json.items() if name != "checkedAt"}


@pytest.mark.fault(24)
@BOTH
def test_wrong_clock_changes_no_answer(clocks: Asker, endpoint: str) -> None:
    """Each replica is asked cold, then all of them from the store: tokens and links are good."""
    sessions = [clocks.control.seed_session("test", NIP, invoices=2) for _ in clocks.replicas]
    for replica, session in zip(clocks.replicas, sessions, strict=True):
        first = clocks.ask(endpoint, session, of=replica)
        assert first.status_code == 200
        assert clocks.ask("upo", session, of=replica).status_code == 200
        calls = len(clocks.calls())
        for other in clocks.replicas:
            again = clocks.ask(endpoint, session, of=other)
            assert told(again) == told(first)
            assert 0 <= int(again.headers.get("Age", "0")) <= 10
        assert len(clocks.calls()) == calls
    assert not [call for call in clocks.control.calls() if "/auth/" in call.path]


@pytest.mark.fault(24)
def test_wrong_clock_logs_in_and_refreshes_like_the_others(clocks: Asker) -> None:
    for replica in clocks.replicas:
        clocks.control.rotate_keys("test")
        clocks.control.expire_bearers("test", nip=NIP)
        session = clocks.control.seed_session("test", NIP)
        assert clocks.ask("status", session, of=replica).status_code == 200
        clocks.control.expire_bearers("test", kind="access", nip=NIP)
        assert clocks.ask("upo", session, of=replica).status_code == 200


@pytest.mark.fault(24)
@pytest.mark.parametrize("number", range(3), ids=["right", "fast", "slow"])
def test_wrong_clock_waits_after_a_429_as_long_as_the_others(clocks: Asker, number: int) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    clocks.control.fault("rate-limited", path="/sessions/", retryAfter=until)
    answer = clocks.ask("status", of=clocks.replicas[number])
    assert 95 <= answer.json["retryAfter"] <= 101
    for replica in clocks.replicas:
        assert 90 <= clocks.ask("status", of=replica).json["retryAfter"] <= 101
    assert clocks.calls() == ["GET 429"]


# -- 28: killed -----------------------------------------------------------------------------


@pytest.fixture
def victim(start_replicas: StartReplicas, database: Any) -> Iterator[RunningService]:
    with start_replicas(database, {}) as [replica]:
        yield replica


def kill_while_it_waits(asker: Asker, endpoint: str, victim: RunningService, lock: str) -> None:
    """Ask; kill the worker once it waits for what this takes first."""
    with (
        closing(psycopg2.connect(asker.database.owner_dsn)) as holder,
        holder.cursor() as cursor,
        ThreadPoolExecutor() as caller,
    ):
        cursor.execute(lock)
        asked = caller.submit(asker.ask, endpoint, of=victim)
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
        wait_until(lambda: asker.database.execute(waiting))
        for worker in workers(victim):
            os.kill(worker, signal.SIGKILL)
        assert isinstance(asked.exception(), requests.ConnectionError)
        wait_until(lambda: not asker.database.execute(waiting))


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("endpoint", "table"),
    [("status", "kept_sessions"), ("status", "kept_invoices"), ("upo", "upos")],
)
def test_killed_between_fetch_and_commit(
    asker: Asker, victim: RunningService, endpoint: str, table: str
) -> None:
    """Nothing is half kept, and whoever repeats asks KSeF once more."""
    # It lets others read, and hold what they insert until the end.
    kill_while_it_waits(asker, endpoint, victim, f"LOCK TABLE {table} IN SHARE MODE")
    assert asker.wrote_nothing()
    fetched = len(asker.calls())
    for _ in asker.replicas:
        assert asker.ask(endpoint).status_code == 200
    assert len(asker.calls()) == 2 * fetched
    assert endpoint == "upo" or all(asker.linked())


@pytest.mark.fault(28)
@pytest.mark.parametrize("stored", [False, True], ids=["cold", "stored"])
def test_killed_inside_the_link_transaction(
    asker: Asker, victim: RunningService, stored: bool
) -> None:
    """One table is linked already when the worker dies: neither is, until the ERP repeats."""
    if stored:
        asker.keep_answers()
        asker.database.execute(
            "UPDATE synced_invoices SET session_reference_number = NULL;"
            "UPDATE offline_invoices SET session_reference_number = NULL"
        )
    kill_while_it_waits(asker, "status", victim, f"SELECT 1 FROM {OFFLINE} FOR UPDATE")
    assert not any(asker.linked())
    fetched = asker.calls()
    assert asker.ask("status").status_code == 200
    assert all(asker.linked())
    assert asker.calls() == fetched  # the answer was kept before its rows were linked


# -- 29: stopped ----------------------------------------------------------------------------


@pytest.mark.fault(29)
def test_stopped_under_load(asker: Asker, victim: RunningService) -> None:
    """What was begun is answered whole, what was not has no byte; KSeF is slow all the while."""
    asker.control.fault("delay", path="/sessions/", times=None, seconds=0.2)
    sessions = [asker.control.seed_session("test", NIP, invoices=3) for _ in range(60)]
    whole: list[int] = []
    refused: dict[int, str] = {}

    def ask(number: int) -> None:
        endpoint = ENDPOINTS[number % 2]
        url = victim.url + asker.path(endpoint, sessions[number])
        name = {"Connection": "close", "X-Request-ID": f"stopped-{number}"}
        headers = {**asker.company.authorization, **name}
        try:
            answer = requests.get(url, headers=headers, timeout=30)
        except requests.ConnectionError as error:
            refused[number] = str(error)
            return
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert len(body["invoices"]) == 3 if endpoint == "status" else body["content"]
        whole.append(number)

    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(ask, number) for number in range(len(sessions))]
        wait_until(lambda: len(whole) >= 8)
        began = time.monotonic()
        victim.terminate()
        assert victim.wait() == 0
        assert time.monotonic() - began <= 25
        for answer in asked:
            answer.result()
    begun = {call.path.split("/sessions/")[1].split("/")[0] for call in asker.control.calls("test")}
    lost = [n for n in refused if sessions[n].reference_number in begun]
    log = victim.log.read_text().splitlines()
    # What the caller saw, and what the service says of it.
    assert [(refused[n], [line for line in log if f'"stopped-{n}"' in line]) for n in lost] == []
    assert {sessions[number].reference_number for number in whole} == begun
    assert refused
    # requests says so where no byte of an answer has come; else "Connection broken".
    errors = refused.values()
    assert all("refused" in error or "Connection aborted" in error for error in errors)
