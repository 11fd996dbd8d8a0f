"""The error table of the contract: status, code, body, Retry-After, and what KSeF was asked."""

import base64
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.context import EXTENSION
from app.crypto import Vault
from app.services.operators import keys
from app.settings import Settings
from tests.answers import assert_problem
from tests.service import PASSWORD, Company, basic

NIP = "5265877635"
NUMBER = "5265877635-20250826-0100001AF629-AF"
UNKNOWN = "20260101-SO-0123456789-0123456789-01"
SESSION = "GET /{environment}/v2/sessions/{reference}"
UPO = "GET /{environment}/v2/sessions/{reference}/invoices/ksef/{ksef_number}/upo"
BOTH = pytest.mark.parametrize("endpoint", ["status", "upo"])


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def path(company: Company, control: Any) -> Callable[..., str]:
    """The path of an endpoint, for a finished session that KSeF has."""
    session = control.seed_session("test", NIP)

    def of(endpoint: str, reference: str | None = None) -> str:
        status = f"/invoices/test/status/{reference or session.reference_number}"
        return status if endpoint == "status" else f"{status}/{session.ksef_numbers[0]}/upo"

    return of


@contextmanager
def another_app(settings: Settings, **changes: Any) -> Iterator[Flask]:
    app = create_app(replace(settings, **changes))
    try:
        yield app
    finally:
        app.extensions[EXTENSION].db.close()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# -- 401, 403 -------------------------------------------------------------------------------


