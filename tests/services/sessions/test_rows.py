"""Bringing in the company's invoice rows from a CSV file."""

import io
from typing import Any

import pytest

from app.errors import OperatorError
from app.service import Service
from app.services.operators import users
from app.services.sessions.rows import Imported, import_csv, list_rows
from tests.rows import OFFLINE, SYNCED

NIP, OTHER_NIP = "5265877635", "7812019453"
NUMBER = "5265877635-20250826-0100001AF629-AF"
OTHER_NUMBER = "5265877635-20260915-20273DF0F2E7-F1"
REFERENCE = "20260101-SO-0123456789-0123456789-01"


@pytest.fixture
def service(service: Service) -> Service:
    for nip in (NIP, OTHER_NIP):
        users.add_company(service.db, nip, f"Spółka {nip}")
    return service


def bring_in(service: Service, text: str, nip: str = NIP, environment: str = "test") -> Imported:
    return import_csv(service.account(nip, environment), io.StringIO(text, newline=""))


def synced(database: Any) -> list[tuple[Any, ...]]:
    return database.execute(
        f"SELECT company_nip, environment::text, invoice_number, ksef_number,"
        f" session_reference_number, linked_at FROM {SYNCED} ORDER BY invoice_number"
    )


def offline(database: Any) -> list[tuple[Any, ...]]:
    return database.execute(
        f"SELECT company_nip, environment::text, invoice_number, ksef_reference_number,"
        f" ksef_number, session_reference_number, linked_at FROM {OFFLINE} ORDER BY invoice_number"
    )


def test_rows_go_to_the_table_that_their_columns_ask_for(database: Any, service: Service) -> None:
    done = bring_in(
        service,
        "invoice_number,ksef_number,ksef_reference_number\n"
        f"FV/1,{NUMBER},\n"
        f"FV/2,,{REFERENCE}\n"
        f"FV/3,{NUMBER},{REFERENCE}\n",
    )
    assert done == Imported(rows=3, synced=1, offline=2)
    assert synced(database) == [(NIP, "test", "FV/1", NUMBER, None, None)]
    assert offline(database) == [
        (NIP, "test", "FV/2", REFERENCE, None, None, None),
        (NIP, "test", "FV/3", REFERENCE, NUMBER, None, None),
    ]


def test_a_row_may_be_named_by_the_hash_of_its_file_alone(database: Any, service: Service) -> None:
    text = (
        "invoice_number,invoice_hash,ksef_number\n"
        f"FV/1,{'00' * 32},\nFV/2,{'A' * 43}=,\nFV/3,{'A' * 43}=,{NUMBER}\n"
    )
    assert bring_in(service, text) == Imported(3, synced=1, offline=2)
    hashes = [
        database.execute(f"SELECT invoice_number, invoice_hash FROM {table} ORDER BY 1")
        for table in (OFFLINE, SYNCED)
    ]
    assert hashes == [
        [("FV/1", "A" * 43 + "="), ("FV/2", "A" * 43 + "=")],
        [("FV/3", "A" * 43 + "=")],
    ]
    with pytest.raises(OperatorError, match="Line 2: invoice_hash: Not a SHA-256"):
        bring_in(service, "invoice_number,invoice_hash\nFV/4,AAAA\n")


@pytest.mark.parametrize(
    "text",
    [
        f"invoice_number;ksef_number\nFV/1;{NUMBER}\n",
        f"ksef_number,invoice_number\r\n{NUMBER},FV/1\r\n",
        f"invoice_number , ksef_number \n FV/1 , {NUMBER}",
        f'"invoice_number","ksef_number"\n"FV/1","{NUMBER}"\n',
        f"invoice_number,amount,ksef_number\nFV/1,12.50,{NUMBER}\n",
        f"invoice_number,ksef_number\n\nFV/1,{NUMBER}\n\n",
    ],
    ids=["semicolon", "other order", "spaces", "quotes", "more columns", "empty lines"],
)
def test_the_usual_shapes_of_csv_are_read(database: Any, service: Service, text: str) -> None:
    assert bring_in(service, text) == Imported(rows=1, synced=1, offline=0)
    assert synced(database) == [(NIP, "test", "FV/1", NUMBER, None, None)]


