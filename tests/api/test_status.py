"""GET /invoices/{environment}/status/{referenceNumber}, from the ERP's request to its rows."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app import create_app
from app.context import EXTENSION
from tests.rows import (
    OFFLINE,
    SYNCED,
    Write,
    add_offline,
    add_synced,
    counted_writes,
    offline_sessions,
    stored,
    synced_sessions,
)
from tests.service import Company

NIP, OTHER_NIP = "5265877635", "7812019453"
SESSION = "GET /{environment}/v2/sessions/{reference}"
LISTING = "GET /{environment}/v2/sessions/{reference}/invoices"
NUMBER = "5265877635-20260329-0100001AF629-4F"
HASH = "gRvzW8nHkQyRiyBSc4Sd7Dz6Z1hXBqv0XWkqbXW5rNk="
OPTIONAL = (
    "invoiceNumber",
    "ksefNumber",
    "acquisitionDate",
    "invoiceHash",
    "invoiceFileName",
    "invoicingDate",
    "invoicingMode",
)
ORIGINAL = {
    "originalKsefNumber": "5265877635-20250826-0100001AF629-AF",
    "originalSessionReferenceNumber": "20250826-SO-0123456789-0123456789-01",
}


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


def status_path(session: Any) -> str:
    return f"/invoices/{session.environment}/status/{session.reference_number}"


def answer(company: Company, session: Any) -> dict[str, Any]:
    """The body of a 200, but for what changes from one check to the next."""
    response = company.get(status_path(session))
    assert response.status_code == 200, response.text
    return {k: v for k, v in response.json.items() if k not in ("checkedAt", "nextCheckAfter")}


def ksef_says(control: Any, listing: bool, body: dict[str, Any], times: int = 1) -> None:
    """Put KSeF's next answer, word by word, in place of the sandbox's own."""
    path = "/invoices$" if listing else "/sessions/[^/]+$"
    control.fault("status", path=path, times=times, status=200, body=body)


# -- the body -------------------------------------------------------------------------------


def test_finished_session_is_told_field_by_field(company: Company, control: Any) -> None:
    """The clocks went forward while it was processed: 01:59:58 in Warsaw, then 03:00:02."""
    session = control.seed_session(
        "test",
        NIP,
        kind="batch",
        date_created="2026-03-29T00:59:58Z",
        invoices=[
            {"invoiceNumber": "FV/2026/03/001 zażółć", "ksefNumber": NUMBER, "invoiceHash": HASH},
            {"status": 450, "details": ["P_2", "brak pola"], "offline": True},
            {"status": 440, "details": ["Duplikat"], **ORIGINAL},
            {"status": 430, "details": ["Zły plik"]},
        ],
    )
    references = [invoice.reference_number for invoice in session.invoices]
    hashes = [invoice.invoice_hash for invoice in session.invoices]
    assert hashes[0] == HASH
    assert len({*hashes}) == 4

    response = company.get(status_path(session))

    assert response.content_type == "application/json"
    body = response.json
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+0[12]:00", body.pop("checkedAt"), re.ASCII
    )
    assert body == {
        "referenceNumber": session.reference_number,
        "status": {
            "code": 200,
            "description": "Sesja wsadowa przetworzona pomyślnie",
            "details": [],
        },
        "dateCreated": "2026-03-29 01:59:58",
        "dateUpdated": "2026-03-29 03:00:58",
        "totalInvoiceCount": 4,
        "successfulInvoiceCount": 1,
        "failedInvoiceCount": 3,
        "invoices": [
            {
                "ordinalNumber": 1,
                "invoiceNumber": "FV/2026/03/001 zażółć",
                "ksefNumber": NUMBER,
                "acquisitionDate": "2026-03-29 03:00:02",
                "status": {"code": 200, "description": "Sukces", "details": []},
                "referenceNumber": references[0],
                "invoiceHash": hashes[0],
                "invoiceFileName": "faktura_00001.xml",
                "invoicingDate": "2026-03-29T03:00:00+02:00",
                "invoicingMode": "Online",
            },
            {
                "ordinalNumber": 2,
                "invoiceNumber": None,
                "ksefNumber": None,
                "acquisitionDate": None,
                "status": {
                    "code": 450,
                    "description": "Błąd weryfikacji semantyki dokumentu faktury",
                    "details": ["P_2", "brak pola"],
                },
                "referenceNumber": references[1],
                "invoiceHash": hashes[1],
                "invoiceFileName": "faktura_00002.xml",
                "invoicingDate": "2026-03-29T03:00:00+02:00",
                "invoicingMode": "Offline",
            },
            {
                "ordinalNumber": 3,
                "invoiceNumber": None,
                "ksefNumber": None,
                "acquisitionDate": None,
                "status": {
                    "code": 440,
                    "description": "Duplikat faktury",
                    "details": ["Duplikat"],
                },
                "referenceNumber": references[2],
                "invoiceHash": hashes[2],
                "invoiceFileName": "faktura_00003.xml",
                "invoicingDate": "2026-03-29T03:00:00+02:00",
                "invoicingMode": "Online",
                "duplicateOf": {
                    "ksefNumber": ORIGINAL["originalKsefNumber"],
                    "referenceNumber": ORIGINAL["originalSessionReferenceNumber"],
                },
            },
            {
                "ordinalNumber": 4,
                "invoiceNumber": None,
                "ksefNumber": None,
                "acquisitionDate": None,
                "status": {
                    "code": 430,
                    "description": "Błąd weryfikacji pliku faktury",
                    "details": ["Zły plik"],
                },
                "referenceNumber": references[3],
                "invoiceHash": hashes[3],
                "invoiceFileName": "faktura_00004.xml",
                "invoicingDate": "2026-03-29T03:00:00+02:00",
                "invoicingMode": "Online",
            },
        ],
        "final": True,
        "upo": {"pages": [{"referenceNumber": page} for page in session.upo_pages]},
        "validUntil": None,
    }
    assert len(session.upo_pages) == 1
    assert control.call_counts() == {SESSION: 1, LISTING: 1}


@pytest.mark.parametrize(
    ("created", "shown"),
    [
        ("2025-10-26T00:59:59Z", "2025-10-26 02:59:59"),  # summer time, its last second
        ("2025-10-26T01:00:00Z", "2025-10-26 02:00:00"),  # the same hour once more
        ("2025-12-31T23:30:00.9999999+00:00", "2026-01-01 00:30:00"),  # cut, never rounded
        ("2026-07-01T12:00:00+05:00", "2026-07-01 09:00:00"),
    ],
)
def test_dates_are_those_of_warsaw(
    company: Company, control: Any, created: str, shown: str
) -> None:
    session = control.seed_session("test", NIP)
    ksef_says(control, False, session_body(dateCreated=created, dateUpdated=created))
    ksef_says(control, True, {"invoices": [invoice_body(acquisitionDate=created)]})

    body = answer(company, session)

    assert (body["dateCreated"], body["dateUpdated"]) == (shown, shown)
    assert body["invoices"][0]["acquisitionDate"] == shown


def session_body(**changes: Any) -> dict[str, Any]:
    """KSeF's answer for a finished session of one accepted invoice."""
    return {
        "status": {"code": 200, "description": "Sukces"},
        "dateCreated": "2026-01-15T11:00:00+00:00",
        "dateUpdated": "2026-01-15T11:05:00+00:00",
        "invoiceCount": 1,
        "successfulInvoiceCount": 1,
        "failedInvoiceCount": 0,
        **changes,
    }


