"""Kept answers as the ERP sees them: their age, when to ask again, and the search in them."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from tests.answers import assert_problem
from tests.rows import add_offline, add_synced
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(settings.timing, fresh_least=30.0, fresh_most=30.0, quota_scale=1.0)
    return replace(settings, timing=timing)


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


def path(session: Any) -> str:
    return f"/invoices/test/status/{session.reference_number}"


def make_older(database: Any, seconds: int) -> None:
    database.execute(
        f"UPDATE kept_sessions SET checked_at = checked_at - interval '{seconds} s',"
        f" asked_at = asked_at - interval '{seconds} s'"
    )


def test_age_and_when_to_ask_again(company: Company, control: Any, database: Any) -> None:
    session = control.seed_session("test", NIP, state="moving", invoices=1)
    first = company.get(path(session))
    assert (first.headers["Age"], first.json["nextCheckAfter"]) == ("0", 30)
    make_older(database, 10)

    second = company.get(path(session))

    assert second.headers["Age"] in ("10", "11")
    assert second.json["nextCheckAfter"] in (19, 20)
    assert second.json["checkedAt"] < first.json["checkedAt"]
    assert second.headers["ETag"] == first.headers["ETag"]
    assert second.headers["Cache-Control"] == f"private, max-age={second.json['nextCheckAfter']}"
    assert second.headers["Vary"] == "Accept, Authorization"

    control.change_session("test", session.reference_number, state="finished")
    make_older(database, 30)
    third = company.get(path(session))
    assert third.json["final"] is True
    assert "nextCheckAfter" not in third.json
    assert third.headers["Cache-Control"] == "private, no-cache"
    assert third.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize(
    ("state", "caching"),
    [("moving", r"private, max-age=2[45]"), ("finished", "private, no-cache")],
)
def test_unchanged_answer_is_304_also_from_the_store(
    company: Company, control: Any, database: Any, state: str, caching: str
) -> None:
    session = control.seed_session("test", NIP, state=state, invoices=1)
    tag = company.get(path(session)).headers["ETag"]
    make_older(database, 5)
    control.clear_calls()
    again = company.get(path(session), headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Age"] in ("5", "6")
    assert re.fullmatch(caching, again.headers["Cache-Control"])
    assert again.headers["Vary"] == "Accept, Authorization"
    assert control.calls() == []


def test_an_answer_of_version_0_1_0_is_completed_when_ksef_can_be_asked(
    company: Company, control: Any, database: Any
) -> None:
    """Till then it is given without what that version dropped, and not kept as it is sent."""
    session = control.seed_session("test", NIP, invoices=2)
    whole = company.get(path(session))
    database.execute(
        "UPDATE kept_invoices SET more = NULL; UPDATE kept_sessions SET body_form = '1 zone'"
    )
    make_older(database, 120)
    control.set_api("test", available=False)

    incomplete = company.get(path(session))

    lacking = {
        "invoiceHash": None,
        "invoiceFileName": None,
        "invoicingDate": None,
        "invoicingMode": None,
    }
    assert incomplete.status_code == 200
    assert incomplete.json["invoices"] == [i | lacking for i in whole.json["invoices"]]
    assert incomplete.headers["Cache-Control"] == "private, no-cache"
    assert incomplete.headers["ETag"] != whole.headers["ETag"]

    control.set_api("test", available=True)
    make_older(database, 120)
    control.clear_calls()
    tag = incomplete.headers["ETag"]
    for asked in range(3):
        completed = company.get(path(session), headers={"If-None-Match": tag})
        assert completed.json["invoices"] == whole.json["invoices"], asked
        assert completed.headers["ETag"] == whole.headers["ETag"]
    assert [call.route for call in control.calls()] == [
        "/{environment}/v2/sessions/{reference}/invoices"
    ]


def test_an_old_answer_of_version_0_1_0_is_kept_as_it_is_sent(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, date_created="2026-01-15T12:00:00Z")
    company.get(path(session))
    database.execute(
        "UPDATE kept_invoices SET more = NULL; UPDATE kept_sessions SET body_form = '1 zone'"
    )
    control.clear_calls()
    for _ in range(2):
        [invoice] = company.get(path(session)).json["invoices"]
        assert invoice["invoiceHash"] is None
    assert database.execute("SELECT body_form FROM kept_sessions") == [("2 Europe/Warsaw",)]
    assert control.calls() == []


def test_rate_limit_without_an_earlier_answer(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP)
    control.fault("rate-limited", retryAfter=2680)
    assert_problem(
        company.get(path(session)), 502, "ksef_rate_limited", retry_after=2680, also=["ksef"]
    )
    control.clear_calls()
    again = company.get(path(session))
    assert again.status_code == 502
    assert 2670 <= int(again.headers["Retry-After"]) <= 2680
    assert control.calls() == []


def test_rate_limit_that_does_not_say_how_long(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP)
    control.fault("rate-limited")
    response = company.get(path(session))
    assert response.json["retryAfter"] == 60


# -- search ---------------------------------------------------------------------------------


def test_what_is_known_of_an_invoice(company: Company, control: Any, database: Any) -> None:
    session = control.seed_session("test", NIP, invoices=[{"invoiceNumber": "FV/7"}, {}])
    [number, other] = session.ksef_numbers
    add_synced(database, company.account(), [number, other])
    add_offline(database, company.account(), [session.reference_number])
    company.get(path(session))
    company.get(f"{path(session)}/{number}/upo")
    control.clear_calls()

    body = company.get(f"/invoices/test?ksefNumber={number}").json

    [row] = body["rows"]
    assert row.pop("linkedAt")
    assert row == {
        "table": "synced_invoices",
        "invoiceNumber": f"FV/{number}",
        "ksefNumber": number,
        "ksefReferenceNumber": None,
        "invoiceHash": None,
        "sessionReferenceNumber": session.reference_number,
    }
    [found] = body["answers"]
    assert found["sessionReferenceNumber"] == session.reference_number
    assert (found["status"]["code"], found["final"], found["upoArchived"]) == (200, True, True)
    assert found["invoiceNumber"] == "FV/7"
    assert found["invoiceHash"] == session.invoices[0].invoice_hash
    assert (found["invoiceFileName"], found["invoicingMode"]) == (None, "Online")
    assert datetime.fromisoformat(found["invoicingDate"]).tzinfo

    by_number = company.get("/invoices/test?invoiceNumber=FV/7").json
    assert by_number["rows"] == []
    assert by_number["answers"] == body["answers"]
    [offline] = company.get("/invoices/test?invoiceNumber=OFF/0").json["rows"]
    assert offline["table"] == "offline_invoices"
    assert company.get(f"/invoices/test?ksefNumber={other}").json["answers"][0]["upoArchived"] is (
        False
    )
    assert control.calls() == []


@pytest.mark.parametrize(
    "number",
    ["FV\u00a01/2026", "FV\u2009\u20607", "\ufeffFV", "FV\u202e1", "F" * 256, " 1 "],
    ids=ascii,
)
def test_what_status_shows_is_found(company: Company, control: Any, number: str) -> None:
    session = control.seed_session("test", NIP, invoices=[{"invoiceNumber": number}])
    [shown] = company.get(path(session)).json["invoices"]
    assert shown["invoiceNumber"] == number
    response = company.get("/invoices/test", query_string={"invoiceNumber": number})
    assert response.status_code == 200
    assert [found["invoiceNumber"] for found in response.json["answers"]] == [number]


def test_nothing_of_another_company_or_environment_is_found(
    company: Company, make_company: Callable[..., Company], control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP)
    add_synced(database, company.account(), session.ksef_numbers)
    company.get(path(session))
    query = f"?ksefNumber={session.ksef_numbers[0]}"
    other = make_company(OTHER_NIP, logged_in=False)
    for asker, environment in ((other, "test"), (company, "demo")):
        response = asker.get(f"/invoices/{environment}{query}")
        assert response.json == {
            "rows": [],
            "answers": [],
            "state": None,
            "unknownBecauseOf": None,
            "knownSince": None,
            "knownUntil": None,
        }


def test_tags_of_any_shape_are_taken(company: Company, control: Any) -> None:
    """A list that is no list of tags names none."""
    session = control.seed_session("test", company.nip)
    for tags in ('W/"]", W/"", "+Z\']c:2;e_77d_u!"', ", ,", "W/", '"', "*, *", 'W/"a'):
        headers = {"If-None-Match": tags}
        told = company.get(path(session), headers=headers).status_code
        assert told in (200, 304), tags
        upo = f"{path(session)}/{session.ksef_numbers[0]}/upo?docType=pdf"
        assert company.get(upo, headers=headers).status_code in (200, 304), tags


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?ksefNumber=x",
        "?ksefNumber=",
        "?invoiceNumber=",
        "?invoiceNumber=a&ksefNumber=5265877635-20250826-0100001AF629-AF",
        "?other=1",
        "?invoiceNumber=a%00b",
        "?invoiceNumber=a%0Ab",
        "?invoiceNumber=a%0Db",
        f"?invoiceNumber={'F' * 257}",
        "?invoiceHash=x",
        f"?invoiceHash={'A' * 43}B=",
        f"?invoiceHash={'a' * 63}",
        f"?invoiceHash={'a' * 64}&invoiceNumber=a",
        f"?invoiceHash={'a' * 64}&sentAt=2026-09-15T10:00:00",
        f"?invoiceHash={'a' * 64}&sentAt=",
        "?invoiceNumber=a&sentAt=2026-09-15T10:00:00Z",
    ],
)
def test_search_takes_exactly_one_name(company: Company, query: str) -> None:
    assert_problem(company.get(f"/invoices/test{query}"), 400, "invalid_parameter", also=["errors"])


@pytest.mark.parametrize("moment", ["2026-09-15T10:00:00", "2026-09-15", ""])
def test_a_time_without_its_offset_is_told_what_it_lacks(company: Company, moment: str) -> None:
    query = f"?invoiceHash={'a' * 64}&sentAt={moment}"
    problem = assert_problem(
        company.get(f"/invoices/test{query}"), 400, "invalid_parameter", also=["errors"]
    )
    assert problem["errors"] == {
        "sentAt": ["Must be a time with its offset, such as 2026-09-15T10:00:00+02:00."]
    }


# -- collective UPO -------------------------------------------------------------------------


@pytest.mark.parametrize("doc_type", ["xml", "pdf"])
def test_collective_upo_page_by_page(company: Company, control: Any, doc_type: str) -> None:
    control.settings(upoPageSize=10)
    session = control.seed_session("test", NIP, kind="batch", invoices=12)
    pages = control.session("test", session.reference_number).upo_pages
    response = company.get(f"{path(session)}/upo?docType={doc_type}")
    body = response.json
    assert [page["referenceNumber"] for page in body["pages"]] == pages
    assert [page["fileName"] for page in body["pages"]] == [f"{p}-upo.{doc_type}" for p in pages]
    assert body["contentType"] == f"application/{doc_type}"
    again = company.get(
        f"{path(session)}/upo?docType={doc_type}",
        headers={"If-None-Match": response.headers["ETag"]},
    )
    assert again.status_code == 304
