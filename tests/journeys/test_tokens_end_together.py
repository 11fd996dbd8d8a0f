"""Three replicas act as one client of KSeF while tokens end and workers die."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.journeys.conftest import RunningService, running_service
from tests.service import Company

pytestmark = pytest.mark.slow

NIPS = ("5265877635", "7812019453")
REFRESH = "/auth/token/refresh"
CALLERS = 60


@pytest.fixture
def replicas(
    database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> Iterator[list[RunningService]]:
    with ExitStack() as running:
        yield [
            running.enter_context(
                running_service(database, sandbox, secret_key, tmp_path / f"log{number}")
            )
            for number in range(3)
        ]


@pytest.fixture
def questions(make_company: Callable[..., Company], control: Any) -> list[tuple[Company, str]]:
    """Companies and what each asks: moving sessions, for which KSeF is asked each time."""
    asked = []
    for nip in NIPS:
        company = make_company(nip, environments=("test", "demo"))
        for environment in ("test", "demo"):
            session = control.seed_session(environment, nip, state="open", invoices=0)
            asked.append((company, f"/invoices/{environment}/status/{session.reference_number}"))
    return asked


def ask_all(
    replicas: list[RunningService], questions: list[tuple[Company, str]], count: int = CALLERS
) -> list[tuple[int, str]]:
    """What as many callers at once are told, by all replicas in turn."""
    start = threading.Barrier(count)

    def ask(number: int) -> tuple[int, str]:
        company, path = questions[number % len(questions)]
        url = replicas[number % len(replicas)].url + path
        with requests.Session() as http:
            http.trust_env = False
            start.wait(30)
            answer = http.get(url, headers=company.authorization, timeout=30)
        return answer.status_code, "" if answer.ok else answer.json()["detail"]

    with ThreadPoolExecutor(count) as callers:
        return list(callers.map(ask, range(count)))


def workers(replica: RunningService) -> list[int]:
    """gunicorn's workers: the children of its process."""
    return [child.pid for child in psutil.Process(replica.process.pid).children()]


def refreshes(control: Any) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for call in control.calls():
        if call.path.endswith(REFRESH):
            key = (call.environment, call.nip)
            found[key] = found.get(key, 0) + 1
    return found


@pytest.mark.fault(22)
@pytest.mark.parametrize("how", ["by the clock", "refused by KSeF"])
def test_access_tokens_that_end_together_are_refreshed_once_each(
    replicas: list[RunningService],
    questions: list[tuple[Company, str]],
    database: Any,
    control: Any,
    how: str,
) -> None:
    ask_all(replicas, questions, 12)  # every replica knows the passwords
    control.clear_calls()
    if how == "by the clock":
        database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
    else:
        for environment in ("test", "demo"):
            control.expire_bearers(environment, kind="access")

    told = ask_all(replicas, questions)

    assert told == [(200, "")] * CALLERS
    counted = refreshes(control)
    assert sorted(counted.values()) == [1, 1, 1, 1]
    assert {environment for environment, _ in counted} == {"test", "demo"}


@pytest.mark.fault(22)
def test_refreshing_worker_is_killed(
    replicas: list[RunningService],
    questions: list[tuple[Company, str]],
    database: Any,
    control: Any,
    settings: Any,
) -> None:
    """FAULTS.md row 22: the next one takes over within the lease of a refresh."""
    company, path = questions[0]
    ask_all(replicas, questions[:1], 6)
    control.clear_calls()
    database.execute("UPDATE ksef_sessions SET access_token_valid_until = now()")
    control.fault("hang", path=REFRESH, seconds=20, times=1)

    def first() -> None:
        # Its worker is killed below: that no retry of ours can mend.
        with suppress(requests.RequestException):
            requests.get(replicas[0].url + path, headers=company.authorization, timeout=30)

    killed = threading.Thread(target=first)
    killed.start()
    deadline = time.monotonic() + 5
    while not database.execute("SELECT 1 FROM leases WHERE name LIKE 'auth %'"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for worker in workers(replicas[0]):
        os.kill(worker, signal.SIGKILL)
    began = time.monotonic()

    told = ask_all(replicas[1:], questions[:1], 20)

    assert told == [(200, "")] * 20
    assert time.monotonic() - began <= settings.timing.lease_refresh + 2
    killed.join(30)
    # The one of the dead worker, of which KSeF heard, and the one of whoever took over.
    assert sum(refreshes(control).values()) <= 2