def test_polish_letters_and_quoted_commas_stay_as_they_are(database: Any, service: Service) -> None:
    bring_in(service, f'invoice_number,ksef_number\n"Żółw, 1/2026",{NUMBER}\n')
    assert synced(database)[0][2] == "Żółw, 1/2026"


def test_whatever_ksef_shows_of_a_number_is_taken(database: Any, service: Service) -> None:
    bring_in(service, f"invoice_number,ksef_number\nFV\u00a01\u2009/\u20602026,{NUMBER}\n")
    assert synced(database)[0][2] == "FV\u00a01\u2009/\u20602026"


def test_the_same_file_twice_changes_nothing(database: Any, service: Service) -> None:
    text = (
        "invoice_number,ksef_number,ksef_reference_number\n"
        f"FV/1,{NUMBER},\nFV/2,,{REFERENCE}\nFV/3,,{REFERENCE}\n"
    )
    assert bring_in(service, text) == Imported(3, synced=1, offline=2)
    before = synced(database), offline(database)
    assert bring_in(service, text) == Imported(3, synced=0, offline=0)
    assert (synced(database), offline(database)) == before


def test_a_row_that_is_linked_keeps_its_session_and_its_number(
    database: Any, service: Service
) -> None:
    bring_in(service, f"invoice_number,ksef_number\nFV/1,{NUMBER}\n")
    database.execute(f"UPDATE {SYNCED} SET session_reference_number = '{REFERENCE}'")
    bring_in(service, f"invoice_number,ksef_number\nFV/another,{NUMBER}\n")
    assert synced(database) == [(NIP, "test", "FV/1", NUMBER, REFERENCE, None)]


def test_a_number_given_twice_in_one_file_is_one_row(database: Any, service: Service) -> None:
    done = bring_in(service, f"invoice_number,ksef_number\nFV/1,{NUMBER}\nFV/1,{NUMBER}\n")
    assert done == Imported(rows=2, synced=1, offline=0)
    assert len(synced(database)) == 1


@pytest.mark.parametrize(("nip", "environment"), [(NIP, "demo"), (OTHER_NIP, "test")])
def test_each_company_and_environment_has_rows_of_its_own(
    database: Any, service: Service, nip: str, environment: str
) -> None:
    text = f"invoice_number,ksef_number\nFV/1,{NUMBER}\n"
    assert bring_in(service, text) == bring_in(service, text, nip, environment) == Imported(1, 1, 0)
    assert {row[:2] for row in synced(database)} == {(NIP, "test"), (nip, environment)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "file is empty"),
        (f"FV/1,{NUMBER}\n", "first line names the columns"),
        (f"ksef_number\n{NUMBER}\n", "first line names the columns"),
        ("invoice_number\nFV/1\n", "first line names the columns"),
        (f"invoice_number,ksef_number\nFV/0,{NUMBER}\n,{NUMBER}\n", "Line 3: invoice_number"),
        (f"invoice_number,ksef_number\nFV/0,{NUMBER}\nFV/1,\n", "Line 3: none of"),
        (f"invoice_number,ksef_number\nFV/0,{NUMBER}\nFV/1\n", "Line 3: none of"),
        (f"invoice_number,ksef_number\nFV/0,{NUMBER}\nFV/1,{NUMBER},x\n", "Line 3: more values"),
        (f"invoice_number,ksef_number\n{'F' * 257},{NUMBER}\n", "Line 2: invoice_number: Longer"),
        (
            f"invoice_number,ksef_number\nFV\x00,{NUMBER}\n",
            "Line 2: invoice_number: Holds a line break or a NUL",
        ),
        (f"invoice_number,ksef_number\nFV/1,{NUMBER}\x1b[2J\n", "Line 2: ksef_number: Not a KSeF"),
        (
            f'invoice_number,ksef_number\n"FV\n1",{NUMBER}\n',
            "Line 3: invoice_number: Holds a line break or a NUL",
        ),
        (f"invoice_number,ksef_number\nFV/1,{'5' * 200_000}\n", "not a CSV file"),
        *(
            (f"invoice_number,ksef_number\nFV/0,{NUMBER}\nFV/1,{number}\n", complaint)
            for number, complaint in (
                ("5265877635", "Line 3: ksef_number: Not a KSeF number"),
                (REFERENCE, "Line 3: ksef_number: Not a KSeF number"),
                (NUMBER.lower(), "Line 3: ksef_number: Not a KSeF number"),
                (f"{NUMBER[:-2]}00", "Line 3: ksef_number: The check digits"),
            )
        ),
        *(
            (
                f"invoice_number,ksef_reference_number,ksef_number\nFV/1,{REFERENCE},\n"
                f"FV/2,{reference},{number}\n",
                complaint,
            )
            for reference, number, complaint in (
                ("FV/2", "", "Line 3: ksef_reference_number: Not a KSeF reference number"),
                (NUMBER, "", "Line 3: ksef_reference_number: Not a KSeF reference number"),
                (REFERENCE, "FV/2", "Line 3: ksef_number: Not a KSeF number"),
            )
        ),
    ],
)
def test_a_wrong_file_is_refused_whole_with_the_line_named(
    database: Any, service: Service, text: str, complaint: str
) -> None:
    with pytest.raises(OperatorError, match=complaint):
        bring_in(service, text)
    assert synced(database) == offline(database) == []


