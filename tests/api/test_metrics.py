"""GET /metrics"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from app.context import EXTENSION
from app.service import Service
from app.services.events import follow
from app.services.replicas import quota
from app.settings import Settings
from sandbox.control import Control
from tests.rows import add_offline
from tests.service import Company

LABELS = {
    *("method", "route", "status", "source", "le"),
    *("environment", "group", "outcome", "table", "what", "version", "commit", "reason", "verdict"),
    "state",
}
STATUS = "/invoices/<environment>/status/<referenceNumber>"


class Figures:
    """What /metrics says: `figures("name", environment="test")`, 0 where it says nothing."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((f"ksef_proxy_{name}", frozenset(labels.items())), 0.0)

    def __contains__(self, name: str) -> bool:
        return any(found == f"ksef_proxy_{name}" for found, _ in self.samples)


@pytest.fixture
def ask(company: Company) -> Callable[[], Figures]:
    def asked() -> Figures:
        answer = company.get("/metrics")
        assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
        return Figures(answer.text)

    return asked


def test_end_of_the_certificate_that_ends_first(ask: Any, database: Any) -> None:
    ends = datetime.now(UTC) + timedelta(days=12)
    database.execute(
        "UPDATE ksef_credentials SET method = 'certificate',"
        f" certificate_valid_until = '{ends.isoformat()}' WHERE environment = 'demo'"
    )
    found = ask()
    name = "certificate_end_timestamp_seconds"
    assert found(name, environment="demo") == pytest.approx(ends.timestamp(), abs=1)
    assert found(name, environment="test") == 0
    assert found("active_sessions", environment="test") == 1
    assert found("refused_credentials", environment="test") == 0
    assert found("breaker_open", environment="prod") == 0
    assert found("database_up") == 1


def test_requests_and_calls_are_counted(company: Company, ask: Any, control: Control) -> None:
    session = control.seed_session("test", company.nip, state="finished", invoices=2)
    company_path = f"/invoices/test/status/{session.reference_number}"
    before = ask()
    assert company.get(company_path).status_code == 200
    assert company.get(company_path).status_code == 200
    assert company.get("/invoices/test/status/nonsense").status_code == 400
    assert company.client.open("/nowhere", method="BREW").status_code == 404
    after = ask()

    def grown(name: str, **labels: str) -> float:
        return float(after(name, **labels) - before(name, **labels))

    count = "http_request_duration_seconds_count"
    asked = {"method": "GET", "route": STATUS}
    assert grown(count, **asked, status="200", source="fresh") == 1
    assert grown(count, **asked, status="200", source="store") == 1
    assert grown(count, **asked, status="400", source="") == 1
    assert grown(count, method="other", route="none", status="404", source="") == 1
    calls = {"environment": "test", "outcome": "ok"}
    assert grown("ksef_call_duration_seconds_count", **calls, group="sessionMisc") == 1
    assert grown("ksef_call_duration_seconds_count", **calls, group="sessionInvoiceList") == 1
    assert after("http_requests_in_progress") == 1  # that of /metrics itself
    assert after("http_threads") >= 1


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("reset", "unreachable"),
        ("html-503", "failed"),
        ("waf-403", "blocked"),
        ("forbidden", "refused"),
        ("rate-limited", "rate_limited"),
    ],
)
def test_calls_that_fail(
    company: Company, ask: Any, control: Control, fault: str, outcome: str
) -> None:
    control.fault(fault, path="/sessions/", times=None)
    labels = {"environment": "test", "group": "sessionMisc", "outcome": outcome}
    before = ask()
    company.get("/invoices/test/status/20260115-SO-0123456789-ABCDEF0123-4F")
    name = "ksef_call_duration_seconds_count"
    assert ask()(name, **labels) > before(name, **labels)


