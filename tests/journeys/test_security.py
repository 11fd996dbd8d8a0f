"""The running service has only the rights that are published, and writes no secret anywhere."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
from psycopg2 import errors as sqlstates

from app.services.login import credentials
from tests.journeys.conftest import RunningService, running_service
from tests.rows import add_synced, synced_sessions
from tests.service import PASSWORD, Company, basic

NIP = "5265877635"


@pytest.fixture
def service_at_home(
    database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> Iterator[RunningService]:
    """The service with a home folder of its own, and a log of everything."""
    settings = {"HOME": str(tmp_path), "LOG_LEVEL": "DEBUG"}
    log = tmp_path / "log"
    with running_service(database, sandbox, secret_key, log, **settings) as service:
        yield service


@pytest.mark.slow
def test_main_job_with_the_service_s_role_and_nothing_secret_in_its_log(
    service_at_home: RunningService,
    make_company: Callable[..., Company],
    http: requests.Session,
    control: Any,
    database: Any,
    tmp_path: Path,
) -> None:
    company = make_company(NIP, logged_in=False)
    ksef_token = control.add_token("test", NIP)
    credentials.store_token(company.account(), ksef_token)
    session = control.seed_session("test", NIP, invoices=2)
    add_synced(database, company.account(), session.ksef_numbers)
    status = f"/invoices/test/status/{session.reference_number}"
    upo = f"{status}/{session.ksef_numbers[0]}/upo"

    def ask(method: str, path: str, expected: int, **options: Any) -> None:
        headers = company.authorization | options.pop("headers", {})
        answer = http.request(
            method, service_at_home.url + path, headers=headers, timeout=30, **options
        )
        assert answer.status_code == expected, answer.text

    ask("GET", status, 401, headers=basic(company.email, "a wrong password"))
    ask("POST", "/auth/test", 200)
    ask("GET", status, 200)
    ask("GET", f"{upo}?docType=xml", 200)
    ask("GET", f"{upo}?docType=pdf", 200)
    ask("GET", "/status", 200)
    ask("PUT", "/outages/test/simulation", 200, json={"message": "drill"})
    ask("GET", upo, 409)
    ask("DELETE", "/outages/test/simulation", 204)
    control.fault("reset", path="/sessions/", times=None)
    ask("GET", f"/invoices/test/status/{control.seed_session('test', NIP).reference_number}", 502)
    control.clear_faults()
    ask("DELETE", "/auth/test", 204)

    assert set(synced_sessions(database, company.account()).values()) == {session.reference_number}
    assert database.execute("SELECT what FROM audit WHERE who <> 'operator' ORDER BY at") == [
        (what,)
        for what in (
            "ksef_login",
            "upo_downloaded",
            "upo_downloaded",
            "simulation_started",
            "simulation_ended",
            "ksef_logout",
        )
    ]
    for statement in ("CREATE TABLE mine (x int)", "DELETE FROM audit", "TRUNCATE upos"):
        with (
            closing(psycopg2.connect(database.service_dsn)) as connection,
            connection.cursor() as cursor,
            pytest.raises(sqlstates.InsufficientPrivilege),
        ):
            cursor.execute(statement)

    log = service_at_home.log.read_text()
    authorization = company.authorization["Authorization"]
    for secret in (PASSWORD, authorization, authorization[6:], ksef_token, "sig=", "Bearer", NIP):
        assert secret not in log, secret
    assert company.email not in log
    assert [path.name for path in tmp_path.iterdir()] == ["log"], "no control socket of gunicorn's"
