"""/auth/{environment}: log in, look, log out."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.service import Service
from app.services.login import credentials
from tests.answers import assert_problem
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"
LOGIN = "POST /{environment}/v2/auth/ksef-token"
REVOKE = "DELETE /{environment}/v2/auth/sessions/current"


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    """Logged in in test."""
    return make_company(NIP, environments=("test",))


@pytest.fixture
def newcomer(make_company: Callable[..., Company], control: Any, service: Service) -> Company:
    """Has a KSeF token for test and was never logged in."""
    made = make_company(NIP, logged_in=False)
    credentials.store_token(made.account(), control.add_token("test", NIP))
    return made


def test_login_gives_the_session_without_its_tokens(newcomer: Company, control: Any) -> None:
    response = newcomer.request("POST", "/auth/test")

    assert (response.status_code, response.content_type) == (200, "application/json")
    body = response.json
    moments = {name: datetime.fromisoformat(body.pop(name)) for name in list(body) if "At" in name}
    access = datetime.fromisoformat(body.pop("accessTokenValidUntil"))
    refresh = datetime.fromisoformat(body.pop("refreshTokenValidUntil"))
    assert body == {
        "environment": "test",
        "nip": NIP,
        "method": "token",
        "certificateValidUntil": None,
    }
    assert list(moments) == ["authenticatedAt"]
    # The sandbox's own: 15 minutes and 7 days.
    minute = timedelta(minutes=1)
    assert abs(access - moments["authenticatedAt"] - timedelta(minutes=15)) < minute
    assert abs(refresh - moments["authenticatedAt"] - timedelta(days=7)) < minute
    assert access.utcoffset() in (timedelta(hours=1), timedelta(hours=2))  # Warsaw
    assert response.headers["Cache-Control"] == "no-store"
    assert control.call_counts()[LOGIN] == 1


def test_live_session_is_given_as_it_is(company: Company, control: Any) -> None:
    first = company.request("POST", "/auth/test").json
    assert company.request("POST", "/auth/test").json == first
    assert company.get("/auth/test").json == first
    assert control.calls() == []


def test_parallel_logins_are_one(newcomer: Company, control: Any, app: Any) -> None:
    bodies: list[Any] = []
    start = threading.Barrier(6)

    def log_in() -> None:
        start.wait(10)
        response = app.test_client().post("/auth/test", headers=newcomer.authorization)
        bodies.append((response.status_code, response.json))

    threads = [threading.Thread(target=log_in) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(bodies) == 6
    assert {status for status, _ in bodies} == {200}
    assert all(body == bodies[0][1] for _, body in bodies)
    assert control.call_counts()[LOGIN] == 1


def test_login_without_a_credential(make_company: Callable[..., Company], control: Any) -> None:
    company = make_company(NIP, logged_in=False)
    assert_problem(company.request("POST", "/auth/test"), 404, "no_ksef_credential")
    assert control.calls() == []


def test_login_with_a_refused_credential(newcomer: Company, control: Any) -> None:
    control.set_token_outcome("test", 450, nip=NIP, details=["Token unieważniony"])
    body = assert_problem(newcomer.request("POST", "/auth/test"), 502, "ksef_error", also=["ksef"])
    assert body["ksef"]["code"] == 450
    assert "błędnego tokenu" in body["ksef"]["description"]
    assert body["detail"].endswith("asking again will not help before that is done.")
    why = assert_problem(newcomer.get("/auth/test"), 404, "no_active_ksef_session", also=["ksef"])
    assert "refused the company's credential" in why["detail"]
    assert why["ksef"]["code"] == 450


def test_login_with_a_credential_that_does_not_open(
    company: Company, control: Any, database: Any
) -> None:
    database.execute("UPDATE ksef_credentials SET secret = 'x'")
    assert company.request("POST", "/auth/test").status_code == 200, "the session is good"
    database.execute("UPDATE ksef_sessions SET access_token = 'x', refresh_token = 'x'")
    for method in ("POST", "DELETE"):
        body = assert_problem(
            company.request(method, "/auth/test"), 503, "unavailable", retry_after=5
        )
        assert "missing in SECRET_KEYS" in body["detail"]
    assert company.get("/auth/test").status_code == 200
    assert control.calls() == []


def test_login_while_ksef_fails(newcomer: Company, control: Any) -> None:
    control.set_api("test", available=False)
    assert_problem(newcomer.request("POST", "/auth/test"), 502, "ksef_error", also=["ksef"])
    control.set_api("test", available=True)
    assert newcomer.request("POST", "/auth/test").status_code == 200


def test_no_session_is_told(newcomer: Company, control: Any) -> None:
    assert_problem(newcomer.get("/auth/test"), 404, "no_active_ksef_session")
    assert_problem(newcomer.request("DELETE", "/auth/test"), 404, "no_active_ksef_session")
    assert control.calls() == []


def test_session_is_of_one_environment(company: Company) -> None:
    assert_problem(company.get("/auth/demo"), 404, "no_active_ksef_session")
    assert company.get("/auth/test").status_code == 200


def test_session_is_of_one_company(
    company: Company, make_company: Callable[..., Company], control: Any, database: Any
) -> None:
    other = make_company(OTHER_NIP, logged_in=False)
    assert_problem(other.get("/auth/test"), 404, "no_active_ksef_session")
    assert_problem(other.request("POST", "/auth/test"), 404, "no_ksef_credential")
    assert_problem(other.request("DELETE", "/auth/test"), 404, "no_active_ksef_session")
    assert control.calls() == []
    assert company.get("/auth/test").json["nip"] == NIP


def test_logout_revokes_at_ksef_and_forgets(company: Company, control: Any, database: Any) -> None:
    response = company.request("DELETE", "/auth/test")
    assert (response.status_code, response.data) == (204, b"")
    assert control.call_counts() == {REVOKE: 1}
    assert database.execute("SELECT company_nip FROM ksef_sessions") == []
    assert_problem(company.get("/auth/test"), 404, "no_active_ksef_session")
    assert company.request("POST", "/auth/test").status_code == 200


def test_technical_user_may_log_in_and_out(newcomer: Company, database: Any) -> None:
    database.execute("UPDATE users SET role = 'technical'")
    for method, status in (("POST", 200), ("GET", 200), ("DELETE", 204)):
        assert newcomer.request(method, "/auth/test").status_code == status


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_simulated_outage_stops_what_would_call_ksef(
    company: Company, control: Any, method: str
) -> None:
    company.request("PUT", "/outages/test/simulation", json={"message": "drill"})
    assert_problem(company.request(method, "/auth/test"), 409, "outage_simulation", also=["outage"])
    assert control.calls() == []
    assert company.get("/auth/test").status_code == 200