@BOTH
def test_401_reads_the_same_whatever_is_wrong(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    url = path(endpoint)
    for headers in (
        {},
        basic("erp@5265877635.example", "wrong"),
        basic("nobody@5265877635.example", PASSWORD),
        basic("", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic ZXJw"},
        {"Authorization": "Bearer abc"},
        {"Authorization": "Basic " + "/" * 16},
    ):
        response = company.client.get(url, headers=headers)
        body = assert_problem(response, 401, "unauthorized")
        assert body["detail"].startswith("User name or password is missing or wrong (HTTP Basic);")
        assert response.headers["WWW-Authenticate"] == 'Basic realm="ksef-proxy", charset="UTF-8"'
    assert control.calls() == []


@BOTH
def test_403_for_a_role_that_opens_nothing(
    company: Company, control: Any, database: Any, path: Any, endpoint: str
) -> None:
    database.execute("UPDATE users SET role = 'viewer'")
    assert_problem(company.get(path(endpoint)), 403, "forbidden")
    assert control.calls() == []


def test_checks_are_made_in_the_order_of_the_contract(
    company: Company, control: Any, database: Any, path: Any
) -> None:
    """Everything is wrong at once; one cause after the other is taken away."""
    database.execute(
        "UPDATE users SET role = 'viewer'; DELETE FROM ksef_sessions;"
        "INSERT INTO outage_simulations (environment, message) VALUES ('test', 'drill')"
    )
    wrong, right = path("status", "wrong"), path("status", UNKNOWN)
    assert company.client.get(wrong).json["code"] == "unauthorized"
    assert company.get(wrong).json["code"] == "forbidden"
    database.execute("UPDATE users SET role = 'technical'")
    assert company.get(wrong).json["code"] == "invalid_parameter"
    assert company.get(right).json["code"] == "outage_simulation"
    database.execute("DELETE FROM outage_simulations")
    assert company.get(right).json["code"] == "no_active_ksef_session"
    assert control.calls() == []


# -- 404 ------------------------------------------------------------------------------------


@BOTH
def test_404_without_a_ksef_session(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    assert company.request("DELETE", "/auth/test").status_code == 204
    control.clear_calls()
    body = assert_problem(company.get(path(endpoint)), 404, "no_active_ksef_session")
    assert "POST /auth/{environment}" in body["detail"]
    assert control.calls() == []


@BOTH
def test_404_in_an_environment_where_the_company_never_logged_in(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    in_prod = path(endpoint).replace("/test/", "/prod/")
    assert_problem(company.get(in_prod), 404, "no_active_ksef_session")
    assert control.calls() == []


@BOTH
def test_404_where_ksef_refuses_the_stored_credential(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    control.set_token_outcome("test", 425, nip=NIP)
    control.expire_bearers("test", nip=NIP)
    body = assert_problem(company.get(path(endpoint)), 404, "no_active_ksef_session", also=["ksef"])
    assert body["ksef"]["code"] == 425
    control.clear_calls()
    again = assert_problem(
        company.get(path(endpoint)), 404, "no_active_ksef_session", also=["ksef"]
    )
    assert again["ksef"]["code"] == 425
    assert control.calls() == []


@pytest.mark.parametrize(
    ("reference", "code"), [(UNKNOWN, 21173), ("20260101-AU-XXXXXXXX-XXXX-XX", 21405)]
)
def test_404_for_a_session_that_ksef_does_not_know(
    company: Company, control: Any, path: Any, reference: str, code: int
) -> None:
    body = assert_problem(
        company.get(path("status", reference)), 404, "session_not_found", also=["ksef"]
    )
    assert body["ksef"]["httpStatus"] == 400
    assert body["ksef"]["code"] == code
    assert body["ksef"]["description"]
    assert len(body["ksef"]["traceId"]) == 32
    assert control.call_counts() == {SESSION: 1}


def test_404_for_the_upo_of_a_session_that_only_has_the_shape_of_one(
    company: Company, control: Any, path: Any
) -> None:
    reference = "20260101-AU-XXXXXXXX-XXXX-XX"
    assert_problem(company.get(path("upo", reference)), 404, "session_not_found", also=["ksef"])
    assert control.call_counts() == {UPO: 1}


@pytest.mark.parametrize(
    "url", ["/nowhere", "/invoices", "/invoices/test/status/", "/invoices/test/x/y"]
)
def test_404_for_what_is_no_path(company: Company, control: Any, url: str) -> None:
    assert_problem(company.get(url), 404, "not_found")
    assert control.calls() == []


@BOTH
def test_405_names_the_methods_that_there_are(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        response = company.request(method, path(endpoint))
        assert_problem(response, 405, "method_not_allowed")
        assert "GET" in response.headers["Allow"]
    assert control.calls() == []


# -- 502: KSeF refused or failed ------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("status", {"status": 500, "body": "<h1>Oops</h1>"}, (500, None)),
        ("html-503", {}, (503, None)),
        ("status", {"status": 504, "body": {"title": "Gateway Timeout"}}, (504, None)),
        ("status", {"status": 302, "headers": {"Location": "http://x.example"}}, (302, None)),
        ("waf-403", {}, (403, None)),
        ("waf-html-403", {}, (403, None)),
        ("forbidden", {"reasonCode": "missing-permissions"}, (403, None)),
        ("forbidden", {"reasonCode": "ip-not-allowed"}, (403, None)),
        ("ksef-error", {"code": 21001, "details": ["Opis"]}, (400, 21001)),
    ],
    ids=str,
)
def test_502_ksef_error_tells_what_ksef_said(
    company: Company,
    control: Any,
    database: Any,
    path: Any,
    endpoint: str,
    kind: str,
    options: dict[str, Any],
    said: tuple[int, int | None],
) -> None:
    attempts = 2 if said[0] in (502, 503, 504) else 1
    control.fault(kind, path="/sessions/", times=attempts, **options)
    blocked = 60 if kind.startswith("waf") else None  # seconds
    body = assert_problem(
        company.get(path(endpoint)), 502, "ksef_error", also=["ksef"], retry_after=blocked
    )
    assert set(body["ksef"]) == {
        "httpStatus",
        "code",
        "description",
        "details",
        "reasonCode",
        "traceId",
    }
    assert body["ksef"]["reasonCode"] == options.get("reasonCode")
    if "details" in options:
        assert body["ksef"]["details"] == options["details"]
    assert (body["ksef"]["httpStatus"], body["ksef"]["code"]) == said
    assert str(said[0]) in body["detail"]
    assert control.call_counts() == {SESSION if endpoint == "status" else UPO: attempts}
    database.execute("UPDATE outages SET paused_until = NULL")
    assert company.get(path(endpoint)).status_code == 200  # the KSeF session was kept


def test_403_of_ksef_tells_its_reason(company: Company, control: Any, path: Any) -> None:
    control.fault("forbidden", path="/sessions/", reasonCode="ip-not-allowed")
    body = company.get(path("status")).json
    assert body["ksef"]["description"].startswith("Żądanie pochodzi z adresu IP")
    assert body["ksef"]["description"] in body["detail"]
    assert body["ksef"]["reasonCode"] == "ip-not-allowed"


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    ("call", "field", "value"),
    [
        ("/invoices", "invoices.0.referenceNumber", "../../auth/prod"),
        ("/invoices", "invoices.0.ksefNumber", "5265877635/../../x"),
        ("/invoices", "invoices.0.ordinalNumber", 2**63),
        ("/invoices", "invoices.0.status.code", "200"),
        ("/sessions/[^/]*$", "dateCreated", "yesterday"),
        ("/sessions/[^/]*$", "upo.pages.0.referenceNumber", "../../etc/x"),
        ("/sessions/[^/]*$", "invoiceCount", -(2**40)),
    ],
)
def test_502_for_a_value_that_cannot_be(
    company: Company, control: Any, path: Any, call: str, field: str, value: Any
) -> None:
    control.fault("set-field", path=call, field=field, value=value, times=None)
    url = path("status")
    body = assert_problem(company.get(url), 502, "ksef_invalid_response")
    assert field.rsplit(".", 1)[-1] in body["detail"]
    assert str(value) not in body["detail"]
    reference_link = url.replace("/invoices/test/status/", "/console/test/sessions/")
    page = company.get(reference_link)
    assert page.status_code == 200  # with the problem in it
    assert f"{reference_link}/{value}" not in page.text


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    ("call", "field", "value"),
    [
        ("/auth/challenge", "challenge", "a\nb"),
        ("/auth/challenge", "timestampMs", 10**40),
    ],
)
def test_502_for_a_login_with_what_cannot_be(
    company: Company, control: Any, database: Any, call: str, field: str, value: Any
) -> None:
    database.execute("DELETE FROM ksef_sessions")
    control.fault("set-field", path=call, field=field, value=value, times=None)
    assert_problem(company.request("POST", "/auth/test"), 502, "ksef_invalid_response")


@pytest.mark.fault(44)
def test_502_for_a_login_where_no_key_can_be_used(
    company: Company, control: Any, database: Any
) -> None:
    database.execute("DELETE FROM ksef_sessions")
    key = {"certificate": "AAAA", "publicKeyId": "k", "usage": ["KsefTokenEncryption"]}
    times = {"validFrom": "2020-01-01T00:00:00+00:00", "validTo": "2090-01-01T00:00:00+00:00"}
    body = [{**key, **times}]
    control.fault("status", path="/public-key-certificates", status=200, body=body, times=None)
    assert_problem(company.request("POST", "/auth/test"), 502, "ksef_invalid_response")


def test_410_of_ksef_will_not_pass(company: Company, control: Any, path: Any) -> None:
    gone = {"title": "Gone", "status": 410, "detail": "Zasób nie jest już dostępny."}
    control.fault("status", path="/sessions/", status=410, body=gone)
    body = assert_problem(company.get(path("status")), 502, "ksef_error", also=["ksef"])
    assert gone["detail"].rstrip(".") in body["detail"]
    assert body["detail"].endswith("asking again will not help.")


@BOTH
def test_401_of_ksef_never_becomes_ours(
    company: Company, control: Any, path: Any, endpoint: str
) -> None:
    """The ERP would doubt its own password."""
    control.fault("unauthorized", path="/sessions/", times=None)
    response = company.get(path(endpoint))
    assert response.status_code == 502
    assert response.json["code"] == "ksef_error"
    assert response.json["ksef"]["httpStatus"] == 401


@BOTH
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("2680", 2680),
        ("1", 1),
        (None, 60),
        ("-5", 60),
        ("soon", 60),
        ("0", 1),
        ("99999999", 99999999),
    ],
)
def test_429_of_ksef_is_told_with_its_true_wait(
    company: Company, control: Any, path: Any, endpoint: str, given: str | None, told: int
) -> None:
    options = {} if given is None else {"retryAfter": given}
    control.fault("rate-limited", path="/sessions/", **options)
    response = company.get(path(endpoint))
    body = assert_problem(response, 502, "ksef_rate_limited", retry_after=told, also=["ksef"])
    assert body["ksef"]["httpStatus"] == 429
    assert len(control.calls()) == 1  # and never again by itself


