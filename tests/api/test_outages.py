"""Simulated outages of KSeF: who may begin them, whom they meet, how they end."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import clock, create_app
from app.context import EXTENSION
from app.factory import report_at_start
from app.service import Service
from app.services import outages
from app.services.operators import users
from tests.answers import assert_problem
from tests.service import PASSWORD, Company, basic

NIP, OTHER_NIP = "5265877635", "7812019453"
NO_OUTAGE = {
    "established": False,
    "since": None,
    "consecutiveFailures": 0,
    "source": None,
    "messages": [],
    "announcements": [],
    "duty": None,
}


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def asked(company: Company, control: Any) -> Callable[..., list[Any]]:
    """What both endpoints answer for a session that KSeF has, to whoever asks."""
    session = control.seed_session("test", NIP)
    status = f"/invoices/test/status/{session.reference_number}"
    control.clear_calls()
    return lambda who=company: [
        who.get(status),
        who.get(f"{status}/{session.ksef_numbers[0]}/upo?docType=pdf"),
    ]


def simulate(who: Company, environment: str = "test", **body: Any) -> Any:
    return who.request("PUT", f"/outages/{environment}/simulation", json=body)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def rows(database: Any) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT environment::text, company_nip, message, ends_at FROM outage_simulations"
        " ORDER BY environment, company_nip"
    )


# -- begun and ended ------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["test", "demo"])
def test_admin_begins_a_simulation(company: Company, database: Any, environment: str) -> None:
    response = simulate(company, environment, message="Ćwiczenie", endsAt="2099-01-02T03:04:05Z")
    assert response.status_code == 200
    body = response.json
    since = body["outage"]["since"]
    assert datetime.now(UTC) - datetime.fromisoformat(since) < timedelta(minutes=1)
    [message] = body["outage"]["messages"]
    end = datetime.fromisoformat(message.pop("end"))
    assert end == datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert body == {
        "environment": environment,
        "outage": {
            **NO_OUTAGE,
            "established": True,
            "since": since,
            "source": "simulation",
            "messages": [
                {
                    "title": "Simulated outage",
                    "text": "Ćwiczenie",
                    "start": since,
                    "category": "FAILURE",
                    "publishedAt": None,
                }
            ],
        },
    }
    assert rows(database) == [(environment, NIP, "Ćwiczenie", end)]
    assert company.get(f"/outages/{environment}").json["outage"]["source"] == "simulation"


def test_second_simulation_takes_the_place_of_the_first(company: Company, database: Any) -> None:
    simulate(company, message="first", endsAt=in_seconds(60))
    simulate(company, message="second")
    assert rows(database) == [("test", NIP, "second", None)]


def test_admin_ends_a_simulation(company: Company, database: Any, asked: Any) -> None:
    simulate(company, message="drill")
    for _ in range(2):  # also where there is none any more
        response = company.request("DELETE", "/outages/test/simulation")
        assert (response.status_code, response.data) == (204, b"")
    assert rows(database) == []
    assert company.get("/outages/test").json == {"environment": "test", "outage": NO_OUTAGE}
    assert [response.status_code for response in asked()] == [200, 200]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_technical_user_neither_begins_nor_ends_one(
    company: Company, service: Service, database: Any, method: str
) -> None:
    simulate(company, message="by the admin")
    users.add_user(
        service.db,
        service.passwords,
        email="tech@example.pl",
        nip=NIP,
        role="technical",
        password=PASSWORD,
    )
    response = company.client.open(
        "/outages/test/simulation",
        method=method,
        headers=basic("tech@example.pl", PASSWORD),
        json={"message": "by another"} if method == "PUT" else None,
    )
    assert_problem(response, 403, "forbidden")
    assert rows(database) == [("test", NIP, "by the admin", None)]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_production_cannot_be_simulated(company: Company, database: Any, method: str) -> None:
    response = company.request(
        method, "/outages/prod/simulation", json={"message": "x"} if method == "PUT" else None
    )
    assert_problem(response, 403, "simulation_forbidden")
    assert rows(database) == []


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": None}, "message"),
        ({"message": 5}, "message"),
        ({"message": "x" * 1001}, "message"),
        ({"message": "x", "endsAt": "soon"}, "endsAt"),
        ({"message": "x", "endsAt": "2099-01-01T00:00:00"}, "endsAt"),
        ({"message": "x", "endsAt": "2020-01-01T00:00:00Z"}, "endsAt"),
        ({"message": "x", "nip": OTHER_NIP}, "nip"),
        ({"message": "x\x00y"}, "message"),
    ],
    ids=str,
)
def test_wrong_body_is_refused_and_begins_nothing(
    company: Company, database: Any, body: dict[str, Any], parameter: str
) -> None:
    response = simulate(company, **body)
    problem = assert_problem(response, 400, "invalid_parameter", also=["errors"])
    assert list(problem["errors"]) == [parameter]
    assert rows(database) == []


@pytest.mark.fault(24)
@pytest.mark.parametrize("minutes", [-10, 10])
def test_whether_its_end_has_passed_is_not_judged_by_our_clock(
    company: Company, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    wrong = datetime.now(UTC) + timedelta(minutes=minutes)
    monkeypatch.setattr(clock, "now", lambda: wrong)
    assert simulate(company, message="drill", endsAt=in_seconds(300)).status_code == 200
    past = simulate(company, message="drill", endsAt=in_seconds(-300))
    assert assert_problem(past, 400, "invalid_parameter", also=["errors"])["errors"] == {
        "endsAt": ["Has passed."]
    }


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_body_that_is_no_object_is_refused(company: Company, database: Any, data: bytes) -> None:
    response = company.request(
        "PUT", "/outages/test/simulation", data=data, content_type="application/json"
    )
    problem = assert_problem(response, 400, "invalid_parameter", also=["errors"])
    assert list(problem["errors"]) == ["body"]
    assert rows(database) == []


# -- whom it meets --------------------------------------------------------------------------


@pytest.mark.fault(32)
def test_both_endpoints_answer_409_with_the_details_and_call_nobody(
    company: Company, control: Any, asked: Any
) -> None:
    ends = in_seconds(3600)
    begun = simulate(company, message="Próba procedur offline", endsAt=ends).json["outage"]
    for response in asked():
        body = assert_problem(response, 409, "outage_simulation", also=["outage"])
        assert body["outage"] == begun
        for part in ("Próba procedur offline", begun["since"], begun["messages"][0]["end"]):
            assert part in body["detail"]
    assert control.calls() == []


def test_what_needs_no_ksef_is_answered_meanwhile(
    company: Company, control: Any, asked: Any
) -> None:
    asked()  # the store has answers
    simulate(company, message="drill")
    assert [response.status_code for response in asked()] == [409, 409]
    for method in ("POST", "DELETE"):
        assert company.request(method, "/auth/test").status_code == 409
    for path in ("/auth/test", "/outages/test", "/invoices/test?invoiceNumber=FV/1", "/status"):
        assert company.get(path).status_code == 200


def test_simulation_ends_by_itself(
    company: Company, control: Any, database: Any, asked: Any
) -> None:
    simulate(company, message="drill", endsAt=in_seconds(3600))
    assert [response.status_code for response in asked()] == [409, 409]
    database.execute(
        "UPDATE outage_simulations SET starts_at = now() - interval '2 hours', ends_at = now()"
    )
    assert [response.status_code for response in asked()] == [200, 200]
    assert company.get("/outages/test").json["outage"] == NO_OUTAGE


def test_simulation_that_has_not_begun_meets_nobody(
    company: Company, database: Any, asked: Any
) -> None:
    simulate(company, message="drill")
    database.execute("UPDATE outage_simulations SET starts_at = now() + interval '1 hour'")
    assert [response.status_code for response in asked()] == [200, 200]


def test_another_company_is_not_met_and_cannot_end_it(
    company: Company, make_company: Callable[..., Company], control: Any, asked: Any
) -> None:
    other = make_company(OTHER_NIP, environments=("test",))
    session = control.seed_session("test", OTHER_NIP)
    simulate(company, message="drill")
    path = f"/invoices/test/status/{session.reference_number}"
    assert other.get(path).status_code == 200
    assert other.get("/outages/test").json["outage"] == NO_OUTAGE
    assert other.request("DELETE", "/outages/test/simulation").status_code == 204
    assert [response.status_code for response in asked()] == [409, 409]


def test_another_environment_is_not_met(company: Company, asked: Any) -> None:
    simulate(company, "demo", message="drill")
    assert [response.status_code for response in asked()] == [200, 200]
    assert company.get("/outages/test").json["outage"] == NO_OUTAGE


def test_simulation_for_all_meets_every_company_and_no_caller_ends_it(
    company: Company,
    make_company: Callable[..., Company],
    service: Service,
    control: Any,
    asked: Any,
) -> None:
    other = make_company(OTHER_NIP, logged_in=False)
    assert company.client.get("/status").json["environments"]["test"] == "available"
    outages.simulate(service.db, "test", company_nip=None, message="for all", ends_at=None)
    for who in (company, other):
        for response in asked(who):
            body = assert_problem(response, 409, "outage_simulation", also=["outage"])
            assert body["outage"]["messages"][0]["text"] == "for all"
    assert company.request("DELETE", "/outages/test/simulation").status_code == 204
    assert [response.status_code for response in asked()] == [409, 409]
    assert company.client.get("/status").json["environments"] == {
        "test": "simulation",
        "demo": "unknown",
        "prod": "unknown",
    }
    assert control.calls() == []
    assert outages.clear_all(service.db, "test") == 1
    assert [response.status_code for response in asked()] == [200, 200]


def test_a_company_s_own_simulation_is_told_before_one_for_all(
    company: Company, service: Service
) -> None:
    outages.simulate(service.db, "test", company_nip=None, message="for all", ends_at=None)
    simulate(company, message="its own")
    told = company.get("/outages/test").json["outage"]["messages"]
    assert [message["text"] for message in told] == ["its own"]


def test_public_status_does_not_tell_of_one_company_s_simulation(company: Company) -> None:
    simulate(company, message="drill")
    response = company.client.get("/status")
    assert response.json["environments"] == {
        "test": "available",
        "demo": "unknown",
        "prod": "unknown",
    }
    assert NIP not in response.text


@pytest.mark.fault(32)
@pytest.mark.parametrize("company_nip", ["NULL", f"'{NIP}'"])
def test_production_row_forced_into_the_table_is_ignored_and_logged(
    make_company: Callable[..., Company],
    database: Any,
    control: Any,
    settings: Any,
    capsys: pytest.CaptureFixture[str],
    company_nip: str,
) -> None:
    company = make_company(NIP, environments=("prod",))
    session = control.seed_session("prod", NIP)
    database.execute("ALTER TABLE outage_simulations DROP CONSTRAINT never_production")
    try:
        database.execute(
            "INSERT INTO outage_simulations (environment, company_nip, message)"
            f" VALUES ('prod', {company_nip}, 'forced')"
        )
        path = f"/invoices/prod/status/{session.reference_number}"
        assert company.get(path).status_code == 200
        assert company.get(f"{path}/{session.ksef_numbers[0]}/upo").status_code == 200
        assert company.get("/outages/prod").json["outage"] == NO_OUTAGE
        assert company.client.get("/status").json["environments"]["prod"] == "available"
        capsys.readouterr()
        app = create_app(settings)
        assert capsys.readouterr().err == "", "making it asks nobody"
        report_at_start(app)
        app.extensions[EXTENSION].db.close()
        assert "a simulation of prod in outage_simulations is ignored" in capsys.readouterr().err
    finally:
        database.execute(
            "DELETE FROM outage_simulations; ALTER TABLE outage_simulations"
            " ADD CONSTRAINT never_production CHECK (environment <> 'prod')"
        )


@pytest.mark.fault(32)
def test_table_refuses_a_simulation_of_production(database: Any) -> None:
    with pytest.raises(Exception, match="never_production"):
        database.execute(
            "INSERT INTO outage_simulations (environment, message) VALUES ('prod', 'x')"
        )


# -- real ones ------------------------------------------------------------------------------


@pytest.fixture
def in_polish(settings: Any) -> Any:
    app = create_app(replace(settings, message_language="pl"))
    yield app.test_client()
    app.extensions[EXTENSION].db.close()


def established(database: Any, source: str, category: str = "FAILURE") -> None:
    """An outage as replicas wrote it down a moment ago."""
    latarnia = {
        "status": category,
        "messages": [
            {
                "eventId": 1,
                "category": category,
                "type": "FAILURE_START",
                "title": "Awaria",
                "text": "Trwa awaria.",
                "start": "2026-01-15T12:00:00+01:00",
                "end": None,
                "version": 1,
                "published": "2026-01-15T12:00:00+01:00",
            }
        ],
    }
    database.execute(
        "DELETE FROM outages; INSERT INTO outages (environment, consecutive_failures,"
        " failing_since, opened_at, probed_at, latarnia, latarnia_read_at) VALUES ('test', 7,"
        " now() - interval '1 minute', now(), now(),"
        + (f" '{json.dumps(latarnia)}', now())" if source == "latarnia" else " NULL, NULL)")
    )


def test_what_is_over_is_told_as_an_announcement_only(company: Company, database: Any) -> None:
    established(database, "latarnia")
    during = company.get("/outages/test").json["outage"]
    assert (during["established"], during["announcements"]) == (True, [])
    database.execute(
        "UPDATE outages SET consecutive_failures = 0, failing_since = NULL, opened_at = NULL,"
        " answered_at = now()"
    )
    after = company.get("/outages/test").json["outage"]
    assert after == NO_OUTAGE | {"announcements": during["messages"]}
    [announcement] = after["announcements"]
    assert announcement["publishedAt"] == "2026-01-15T12:00:00+01:00"


@pytest.mark.parametrize(
    ("source", "category", "english", "polish"),
    [
        ("breaker", "", "offline24", "offline24"),
        ("latarnia", "MAINTENANCE", "next working day after the maintenance", "prac serwisowych"),
        ("latarnia", "FAILURE", "within seven working days", "siedmiu dni roboczych"),
        ("latarnia", "TOTAL_FAILURE", "need not be sent", "nie trzeba"),
    ],
)
def test_409_tells_an_accountant_what_to_do_in_either_language(
    company: Company,
    control: Any,
    database: Any,
    in_polish: Any,
    source: str,
    category: str,
    english: str,
    polish: str,
) -> None:
    established(database, source, category)
    path = "/invoices/test/status/20260101-SO-0123456789-0123456789-01"
    response = company.get(path)
    body = assert_problem(
        response, 409, "ksef_outage", retry_after=int(response.headers["Retry-After"])
    )
    assert 1 <= body["retryAfter"] <= 30
    assert english in body["detail"]
    assert body["outage"]["since"] in body["detail"]
    assert body["outage"]["source"] == source
    told = company.get("/outages/test").json["outage"]
    assert told == body["outage"]
    assert company.client.get("/status").json["environments"]["test"] == "outage"
    in_their_words = in_polish.get(path, headers=company.authorization).json
    assert polish in in_their_words["detail"]
    assert in_their_words["outage"] == body["outage"]
    assert control.calls() == []


def test_502_tells_that_no_outage_is_established_in_either_language(
    company: Company, control: Any, in_polish: Any, asked: Any
) -> None:
    control.fault("html-503", path="/sessions/", times=None)
    for number, response in enumerate(asked(), 1):
        body = assert_problem(response, 502, "ksef_error", also=["ksef"])
        assert "An outage of KSeF is not established" in body["detail"]
        assert body["outage"]["consecutiveFailures"] == 2 * number  # each was repeated once
    assert company.get("/outages/test").json["outage"] == body["outage"]
    path = "/invoices/test/status/20260101-SO-0123456789-0123456789-01"
    detail = in_polish.get(path, headers=company.authorization).json["detail"]
    assert (
        detail
        == "KSeF odmówił albo zawiódł. Nie stwierdzono awarii KSeF: poczekaj i zapytaj ponownie."
    )


def test_a_refusal_that_will_not_pass_is_told_with_ksef_s_words_in_either_language(
    company: Company, control: Any, in_polish: Any, asked: Any
) -> None:
    control.fault("forbidden", path="/sessions/", times=None)
    for response in asked():
        detail = assert_problem(response, 502, "ksef_error", also=["ksef"])["detail"]
        assert detail.endswith(
            "An outage of KSeF is not established, and asking again will not help."
        )
    path = "/invoices/test/status/20260101-SO-0123456789-0123456789-01"
    body = in_polish.get(path, headers=company.authorization).json
    assert body["detail"].startswith("KSeF odmówił albo zawiódł.")
    assert body["detail"].endswith("a ponowienie zapytania nie pomoże.")


def test_a_blocked_credential_is_told_in_polish(
    company: Company, control: Any, in_polish: Any, database: Any
) -> None:
    control.set_token_outcome("test", 480, nip=company.nip)
    database.execute("DELETE FROM ksef_sessions")
    for _ in range(2):
        body = in_polish.post("/auth/test", headers=company.authorization).json
        assert body["detail"].startswith(
            f"KSeF odrzucił poświadczenie firmy. KSeF: {body['ksef']['description']}. Musi"
        )
        assert body["detail"].endswith("ponowienie zapytania przedtem nie pomoże.")


def test_simulation_is_told_in_polish_too(company: Company, in_polish: Any) -> None:
    begun = simulate(company, message="Próba", endsAt=in_seconds(3600)).json["outage"]
    path = "/invoices/test/status/20260101-SO-0123456789-0123456789-01"
    body = in_polish.get(path, headers=company.authorization).json
    assert body["detail"] == (
        f"Symulacja awarii KSeF w środowisku test od {begun['since']}"
        f" do {begun['messages'][0]['end']}: Próba"
    )


def test_public_status_knows_for_ten_minutes_that_ksef_answered(
    company: Company, database: Any
) -> None:
    def state() -> str:
        return company.client.get("/status").json["environments"]["test"]

    assert state() == "available"
    database.execute("UPDATE outages SET answered_at = now() - interval '595 seconds'")
    assert state() == "available"
    database.execute("UPDATE outages SET answered_at = now() - interval '601 seconds'")
    assert state() == "unknown"
    database.execute(
        "UPDATE outages SET answered_at = now(), consecutive_failures = 1, failing_since = now()"
    )
    assert state() == "unknown"