def invoice_body(ordinal: int = 1, **changes: Any) -> dict[str, Any]:
    """KSeF's answer for an accepted invoice."""
    return {
        "ordinalNumber": ordinal,
        "invoiceNumber": f"FV/{ordinal}",
        "ksefNumber": f"5265877635-20260115-00000000000{ordinal}-00",
        "referenceNumber": f"20260115-EE-0000000000-000000000{ordinal}-00",
        "acquisitionDate": "2026-01-15T11:01:00+00:00",
        "status": {"code": 200, "description": "Sukces"},
        **changes,
    }


def test_dates_are_those_of_the_zone_in_the_settings(
    company: Company, settings: Any, control: Any
) -> None:
    session = control.seed_session("test", NIP, date_created="2026-01-15T12:00:00Z")
    elsewhere = create_app(replace(settings, response_timezone=ZoneInfo("Asia/Tokyo")))
    response = elsewhere.test_client().get(status_path(session), headers=company.authorization)
    assert response.json["dateCreated"] == "2026-01-15 21:00:00"
    assert response.json["checkedAt"].endswith("+09:00")
    elsewhere.extensions[EXTENSION].db.close()


def test_counts_are_0_where_ksef_gives_none(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, state="moving", invoices=0)
    without_counts = {
        name: value for name, value in session_body().items() if not name.endswith("Count")
    }
    moving = {"code": 100, "description": "Sesja wsadowa rozpoczęta"}
    ksef_says(control, False, {**without_counts, "status": moving})

    body = answer(company, session)

    counts = ("totalInvoiceCount", "successfulInvoiceCount", "failedInvoiceCount")
    assert [(body[name], type(body[name])) for name in counts] == [(0, int)] * 3
    assert body["invoices"] == []
    assert control.call_counts() == {SESSION: 1}  # what has no invoices is not listed