def test_429_of_ksef_with_a_date_is_told_in_seconds(
    company: Company, control: Any, path: Any
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=600)
    control.fault(
        "rate-limited", path="/sessions/", retryAfter=format_datetime(moment, usegmt=True)
    )
    assert 590 <= company.get(path("status")).json["retryAfter"] <= 600


@BOTH
@pytest.mark.parametrize("kind", ["reset", "truncated", "cut-mid-body", "cut-chunk"])
def test_502_where_the_connection_breaks(
    company: Company, control: Any, path: Any, endpoint: str, kind: str
) -> None:
    control.fault(kind, path="/sessions/", times=None)
    assert_problem(company.get(path(endpoint)), 502, "ksef_unreachable")


@BOTH
def test_502_where_nobody_listens(
    settings: Settings, company: Company, path: Any, endpoint: str
) -> None:
    urls = {**settings.ksef_urls, "test": f"http://127.0.0.1:{closed_port()}/v2"}
    with another_app(settings, ksef_urls=urls) as app:
        response = app.test_client().get(path(endpoint), headers=company.authorization)
        assert_problem(response, 502, "ksef_unreachable")


@BOTH
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("hang", {"seconds": 5}),
        ("drip", {"secondsPerByte": 0.05}),
    ],
    ids=str,
)
def test_502_at_the_deadline_of_a_call(
    settings: Settings,
    company: Company,
    control: Any,
    path: Any,
    endpoint: str,
    kind: str,
    options: dict[str, Any],
) -> None:
    """A deadline on the wall, not between two bytes."""
    url, began = path(endpoint), datetime.now(UTC)
    with another_app(settings, timing=replace(settings.timing, ksef_call=0.4)) as app:
        control.fault(kind, path="/sessions/", **options)
        response = app.test_client().get(url, headers=company.authorization)
        control.clear_faults()
    body = assert_problem(response, 502, "ksef_unreachable")
    assert "in time" in body["detail"]
    assert 0.4 <= (datetime.now(UTC) - began).total_seconds() < 2.4


