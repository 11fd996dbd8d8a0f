"""GET /events/{environment}: the company's own events, page by page."""

from collections.abc import Callable
from typing import Any

import pytest

from app.services.events import journal
from tests.service import Company

OTHER_NIP = "7812019453"


@pytest.fixture
def tell(company: Company) -> Callable[..., None]:
    """Write events of stuck sessions: `tell("A", "B")`."""

    def write(*references: str, nip: str = company.nip, environment: str = "test") -> None:
        for reference in references:
            with company.service.db.transaction() as connection:
                journal.note(
                    connection,
                    journal.Kind.SESSION_STUCK,
                    company_nip=nip,
                    environment=environment,
                    data={"referenceNumber": reference, "since": "2026-09-15T10:00:00+00:00"},
                )

    return write


def references(answer: Any) -> list[str]:
    assert answer.status_code == 200
    return [event["referenceNumber"] for event in answer.json["events"]]


def test_events_are_given_page_by_page(company: Company, tell: Any) -> None:
    empty = company.get("/events/test")
    assert empty.json == {"events": [], "next": None}
    tell("A", "B", "C")
    first = company.get("/events/test?limit=2")
    assert references(first) == ["A", "B"]
    assert first.headers["Cache-Control"] == "private, max-age=0"
    second = company.get(f"/events/test?limit=2&after={first.json['next']}")
    assert references(second) == ["C"]
    assert second.headers["Cache-Control"] == "private, max-age=5"
    third = company.get(f"/events/test?after={second.json['next']}")
    assert third.json == {"events": [], "next": second.json["next"]}
    tell("D")
    assert references(company.get(f"/events/test?after={third.json['next']}")) == ["D"]


def test_an_event_has_what_one_asks_with_and_no_more(company: Company, tell: Any) -> None:
    tell("A")
    [event] = company.get("/events/test").json["events"]
    assert event.pop("id")
    assert event.pop("timestamp").endswith("+00:00")
    assert event == {
        "type": "session.stuck",
        "nip": company.nip,
        "environment": "test",
        "referenceNumber": "A",
        "since": "2026-09-15T10:00:00+00:00",
    }


def test_a_company_sees_its_own_of_this_environment(
    company: Company, make_company: Callable[..., Company], tell: Any
) -> None:
    other = make_company(OTHER_NIP, logged_in=False)
    tell("A")
    tell("B", nip=OTHER_NIP)
    tell("C", environment="demo")
    assert references(company.get("/events/test")) == ["A"]
    assert references(other.get("/events/test")) == ["B"]
    cursor = company.get("/events/test").json["next"]
    assert other.get(f"/events/test?after={cursor}").status_code == 400


def test_an_unchanged_answer_is_a_304(company: Company, tell: Any) -> None:
    tell("A")
    tag = company.get("/events/test").headers["ETag"]
    again = company.get("/events/test", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == "private, max-age=5"
    tell("B")
    assert company.get("/events/test", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("after=x", "after"),
        ("after=", "after"),
        ("after=0-12345678", "after"),
        ("after=1-12345678%0A", "after"),
        ("after=999999999999999999-12345678", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=1.5", "limit"),
        ("limit=x", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1_0", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=1", "limit"),
        ("since=1", "since"),
    ],
)
def test_what_is_wrong_is_named(company: Company, tell: Any, query: str, name: str) -> None:
    tell("A")
    answer = company.get(f"/events/test?{query}")
    assert answer.status_code == 400
    assert list(answer.json["errors"]) == [name]


def test_ksef_is_not_asked_nor_does_a_simulation_stop_it(
    company: Company, tell: Any, control: Any
) -> None:
    tell("A")
    simulated = {"message": "Rehearsal"}
    assert company.request("PUT", "/outages/test/simulation", json=simulated).status_code == 200
    assert references(company.get("/events/test")) == ["A"]
    assert control.call_counts() == {}


def test_waiting_and_parked_events_are_measured(company: Company, tell: Any, database: Any) -> None:
    database.execute(
        "INSERT INTO webhooks (company_nip, environment, url, secret, position, ended_at) VALUES"
        f" ('{company.nip}', 'test', 'https://a.example', '', 0, NULL),"
        f" ('{company.nip}', 'test', 'https://b.example', '', 1, NULL),"
        f" ('{company.nip}', 'test', 'https://c.example', '', 0, now());"
        "INSERT INTO parked_events (company_nip, environment, url, number, attempts, answer)"
        f" VALUES ('{company.nip}', 'test', 'https://b.example', 1, 1, '400')"
    )
    tell("A", "B")
    database.execute("UPDATE events SET at = now() - interval '1 hour' WHERE number = 1")
    lines = company.get("/metrics").text.splitlines()
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if "{" in line}
    assert found['ksef_proxy_events_undelivered{environment="test"}'] == 3
    assert found['ksef_proxy_events_undelivered{environment="prod"}'] == 0
    assert 3600 <= found['ksef_proxy_events_oldest_undelivered_seconds{environment="test"}'] < 3660
    assert found['ksef_proxy_events_oldest_undelivered_seconds{environment="prod"}'] == 0
    assert found['ksef_proxy_events_parked{environment="test"}'] == 1
    assert found['ksef_proxy_webhooks_ended{environment="test"}'] == 1