def test_finished_session_without_counts_is_listed_all_the_same(
    company: Company, control: Any
) -> None:
    session = control.seed_session("test", NIP)
    counts = {"invoiceCount": None, "successfulInvoiceCount": None, "failedInvoiceCount": None}
    ksef_says(control, False, session_body(**counts))
    assert len(answer(company, session)["invoices"]) == 1


def test_invoices_stand_in_the_order_of_their_numbers(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP)
    ksef_says(control, False, session_body(invoiceCount=4, successfulInvoiceCount=4))
    ksef_says(control, True, {"invoices": [invoice_body(n) for n in (3, 1, 4, 2)]})
    body = answer(company, session)
    assert [invoice["ordinalNumber"] for invoice in body["invoices"]] == [1, 2, 3, 4]
    assert [invoice["invoiceNumber"] for invoice in body["invoices"]] == [
        "FV/1",
        "FV/2",
        "FV/3",
        "FV/4",
    ]
    assert body["final"] is True


@pytest.mark.parametrize(
    "changes",
    [
        dict.fromkeys(OPTIONAL),
        {"drop": OPTIONAL},
    ],
    ids=["null", "missing"],
)
def test_what_ksef_does_not_say_is_null(
    company: Company, control: Any, changes: dict[str, Any]
) -> None:
    session = control.seed_session("test", NIP)
    moving = {"code": 150, "description": "Trwa przetwarzanie"}
    invoice = invoice_body(status=moving, **changes)
    for name in invoice.pop("drop", ()):
        invoice.pop(name, None)
    ksef_says(control, False, session_body(status=moving, successfulInvoiceCount=0))
    ksef_says(control, True, {"invoices": [invoice], "continuationToken": None})
    assert answer(company, session)["invoices"] == [
        {
            "ordinalNumber": 1,
            "invoiceNumber": None,
            "ksefNumber": None,
            "acquisitionDate": None,
            "status": {"code": 150, "description": "Trwa przetwarzanie", "details": []},
            "referenceNumber": "20260115-EE-0000000000-0000000001-00",
            "invoiceHash": None,
            "invoiceFileName": None,
            "invoicingDate": None,
            "invoicingMode": None,
        }
    ]


def test_unknown_fields_of_ksef_are_passed_over(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP)
    ksef_says(control, False, session_body(somethingNew={"a": 1}))
    ksef_says(control, True, {"invoices": [invoice_body(newToo=[1])], "x": None})
    body = answer(company, session)
    assert "somethingNew" not in body
    assert "newToo" not in body["invoices"][0]