def test_rows_that_were_linked(company: Company, ask: Any, control: Control, database: Any) -> None:
    session = control.seed_session("test", company.nip, state="finished", invoices=2)
    database.execute(
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        f" VALUES ('{company.nip}', 'test', '{session.ksef_numbers[0]}', 'FV/1')"
    )
    add_offline(database, company.account(), [session.reference_number] * 2)
    before = ask()
    company.get(f"/invoices/test/status/{session.reference_number}")
    after = ask()
    for table, rows in (("synced_invoices", 1), ("offline_invoices", 2)):
        labels = {"environment": "test", "table": table}
        assert after("linked_rows_total", **labels) == before("linked_rows_total", **labels) + rows


def test_quota_of_the_company_that_has_least(
    company: Company, make_company: Any, service: Service, ask: Any
) -> None:
    other = make_company("5252248481", environments=("test",))
    quota.reserve(service.account(company.nip, "test", patience=60), "sessionInvoiceList", 3)
    quota.reserve(service.account(other.nip, "test", patience=60), "sessionInvoiceList", 9)
    other.account().calls.block("sessionInvoiceList", 60)
    found = ask()
    labels = {"environment": "test", "group": "sessionInvoiceList"}
    assert found("quota_left_ratio", **labels) == pytest.approx(1 - 9 / 180)
    assert found("quota_blocked_companies", **labels) == 1


def test_size_of_the_archive(company: Company, ask: Any, database: Any) -> None:
    database.execute("VACUUM FULL upos")  # no free space of other tests, which it would fill first
    before = ask()
    assert before("upo_archive_documents") == 0
    database.execute(
        "INSERT INTO upos (company_nip, environment, session_reference_number, ksef_number,"
        f" content, sha256) SELECT '{company.nip}', 'test', 'S', n::text,"
        " decode(repeat('ab', 9000), 'hex'), '' FROM generate_series(1, 20) AS n"
    )
    found = ask()
    assert found("upo_archive_documents") == 20
    assert found("upo_archive_bytes") >= before("upo_archive_bytes") + 20 * 9000


def test_sessions_that_are_followed(
    company: Company, ask: Any, control: Control, database: Any
) -> None:
    assert "follow_lag_seconds" not in ask()
    control.seed_session("test", company.nip, state="moving", invoices=[{"status": 150}])
    follow.follow_all(company.service)
    figures = ask()
    lag = figures("follow_lag_seconds", environment="test")
    where = {"environment": "test", "state": "moving"}
    assert 120 <= lag < 150, "the overlap"
    assert figures("followed_sessions", **where) == 1
    database.execute(
        "UPDATE followed_sessions SET stuck_at = now();"
        "UPDATE followed SET known_until = now() - interval '2 hours'"
    )
    figures = ask()
    assert 7200 <= figures("follow_lag_seconds", environment="test") < 7230
    assert figures("followed_sessions", **where) == 0
    assert figures("followed_sessions", environment="test", state="stuck") == 1


def test_no_label_names_a_company(company: Company, ask: Any, control: Control) -> None:
    session = control.seed_session("test", company.nip, state="finished", invoices=1)
    company.get(f"/invoices/test/status/{session.reference_number}")
    company.get(f"/invoices/test/status/{session.reference_number}/{session.ksef_numbers[0]}/upo")
    company.request("POST", "/auth/test")
    text = company.get("/metrics").text
    for secret in (company.nip, company.email, session.reference_number, session.ksef_numbers[0]):
        assert secret not in text
    labels = {name for _, found in ask().samples for name, _ in found}
    assert labels <= LABELS


def test_public_only_by_the_setting(company: Company, settings: Settings) -> None:
    assert company.client.get("/metrics").status_code == 401
    app = create_app(replace(settings, metrics_public=True))
    assert app.test_client().get("/metrics").status_code == 200
    app.extensions[EXTENSION].db.close()


def test_without_a_database_the_replica_still_tells_of_itself(settings: Settings) -> None:
    down = replace(settings, metrics_public=True, database_url="host=/nowhere")
    app: Flask = create_app(down)
    found = Figures(app.test_client().get("/metrics").text)
    assert found("database_up") == 0
    assert "database_up" in found
    assert "http_threads" in found
    assert "breaker_open" not in found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_finds_nothing_to_say(company: Company) -> None:
    company.get("/invoices/test/status/nonsense")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=company.get("/metrics").data,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