@BOTH
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("html-200", {}),
        ("invalid-json", {}),
        ("status", {"status": 200, "body": "[" * 200 + "]" * 200}),
        ("status", {"status": 200, "body": '{"status": NaN}'}),
        ("status", {"status": 200, "body": '{"status": "\\ud800"}'}),
        ("oversize", {}),
        ("gzip-bomb", {}),
    ],
    ids=str,
)
def test_502_for_an_answer_that_is_none(
    company: Company, control: Any, path: Any, endpoint: str, kind: str, options: dict[str, Any]
) -> None:
    control.fault(kind, path="/sessions/", **options)
    assert_problem(company.get(path(endpoint)), 502, "ksef_invalid_response")
    assert len(control.calls()) == 1


@pytest.mark.parametrize(
    ("kind", "options", "listing", "named"),
    [
        ("drop-field", {"field": "status"}, False, "status: is not there"),
        ("drop-field", {"field": "dateCreated"}, False, "dateCreated"),
        ("set-field", {"field": "invoiceCount", "value": "3"}, False, "invoiceCount"),
        ("set-field", {"field": "status.code", "value": "200"}, False, "status.code"),
        ("set-field", {"field": "dateUpdated", "value": "yesterday"}, False, "dateUpdated"),
        ("set-field", {"field": "invoiceCount", "value": 2 * 10**8}, False, "counts 200000000"),
        ("set-field", {"field": "invoices.0.ordinalNumber", "value": 2**31}, True, "ordinalNumber"),
        ("drop-field", {"field": "invoices"}, True, "invoices"),
        ("set-field", {"field": "invoices.0.ordinalNumber", "value": None}, True, "ordinalNumber"),
        ("set-field", {"field": "invoices.0.ksefNumber", "value": 5}, True, "ksefNumber"),
        ("drop-field", {"field": "invoices.0.referenceNumber"}, True, "referenceNumber"),
        ("repeat-continuation-token", {}, True, "continuation token"),
        ("set-field", {"field": "continuationToken", "value": "a\r\nb: c"}, True, "continuation"),
    ],
    ids=str,
)
def test_502_names_the_field_that_breaks_ksef_s_contract(
    company: Company,
    control: Any,
    path: Any,
    kind: str,
    options: dict[str, Any],
    listing: bool,
    named: str,
) -> None:
    where = "/invoices$" if listing else "/sessions/[^/]+$"
    control.fault(kind, path=where, times=None, **options)
    body = assert_problem(company.get(path("status")), 502, "ksef_invalid_response")
    assert named in body["detail"]


@pytest.mark.parametrize(
    ("field", "value", "listing", "mended"),
    [
        ("status.description", "a\0", False, lambda body: body["status"]["description"] == "a"),
        (
            "invoices.0.invoiceNumber",
            "\0",
            True,
            lambda b: b["invoices"][0]["invoiceNumber"] is None,
        ),
    ],
    ids=["status.description", "invoiceNumber"],
)
def test_what_decides_nothing_is_mended(
    company: Company, control: Any, path: Any, field: str, value: str, listing: bool, mended: Any
) -> None:
    where = "/invoices$" if listing else "/sessions/[^/]+$"
    control.fault("set-field", path=where, times=None, field=field, value=value)
    answer = company.get(path("status"))
    assert answer.status_code == 200
    assert mended(answer.get_json())