# -- where a session stands -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "description"),
    [
        ("online", 100, "Sesja interaktywna otwarta"),
        ("online", 170, "Sesja interaktywna zamknięta"),
        ("batch", 100, "Sesja wsadowa rozpoczęta"),
        ("batch", 150, "Trwa przetwarzanie"),
    ],
)
def test_moving_session_is_an_answer_and_no_error(
    company: Company, control: Any, kind: str, code: int, description: str
) -> None:
    session = control.seed_session(
        "test",
        NIP,
        kind=kind,
        state="moving",
        code=code,
        invoices=[{"status": 200}, {"status": 150}, {"status": 100}],
    )
    response = company.get(status_path(session))
    body = response.json
    assert response.status_code == 200
    assert body["status"] == {"code": code, "description": description, "details": []}
    assert body["final"] is False
    assert 1 <= body["nextCheckAfter"] <= 30
    assert isinstance(body["nextCheckAfter"], int)
    assert body["upo"] == {"pages": []}
    assert (body["totalInvoiceCount"], body["successfulInvoiceCount"]) == (3, 1)
    assert [
        (invoice["status"]["code"], invoice["ksefNumber"], invoice["invoiceNumber"])
        for invoice in body["invoices"]
    ] == [
        (200, session.invoices[0].ksef_number, session.invoices[0].invoice_number),
        (150, None, None),
        (100, None, None),
    ]


def test_session_moves_on_until_it_is_final(company: Company, control: Any) -> None:
    session = control.seed_session(
        "test", NIP, state="moving", invoices=[{"status": 150}, {"status": 150, "outcome": 450}]
    )
    assert answer(company, session)["final"] is False

    control.change_session("test", session.reference_number, state="finished")

    response = company.get(status_path(session)).json
    assert response["final"] is True
    assert "nextCheckAfter" not in response
    assert [invoice["status"]["code"] for invoice in response["invoices"]] == [200, 450]
    assert (response["successfulInvoiceCount"], response["failedInvoiceCount"]) == (1, 1)


def test_failed_session_is_final_with_ksef_s_own_words(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, kind="batch", state="failed", code=430)
    body = answer(company, session)
    assert body["status"] == {
        "code": 430,
        "description": "Błąd dekompresji pierwotnego archiwum",
        "details": [],
    }
    assert body["final"] is True
    assert body["invoices"] == []
    assert body["upo"] == {"pages": []}
    assert control.call_counts() == {SESSION: 1}


@pytest.mark.parametrize("cause", ["Nie przesłano faktur", "Przekroczono czas wysyłki"])
def test_details_tell_the_causes_of_a_cancelled_session_apart(
    company: Company, control: Any, database: Any, cause: str
) -> None:
    session = control.seed_session("test", NIP, state="failed", code=440, details=[cause])
    status = {"code": 440, "description": "Sesja anulowana", "details": [cause]}
    assert answer(company, session)["status"] == status
    assert answer(company, session)["status"] == status  # as it was written
    database.execute("UPDATE kept_sessions SET body_form = 'another'")
    assert answer(company, session)["status"] == status  # from its row
    assert control.call_counts() == {SESSION: 1}


def test_an_open_session_says_until_when_it_is_open(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, state="open", invoices=0)
    open_until = {"validUntil": "2026-01-15T23:00:00.5+00:00"}
    opened = {"code": 100, "description": "Sesja interaktywna otwarta"}
    closed = {"code": 170, "description": "Sesja interaktywna zamknięta"}
    counts = {"invoiceCount": 0, "successfulInvoiceCount": 0}
    ksef_says(control, False, session_body(status=opened, **counts, **open_until))
    assert answer(company, session)["validUntil"] == "2026-01-16T00:00:00+01:00"
    # Not the moment at which a closed one would have ended.
    ksef_says(control, False, session_body(status=closed, **counts, **open_until))
    assert answer(company, session)["validUntil"] is None


@pytest.mark.parametrize("code", [405, 410, 415, 430, 435, 440, 450, 550])
def test_a_refused_invoice_is_known_by_its_hash(
    company: Company, control: Any, database: Any, code: int
) -> None:
    """KSeF does not name its number, and the file's name in a batch only."""
    session = control.seed_session("test", NIP, kind="batch", invoices=[{}, {"status": code}])

    def refused() -> dict[str, Any]:
        told: dict[str, Any] = answer(company, session)["invoices"][1]
        return {name: told[name] for name in OPTIONAL}

    told = refused()
    assert told == {
        "invoiceNumber": None,
        "ksefNumber": None,
        "acquisitionDate": None,
        "invoiceHash": session.invoices[1].invoice_hash,
        "invoiceFileName": "faktura_00002.xml",
        "invoicingDate": told["invoicingDate"],
        "invoicingMode": "Online",
    }
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+0[12]:00", told["invoicingDate"], re.ASCII
    )
    assert refused() == told  # as it was written
    database.execute("UPDATE kept_sessions SET body_form = 'another'")
    assert refused() == told  # from its row
    assert control.call_counts() == {SESSION: 1, LISTING: 1}


