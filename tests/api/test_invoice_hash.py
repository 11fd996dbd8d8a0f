"""An invoice is known by the hash of its file, also one that KSeF refused and never numbered."""

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.answers import assert_problem
from tests.service import Company

NIP = "5265877635"
REFUSED, SENT = 30, 1000


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


def ask(company: Company, name: str, **query: str) -> Any:
    response = company.get("/invoices/test", query_string={"invoiceHash": name, **query})
    assert response.status_code == 200, response.json
    return response.json


def add_row(database: Any, number: str, name: str) -> None:
    database.execute(
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number, invoice_hash)"
        f" VALUES ('{NIP}', 'test', '{number}', '{name}')"
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "accepted"), (150, "processing"), (440, "duplicate"), (430, "rejected")],
)
def test_what_became_of_a_file(company: Company, control: Any, status: int, state: str) -> None:
    order = {"status": status, "outcome": status} if status == 150 else {"status": status}
    moving = {"state": "moving"} if status == 150 else {}
    session = control.seed_session("test", NIP, invoices=[order], **moving)
    company.get(f"/invoices/test/status/{session.reference_number}")
    name = session.invoices[0].invoice_hash
    control.clear_calls()

    in_hexadecimal = base64.b64decode(name).hex()
    for spelled in (name, in_hexadecimal, in_hexadecimal.upper()):
        body = ask(company, spelled)
        assert body["state"] == state
        [found] = body["answers"]
        assert found["invoiceHash"] == name
        assert found["sessionReferenceNumber"] == session.reference_number
    assert control.calls() == []


def test_a_plus_that_was_not_encoded_is_one(company: Company) -> None:
    name = "+" * 42 + "A="
    response = company.get(f"/invoices/test?invoiceHash={name}&sentAt=2026-09-15T10:00:00+02:00")
    assert response.status_code == 200
    assert response.json["state"] == "unknown"
    assert company.get(f"/invoices/test?invoiceHash={quote(name)}").status_code == 200


def test_without_being_followed_nothing_is_said_not_to_have_arrived(company: Company) -> None:
    body = ask(company, "ab" * 32, sentAt="2026-09-15T10:00:00Z")
    assert body == {"rows": [], "answers": [], "state": "unknown", "knownUntil": None}


def test_refused_invoices_of_a_batch_have_their_own_status(
    company: Company, control: Any, database: Any
) -> None:
    """No number, no reference: the ERP knows its files, and reads each one's own status."""
    orders = [
        {"status": 430, "invoiceNumber": None, "details": [f"field {i}"]} if i < REFUSED else {}
        for i in range(SENT)
    ]
    session = control.seed_session("test", NIP, kind="batch", invoices=orders)
    for i, invoice in enumerate(session.invoices):
        add_row(database, f"FV/{i}", invoice.invoice_hash)

    assert company.get(f"/invoices/test/status/{session.reference_number}").status_code == 200
    company.get(f"/invoices/test/status/{session.reference_number}/{session.ksef_numbers[-1]}/upo")

    rows = database.execute(
        "SET ROLE erp; SELECT invoice_number, session_reference_number, session_code, invoice_code,"
        " invoice_details ->> 0, ksef_number, invoice_reference_number, upo_signature,"
        " upo_archived_at IS NOT NULL FROM invoice_status"
        " ORDER BY substr(invoice_number, 4)::int"
    )
    assert len(rows) == SENT
    for i, (row, invoice) in enumerate(zip(rows, session.invoices, strict=True)):
        refused = i < REFUSED
        last = i == SENT - 1
        assert row == (
            f"FV/{i}",
            session.reference_number,
            200,
            430 if refused else 200,
            f"field {i}" if refused else None,
            invoice.ksef_number,
            invoice.reference_number,
            "valid" if last else None,
            last,
        )
    for i in (0, REFUSED - 1, REFUSED):
        body = ask(company, session.invoices[i].invoice_hash)
        assert body["state"] == ("rejected" if i < REFUSED else "accepted")
        [row] = body["rows"]
        assert row["sessionReferenceNumber"] == session.reference_number
        assert row["invoiceHash"] == session.invoices[i].invoice_hash


def test_a_row_with_a_hash_that_comes_after_its_session_is_linked(
    company: Company, control: Any, database: Any
) -> None:
    """The look whether anything is unlinked finds what linking would write, and nothing else."""
    session = control.seed_session("test", NIP, invoices=[{"status": 430}, {}])
    other = control.seed_session("test", NIP, invoices=[{"status": 430}])
    path = f"/invoices/test/status/{session.reference_number}"
    company.get(path)
    company.get(path)
    for i, invoice in enumerate(session.invoices):
        add_row(database, f"FV/{i}", invoice.invoice_hash)
    add_row(database, "FV/other", other.invoices[0].invoice_hash)

    company.get(path)

    linked = "SELECT session_reference_number, xmin::text FROM offline_invoices ORDER BY id"
    once = database.execute(linked)
    assert [reference for reference, _ in once] == [session.reference_number] * 2 + [None]
    company.get(path)
    assert database.execute(linked) == once


def test_a_upo_of_another_file_than_ksef_listed_is_refused(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, invoices=2)
    path = f"/invoices/test/status/{session.reference_number}"
    company.get(path)
    database.execute(
        "UPDATE kept_invoices SET more = jsonb_set(more, '{invoiceHash}', to_jsonb('x'::text))"
        f" WHERE ksef_number = '{session.ksef_numbers[0]}'"
    )
    for what in (f"{path}/{session.ksef_numbers[0]}/upo", f"{path}/upo"):
        response = company.get(what)
        assert_problem(response, 502, "upo_integrity")
        assert "another file" in response.json["detail"]
    assert database.execute("SELECT FROM upos") == []
    assert company.get(f"{path}/{session.ksef_numbers[1]}/upo").status_code == 200