def test_numbers_of_ksef_and_of_its_documentation_are_taken(
    database: Any, service: Service
) -> None:
    of_an_invoice = "20260915-EE-1B1A52843C-4A334284DC-57"
    done = bring_in(
        service,
        "invoice_number,ksef_number,ksef_reference_number\n"
        f"FV/1,1234567890-20260101-ABCDEF-12,\nFV/2,,20260101-AU-XXXXXXXX-XXXX-XX\n"
        f"FV/3,,{of_an_invoice}\nFV/4,5265877635-20250826-010000-1AF629-AF,\n",
    )
    assert done == Imported(rows=4, synced=2, offline=2)


def test_list_shows_both_tables_and_only_the_unlinked_where_asked(
    database: Any, service: Service
) -> None:
    bring_in(
        service,
        "invoice_number,ksef_number,ksef_reference_number\n"
        f"FV/1,{NUMBER},\nFV/2,{OTHER_NUMBER},\nFV/3,,{REFERENCE}\nFV/4,,{REFERENCE}\n",
    )
    bring_in(service, f"invoice_number,ksef_number\nFV/5,{NUMBER}\n", NIP, "demo")
    bring_in(service, f"invoice_number,ksef_number\nFV/6,{NUMBER}\n", OTHER_NIP, "test")
    for table, number in ((SYNCED, "FV/1"), (OFFLINE, "FV/3")):
        database.execute(
            f"UPDATE {table} SET session_reference_number = '{REFERENCE}'"
            f" WHERE invoice_number = '{number}'"
        )

    def listed(*, unlinked: bool) -> list[tuple[str, ...]]:
        rows = list_rows(service.account(NIP, "test"), unlinked=unlinked)
        return [(row.kind, row.invoice_number, row.session_reference_number) for row in rows]

    assert listed(unlinked=False) == [
        ("synced", "FV/1", REFERENCE),
        ("synced", "FV/2", None),
        ("offline", "FV/3", REFERENCE),
        ("offline", "FV/4", None),
    ]
    assert listed(unlinked=True) == [("synced", "FV/2", None), ("offline", "FV/4", None)]


@pytest.mark.parametrize("name", ["ksef_numer", "ksefNumber", "KSEF_NUMBER", "ksef number"])
def test_a_misspelt_column_is_named(service: Service, database: Any, name: str) -> None:
    with pytest.raises(OperatorError, match=f"no column {name}: is ksef_number meant"):
        bring_in(service, f"invoice_number,{name},ksef_reference_number\nA,{NUMBER},{REFERENCE}\n")
    assert offline(database) == []