def test_session_of_rejected_invoices_only(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, invoices=[{"status": 450}, {"status": 410}])
    body = answer(company, session)
    assert body["status"]["code"] == 445
    assert body["final"] is True
    assert (body["successfulInvoiceCount"], body["failedInvoiceCount"]) == (0, 2)
    assert {invoice["ksefNumber"] for invoice in body["invoices"]} == {None}


def test_list_shorter_than_the_counters_is_listed_once_more(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, invoices=3)
    control.fault("shorter-list", path="/invoices$", times=1)
    body = answer(company, session)
    assert len(body["invoices"]) == 3
    assert body["final"] is True
    assert control.call_counts() == {SESSION: 1, LISTING: 2}


def test_list_that_stays_shorter_is_answered_and_is_not_final(
    company: Company, control: Any
) -> None:
    session = control.seed_session("test", NIP, invoices=3)
    control.fault("shorter-list", path="/invoices$", times=None)
    body = answer(company, session)
    assert (body["totalInvoiceCount"], len(body["invoices"])) == (3, 2)
    assert body["status"]["code"] == 200
    assert body["final"] is False
    assert control.call_counts() == {SESSION: 1, LISTING: 2}


@pytest.mark.parametrize(
    "invoice",
    [
        {"status": {"code": 150, "description": "Trwa przetwarzanie"}, "ksefNumber": None},
        {"status": {"code": 450, "description": "Błąd"}, "ksefNumber": None},
    ],
    ids=["still moving", "fewer accepted than counted"],
)
def test_finished_session_whose_list_does_not_fit_is_not_final(
    company: Company, control: Any, invoice: dict[str, Any]
) -> None:
    session = control.seed_session("test", NIP)
    ksef_says(control, False, session_body())
    ksef_says(control, True, {"invoices": [invoice_body(**invoice)]}, times=2)
    assert answer(company, session)["final"] is False
    assert control.call_counts() == {SESSION: 1, LISTING: 2}


def test_invoices_that_come_in_between_count(company: Company, control: Any) -> None:
    """The counters are asked for again where a moving session's list is longer than they say."""
    session = control.seed_session("test", NIP, state="open", invoices=2)
    moving = {"code": 100, "description": "Sesja interaktywna otwarta"}
    ksef_says(control, False, session_body(status=moving, invoiceCount=1))
    body = answer(company, session)
    assert (body["totalInvoiceCount"], len(body["invoices"])) == (2, 2)
    assert control.call_counts() == {SESSION: 2, LISTING: 1}


# -- pages ----------------------------------------------------------------------------------


def test_ten_thousand_invoices_are_complete_in_ten_calls_and_linked_by_two_updates(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, kind="batch", invoices=10_000)
    add_synced(database, company.account(), session.ksef_numbers)
    add_offline(
        database, company.account(), [invoice.reference_number for invoice in session.invoices]
    )
    with counted_writes(database) as writes:
        body = answer(company, session)
        assert writes.read() == [
            Write(SYNCED, "UPDATE", 10_000),
            Write(OFFLINE, "UPDATE", 10_000),
        ]
    assert control.call_counts() == {SESSION: 1, LISTING: 10}
    assert {call.page_size for call in control.calls() if call.page_size} == {"1000"}
    assert body["final"] is True
    assert [
        (i["ordinalNumber"], i["ksefNumber"], i["referenceNumber"]) for i in body["invoices"]
    ] == [(i.ordinal_number, i.ksef_number, i.reference_number) for i in session.invoices]
    assert set(synced_sessions(database, company.account()).values()) == {session.reference_number}


@pytest.mark.parametrize("fault", ["empty-page-with-token", "duplicate-invoice"])
def test_odd_pages_of_ksef_lose_and_repeat_nothing(
    company: Company, control: Any, fault: str
) -> None:
    session = control.seed_session("test", NIP, invoices=1500)
    control.fault(fault, path="/invoices$")
    body = answer(company, session)
    assert [i["ordinalNumber"] for i in body["invoices"]] == list(range(1, 1501))
    assert body["final"] is True


