"""More requests than threads: who is answered, who waits, who is refused; one worker."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.answers import HttpAnswer, assert_problem
from tests.journeys.conftest import RunningService, running_service
from tests.journeys.test_tokens_end_together import workers
from tests.service import Company

pytestmark = pytest.mark.slow

NOISY, OTHER = "5265877635", "7812019453"
Serve = Callable[..., AbstractContextManager[RunningService]]


@pytest.fixture
def serve(database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path) -> Serve:
    """Start a service with so many threads; `timing`: fields of Timing."""

    @contextmanager
    def start(threads: int, *, timing: Any = None, **settings: Any) -> Iterator[RunningService]:
        with running_service(
            database,
            sandbox,
            secret_key,
            tmp_path / "log",
            **{
                "application": "tests.faults.wsgi:app",
                "TEST_TIMING": json.dumps(timing or {}),
                "WEB_CONCURRENCY": "1",
                "WEB_THREADS": str(threads),
                **settings,
            },
        ) as service:
            yield service
        assert b"Traceback" not in service.log.read_bytes()

    return start


def get(service: RunningService, path: str, company: Company | None = None) -> HttpAnswer:
    headers = company.authorization if company else {}
    return HttpAnswer(requests.get(service.url + path, headers=headers, timeout=40))


def status_path(control: Any, company: Company, environment: str = "test") -> str:
    session = control.seed_session(environment, company.nip, invoices=1)
    return f"/invoices/{environment}/status/{session.reference_number}"


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_waited_too_long_is_refused_and_logged(
    serve: Serve, make_company: Any, control: Any
) -> None:
    company = make_company(NOISY)
    slow, stored = status_path(control, company), status_path(control, company)
    with serve(1, timing={"queue": 0.3}) as service, ThreadPoolExecutor() as callers:
        assert get(service, stored, company).status_code == 200
        control.fault("delay", path="/sessions/", seconds=1.0)
        first = callers.submit(get, service, slow, company)
        until(lambda: not control.waiting_faults())
        second = callers.submit(get, service, stored, company)
        alive = callers.submit(get, service, "/livez")
        assert first.result().status_code == 200
        assert_problem(second.result(), 503, "unavailable", retry_after=5)
        assert alive.result().status_code == 200
        assert get(service, stored, company).status_code == 200
        [line] = [
            json.loads(line)
            for line in service.log.read_text().splitlines()
            if '"code":"unavailable"' in line
        ]
        assert line["requestId"] == second.result().json["requestId"]
        assert line["waitedMs"] > 300
        assert line["ksefCalls"] == 0
        refused = 'ksef_proxy_refused_requests_total{reason="waited"} 1.0'
        headers = company.authorization
        assert refused in requests.get(f"{service.url}/metrics", headers=headers, timeout=9).text


def test_a_ksef_that_hangs_leaves_stored_answers_and_other_companies_alone(
    serve: Serve, make_company: Any, control: Any
) -> None:
    noisy, other = make_company(NOISY), make_company(OTHER)
    stored = [status_path(control, company) for company in (noisy, other)]
    new = [status_path(control, noisy) for _ in range(12)]
    timing = {"place_wait": 0.2, "ksef_call": 8.0, "request": 20.0}
    with serve(8, timing=timing) as service, ThreadPoolExecutor(16) as callers:
        for company, path in zip((noisy, other), stored, strict=True):
            assert get(service, path, company).status_code == 200
        control.clear_calls()
        control.fault("delay", environment="test", path="/sessions/", times=None, seconds=30)
        asked = [callers.submit(get, service, path, noisy) for path in new]
        until(lambda: sum(one.done() for one in asked) == 6)  # no place for these
        for one in asked:
            if one.done():
                assert_problem(one.result(), 503, "unavailable", retry_after=5)
        fresh = status_path(control, other, "demo")
        assert get(service, "/livez").status_code == 200
        for company, path in zip((noisy, other, other), (*stored, fresh), strict=True):
            assert get(service, path, company).status_code == 200
        assert sum(one.done() for one in asked) == 6  # all that while KSeF hung
        assert {one.result().status_code for one in asked} == {502, 503}
        control.clear_faults()
        for path in new:  # each place was given back
            assert get(service, path, noisy).status_code == 200


def test_clients_that_go_away_give_their_places_back(
    serve: Serve, make_company: Any, control: Any
) -> None:
    company = make_company(NOISY)
    paths = [status_path(control, company) for _ in range(6)]
    head = "".join(f"{name}: {value}\r\n" for name, value in company.authorization.items())
    with serve(8, timing={"place_wait": 0.0}) as service:
        control.fault("delay", path="/sessions/", times=len(paths), seconds=1.0)
        address = ("127.0.0.1", urlsplit(service.url).port)
        for path in paths:
            with socket.create_connection(address) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: b\r\n{head}\r\n".encode())
        until(lambda: not control.waiting_faults())
        for path in paths:  # each may be under way until its answer is stored
            until(lambda path=path: get(service, path, company).status_code == 200)
        with ThreadPoolExecutor(len(paths)) as callers:
            new = [status_path(control, company) for _ in paths]
            answers = list(callers.map(lambda path: get(service, path, company), new))
        assert [answer.status_code for answer in answers] == [200] * len(paths)


def test_one_user_with_many_requests_does_not_keep_another_one_waiting(
    serve: Serve, make_company: Any, control: Any
) -> None:
    noisy, other = make_company(NOISY), make_company(OTHER)
    stored = status_path(control, other)
    new = [status_path(control, noisy) for _ in range(20)]
    with (
        serve(1, timing={"queue": 20.0, "request": 30.0}) as service,
        ThreadPoolExecutor(21) as callers,
    ):
        assert get(service, stored, other).status_code == 200
        control.settings(latencySeconds=0.1)  # of each of two calls
        asked = [callers.submit(get, service, path, noisy) for path in new]
        until(lambda: any(one.done() for one in asked))
        assert get(service, stored, other).status_code == 200
        assert sum(one.done() for one in asked) <= 10
        assert {one.result().status_code for one in asked} == {200}


def test_connections_that_say_nothing_hold_no_thread(serve: Serve) -> None:
    with serve(1) as service, ExitStack() as silent:
        for _ in range(20):
            address = ("127.0.0.1", urlsplit(service.url).port)
            silent.enter_context(socket.create_connection(address))
        answer = get(service, "/livez")
        assert answer.status_code == 200
        assert answer.seconds < 4  # gunicorn's own worker would wait for the first of them for 5 s


def test_more_connections_than_files_do_not_end_a_worker(serve: Serve) -> None:
    """Connections wait at the door for those that say nothing to be closed."""
    limited = ["sh", "-c", 'ulimit -n 600 && exec "$0" "$@"']
    with serve(8, before=limited) as service, ExitStack() as silent:
        before = workers(service)
        for _ in range(700):
            address = ("127.0.0.1", urlsplit(service.url).port)
            silent.enter_context(socket.create_connection(address))
        assert get(service, "/livez").status_code == 200
        assert workers(service) == before