# -- 503, 500 -------------------------------------------------------------------------------


@BOTH
def test_503_while_the_database_is_away(
    settings: Settings, company: Company, control: Any, path: Any, endpoint: str
) -> None:
    away = f"postgresql://nobody:hunter2@127.0.0.1:{closed_port()}/nothing"
    with another_app(settings, database_url=away) as app:
        client = app.test_client()
        response = client.get(path(endpoint), headers=company.authorization)
        body = assert_problem(response, 503, "unavailable", retry_after=5)
        assert "hunter2" not in str(body)
        assert_problem(client.get("/readyz"), 503, "unavailable", retry_after=5)
        assert client.get("/livez").status_code == 200
    assert control.calls() == []


@BOTH
def test_503_on_a_database_without_the_schema(
    settings: Settings, empty_database: Any, company: Company, path: Any, endpoint: str
) -> None:
    with another_app(settings, database_url=empty_database.owner_dsn) as app:
        client = app.test_client()
        response = client.get(path(endpoint), headers=company.authorization)
        assert_problem(response, 503, "unavailable", retry_after=5)
        body = assert_problem(client.get("/readyz"), 503, "unavailable", retry_after=5)
        assert "0001_initial" in body["detail"]


def test_a_replica_without_the_key_of_stored_credentials_is_not_ready(
    settings: Settings, company: Company
) -> None:
    """After `rotate-keys`; it names the key, but never shows it."""
    [old], new = settings.secret_keys, os.urandom(32)
    with another_app(settings, secret_keys=(new, old)) as app:
        both = app.extensions[EXTENSION]
        assert app.test_client().get("/readyz").status_code == 200
        keys.rotate(both.db, both.vault, lambda *_: None)
        assert app.test_client().get("/readyz").status_code == 200
    name = both.vault.key_names[0]
    body = assert_problem(company.client.get("/readyz"), 503, "unavailable", retry_after=5)
    assert f"SECRET_KEYS lacks the key {name}" in body["detail"]
    assert name not in (new.hex()[:8], base64.b64encode(new).decode()[:8])
    with another_app(settings, secret_keys=(new,)) as app:
        assert app.test_client().get("/readyz").status_code == 200


def test_a_replica_is_ready_where_only_ksef_sessions_have_another_key(
    settings: Settings, company: Company
) -> None:
    """As while keys are changed: it logs in anew by itself."""
    another = Vault([os.urandom(32)])
    sealed = another.seal("x", company_nip=company.nip, environment="test", purpose="access token")
    with company.service.db.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE ksef_sessions SET access_token = %s", (sealed,))
    assert company.client.get("/readyz").status_code == 200


@pytest.mark.fault(25)
@BOTH
def test_503_when_no_connection_is_free(
    settings: Settings, company: Company, control: Any, path: Any, endpoint: str
) -> None:
    timing = replace(settings.timing, pool_wait=0.1)
    with another_app(settings, web_threads=1, timing=timing) as app, ExitStack() as held:
        held.enter_context(app.extensions[EXTENSION].db.transaction())
        response = app.test_client().get(path(endpoint), headers=company.authorization)
        assert_problem(response, 503, "unavailable", retry_after=5)
    assert control.calls() == []


def test_request_after_the_database_came_back_is_answered(
    company: Company, database: Any, path: Any
) -> None:
    """Connections that the server closed are not handed out again."""
    assert company.get(path("status")).status_code == 200
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'ksef-proxy' AND datname = current_database()"
    )
    assert company.get(path("status")).status_code == 200


def test_500_says_nothing_of_its_cause(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("SELECT secret FROM ksef_credentials")

    with another_app(settings) as app:
        app.add_url_rule("/broken", view_func=broken)
        response = app.test_client().get("/broken", headers={"X-Request-ID": "abc-1"})
    body = assert_problem(response, 500, "internal_error")
    assert body["requestId"] == "abc-1"


@pytest.mark.parametrize("given", ["x" * 65, "two words", "a\tb", "ż", ""])
def test_request_id_of_another_shape_is_replaced(app: Flask, given: str) -> None:
    response = app.test_client().get("/nowhere", headers={"X-Request-ID": given.encode()})
    assert len(response.json["requestId"]) == 32
    assert response.headers["X-Request-ID"] == response.json["requestId"]


def test_every_answer_carries_its_protective_headers(company: Company, path: Any) -> None:
    for response in (company.get(path("status")), company.get("/nowhere"), company.get("/livez")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