def test_listing_is_begun_again_where_ksef_loses_its_token(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, invoices=1500)
    control.fault("ksef-error", path="/invoices$", skip=1, code=21418)
    assert len(answer(company, session)["invoices"]) == 1500
    assert control.call_counts() == {SESSION: 1, LISTING: 4}


# -- headers --------------------------------------------------------------------------------


def test_headers_of_an_answer(company: Company, control: Any) -> None:
    headers = company.get(status_path(control.seed_session("test", NIP))).headers
    assert headers["ETag"].startswith('W/"')
    assert headers["Age"] == "0"
    assert headers["Cache-Control"] == "private, no-cache"
    assert headers["Vary"] == "Accept, Authorization"


def test_a_moving_answer_says_for_how_long_it_is_good(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, state="moving", invoices=1)
    response = company.get(status_path(session))
    pace = response.json["nextCheckAfter"]
    assert response.headers["Cache-Control"] == f"private, max-age={pace}"
    tag = response.headers["ETag"]
    unchanged = company.get(status_path(session), headers={"If-None-Match": tag})
    assert unchanged.status_code == 304
    assert re.fullmatch(r"private, max-age=[1-9]\d*", unchanged.headers["Cache-Control"])
    assert unchanged.headers["Vary"] == "Accept, Authorization"
    assert unchanged.headers["ETag"] == tag
    assert unchanged.headers["Age"] == "0"


def test_tag_does_not_change_with_the_time_of_the_check(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, state="moving", invoices=2)
    first = company.get(status_path(session))
    later = company.get(status_path(session))
    deadline = time.monotonic() + 5
    while later.json["checkedAt"] == first.json["checkedAt"] and time.monotonic() < deadline:
        later = company.get(status_path(session))
    assert later.json["checkedAt"] != first.json["checkedAt"]
    assert later.headers["ETag"] == first.headers["ETag"]


def test_tag_changes_with_the_session(company: Company, control: Any) -> None:
    session = control.seed_session("test", NIP, state="open", invoices=1)
    before = company.get(status_path(session)).headers["ETag"]
    control.add_invoices("test", session.reference_number, 1)
    assert company.get(status_path(session)).headers["ETag"] != before


def test_unchanged_answer_is_304_and_still_links(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP)
    tag = company.get(status_path(session)).headers["ETag"]
    add_synced(database, company.account(), session.ksef_numbers)

    response = company.get(status_path(session), headers={"If-None-Match": tag})

    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == tag
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert set(synced_sessions(database, company.account()).values()) == {session.reference_number}
    other = company.get(status_path(session), headers={"If-None-Match": 'W/"other"'})
    assert other.status_code == 200


# -- the rows -------------------------------------------------------------------------------


def test_a_check_links_the_company_s_rows(company: Company, control: Any, database: Any) -> None:
    session = control.seed_session("test", NIP, invoices=[{}, {"status": 440, **ORIGINAL}, {}])
    accepted, duplicate, _ = session.invoices
    account = company.account()
    add_synced(database, account, [accepted.ksef_number, ORIGINAL["originalKsefNumber"], NUMBER])
    add_offline(
        database,
        account,
        [session.reference_number, duplicate.reference_number, "20220110-SO-ANOTHER"],
    )
    control.clear_calls()

    answer(company, session)

    assert synced_sessions(database, account) == {
        accepted.ksef_number: session.reference_number,
        ORIGINAL["originalKsefNumber"]: ORIGINAL["originalSessionReferenceNumber"],
        NUMBER: None,
    }
    assert offline_sessions(database, account) == [
        (session.reference_number, session.reference_number),
        (duplicate.reference_number, session.reference_number),
        ("20220110-SO-ANOTHER", None),
    ]
    linked = stored(database)
    answer(company, session)
    assert stored(database) == linked


@pytest.mark.fault(37)
@pytest.mark.parametrize("named", ["own", None])
def test_a_duplicate_tells_the_number_but_no_session_that_is_wrong(
    company: Company, control: Any, database: Any, named: str | None
) -> None:
    original = ORIGINAL["originalKsefNumber"]
    extensions = {"originalKsefNumber": original, "originalSessionReferenceNumber": None}
    session = control.seed_session("test", NIP, invoices=[{"status": 440, **extensions}, {}])
    control.fault(
        "set-field",
        path="/invoices$",
        field="invoices.0.status.extensions.originalSessionReferenceNumber",
        value=session.reference_number if named else None,
        times=None,
    )
    add_synced(database, company.account(), [original])
    for _ in range(3):  # KSeF's, the written one, and after a look
        told = company.get(status_path(session)).json
        assert told["invoices"][0]["duplicateOf"] == {
            "ksefNumber": original,
            "referenceNumber": None,
        }
    assert synced_sessions(database, company.account()) == {original: None}

    found = company.get(f"/invoices/test?ksefNumber={original}").json
    assert found["answers"][0]["sessionReferenceNumber"] == session.reference_number
    assert found["answers"][0]["duplicateOf"]["referenceNumber"] is None

    known = control.seed_session("test", NIP, invoices=[{"ksefNumber": original}])
    control.clear_faults()
    assert company.get(status_path(known)).status_code == 200
    upo = company.get(f"{status_path(session)}/{original}/upo")
    assert (upo.status_code, upo.json["code"]) == (404, "invoice_not_found")
    assert f"Its session is {known.reference_number}." in upo.json["detail"]


def test_a_check_touches_no_other_company_and_no_other_environment(
    company: Company, make_company: Callable[..., Company], control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP)
    other = make_company(OTHER_NIP, logged_in=False)
    for account in (other.account(), company.account("demo")):
        add_synced(database, account, session.ksef_numbers)
        add_offline(database, account, [session.reference_number])
    before = stored(database)
    answer(company, session)
    assert stored(database) == before


def test_invoices_of_a_moving_session_are_linked_as_they_are_accepted(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, state="open", invoices=[{}, {"status": 150}])
    first, second = (invoice.ksef_number for invoice in session.invoices)
    second = second or NUMBER
    add_synced(database, company.account(), [first, second])
    answer(company, session)
    assert synced_sessions(database, company.account()) == {
        first: session.reference_number,
        second: None,
    }
    control.change_invoice("test", session.reference_number, 2, status=200, ksefNumber=second)
    answer(company, session)
    assert set(synced_sessions(database, company.account()).values()) == {session.reference_number}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("truncated", {}),
        ("cut-mid-body", {}),
        ("no-length", {}),
        ("invalid-json", {}),
        ("html-503", {"times": 2}),  # asked for once more
        ("drop-field", {"field": "invoices.1.status"}),
        ("rate-limited", {"retryAfter": 3}),
    ],
)
def test_half_a_listing_links_nothing(
    company: Company, control: Any, database: Any, kind: str, options: dict[str, Any]
) -> None:
    """The second page fails; what the first one said is not written."""
    session = control.seed_session("test", NIP, invoices=1500)
    add_synced(database, company.account(), session.ksef_numbers[:3])
    before = stored(database)
    control.fault(kind, path="/invoices$", skip=1, **options)
    assert company.get(status_path(session)).status_code == 502
    assert stored(database) == before
    database.execute("UPDATE quota_groups SET blocked_until = NULL")
    assert len(answer(company, session)["invoices"]) == 1500


def test_answer_is_not_sent_before_the_rows_are_committed(
    company: Company, control: Any, database: Any
) -> None:
    """L6. Rows that cannot be linked: a 503, and the repeat links them."""
    session = control.seed_session("test", NIP)
    add_synced(database, company.account(), session.ksef_numbers)
    database.execute(f"ALTER TABLE {SYNCED} RENAME COLUMN linked_at TO gone")
    try:
        response = company.get(status_path(session))
    finally:
        database.execute(f"ALTER TABLE {SYNCED} RENAME COLUMN gone TO linked_at")
    assert response.status_code == 503
    assert synced_sessions(database, company.account()) == {session.ksef_numbers[0]: None}
    answer(company, session)
    assert set(synced_sessions(database, company.account()).values()) == {session.reference_number}
