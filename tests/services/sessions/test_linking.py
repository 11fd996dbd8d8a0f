"""The session reference sync on a real PostgreSQL."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import date
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs
from psycopg2 import errors as sqlstates

from app import errors, telemetry
from app.ksef.wire import Extensions, Invoice, Status
from app.service import Service
from app.services.operators import users
from app.services.sessions.linking import Linked, link
from sandbox import identifiers
from tests.rows import (
    OFFLINE,
    SYNCED,
    Place,
    Write,
    WriteLog,
    add_offline,
    add_synced,
    counted_writes,
    offline_sessions,
    one_connection,
    stored,
    synced_sessions,
)

NIP, OTHER_NIP = "5265877635", "7812019453"
HERE = Place(NIP, "test")
ELSEWHERE = [Place(NIP, "demo"), Place(NIP, "prod"), Place(OTHER_NIP, "test")]
SESSION = "20260110-SO-0A00000000-0000000001-01"
OTHER_SESSION = "20250110-SB-0B00000000-0000000002-02"
ORIGINAL_SESSION = "20220110-SO-0C00000000-0000000003-03"


def number(seed: object) -> str:
    """A KSeF number, always the same for the same seed."""
    return identifiers.ksef_number(NIP, date(2022, 1, 10), str(seed))


def invoice_reference(seed: object) -> str:
    return identifiers.reference_number("EE", date(2022, 1, 10), str(seed))


def accepted(ksef_number: str, ordinal: int = 1) -> Invoice:
    return Invoice(
        ordinal_number=ordinal,
        reference_number=invoice_reference(ksef_number),
        invoice_number=f"FV/{ksef_number}",
        ksef_number=ksef_number,
        status=Status(200, "Sukces"),
    )


def duplicate(ksef_number: str, original_session: str | None) -> Invoice:
    return structs.replace(
        accepted(ksef_number),
        reference_number=invoice_reference(f"duplicate of {ksef_number}"),
        ksef_number=None,
        status=Status(
            440, "Duplikat faktury", extensions=Extensions(ksef_number, original_session)
        ),
    )


def without_number(code: int, seed: str) -> Invoice:
    """An invoice that moves (100, 150) or was rejected."""
    return structs.replace(
        accepted(number(seed)),
        reference_number=invoice_reference(seed),
        ksef_number=None,
        status=Status(code, "…"),
    )


@pytest.fixture
def service(service: Service) -> Service:
    for nip in (NIP, OTHER_NIP):
        users.add_company(service.db, nip, f"Spółka {nip}")
    return service


@pytest.fixture
def writes(database: Any) -> Iterator[WriteLog]:
    with counted_writes(database) as log:
        yield log


# -- what is linked -------------------------------------------------------------------------


def test_rows_stored_years_ago_without_a_session_are_linked(
    database: Any, service: Service
) -> None:
    numbers = [number(i) for i in range(3)]
    add_synced(database, HERE, numbers)

    done = link(service.account(*HERE), SESSION, [accepted(n, i) for i, n in enumerate(numbers)])

    assert done == Linked(synced=3, offline=0)
    assert synced_sessions(database, HERE) == dict.fromkeys(numbers, SESSION)
    [(only_now, untouched)] = database.execute(
        f"SELECT bool_and(linked_at BETWEEN now() - interval '1 minute' AND now()),"
        f" bool_and(created_at < '2022-01-01' AND invoice_number = 'FV/' || ksef_number)"
        f" FROM {SYNCED}"
    )
    assert (only_now, untouched) == (True, True)


def test_rows_of_other_invoices_stay_unlinked(database: Any, service: Service) -> None:
    add_synced(database, HERE, [number("in it"), number("not in it")])
    add_offline(database, HERE, [OTHER_SESSION, invoice_reference("not in it")])

    link(service.account(*HERE), SESSION, [accepted(number("in it"))])

    assert synced_sessions(database, HERE)[number("not in it")] is None
    assert {session for _, session in offline_sessions(database, HERE)} == {None}


def test_second_check_writes_no_row(database: Any, service: Service, writes: WriteLog) -> None:
    invoices = [accepted(number(1)), duplicate(number(2), ORIGINAL_SESSION)]
    add_synced(database, HERE, [number(1), number(2)])
    add_offline(database, HERE, [SESSION, invoices[1].reference_number])
    writes.read()
    assert link(service.account(*HERE), SESSION, invoices) == Linked(2, 2)
    after_first = stored(database)
    assert len(writes.read()) == 2

    assert link(service.account(*HERE), SESSION, invoices) == Linked(0, 0)

    assert writes.read() == []
    assert stored(database) == after_first  # xmin and ctid among it


def test_ten_thousand_rows_are_linked_by_two_updates(
    database: Any, service: Service, writes: WriteLog
) -> None:
    numbers = [number(i) for i in range(10_000)]
    invoices = [accepted(n, i) for i, n in enumerate(numbers)]
    add_synced(database, HERE, numbers)
    add_offline(database, HERE, [invoice.reference_number for invoice in invoices])
    writes.read()

    assert link(service.account(*HERE), SESSION, invoices) == Linked(10_000, 10_000)

    assert writes.read() == [Write(SYNCED, "UPDATE", 10_000), Write(OFFLINE, "UPDATE", 10_000)]
    assert set(synced_sessions(database, HERE).values()) == {SESSION}
    assert {session for _, session in offline_sessions(database, HERE)} == {SESSION}


def test_original_of_a_duplicate_gets_its_own_session(database: Any, service: Service) -> None:
    add_synced(database, HERE, [number("original")])

    link(service.account(*HERE), SESSION, [duplicate(number("original"), ORIGINAL_SESSION)])

    assert synced_sessions(database, HERE) == {number("original"): ORIGINAL_SESSION}


def test_duplicate_never_replaces_a_session(
    database: Any, service: Service, writes: WriteLog
) -> None:
    add_synced(database, HERE, [number("original")], session=OTHER_SESSION)
    writes.read()

    done = link(service.account(*HERE), SESSION, [duplicate(number("original"), ORIGINAL_SESSION)])

    assert done == Linked(0, 0)
    assert writes.read() == []
    assert synced_sessions(database, HERE) == {number("original"): OTHER_SESSION}


@pytest.mark.fault(37)
@pytest.mark.parametrize("named", [SESSION, None], ids=["its own session", "no session"])
def test_duplicate_that_names_no_other_session_links_nothing(
    database: Any, service: Service, named: str | None
) -> None:
    add_synced(database, HERE, [number("original")])
    invoices = [accepted(number(1)), duplicate(number("original"), named)]
    assert link(service.account(*HERE), SESSION, invoices) == Linked(0, 0)
    assert synced_sessions(database, HERE) == {number("original"): None}


@pytest.mark.fault(37)
def test_original_that_its_own_session_holds_is_linked_to_it(
    database: Any, service: Service
) -> None:
    add_synced(database, HERE, [number("original")])
    pages_apart = [accepted(number(i), i) for i in range(1, 1500)]
    invoices = [duplicate(number("original"), SESSION), *pages_apart, accepted(number("original"))]
    assert link(service.account(*HERE), SESSION, invoices) == Linked(1, 0)
    assert synced_sessions(database, HERE) == {number("original"): SESSION}


def refusing(database: Any, table: str, condition: str, how: str) -> None:
    """A rule of the ERP for its own table, which the service cannot know of."""
    database.execute(
        f"CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {condition} THEN {how}; END IF; RETURN NEW; END $$;"
        f" CREATE TRIGGER veto BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION veto()"
    )


@pytest.fixture
def no_veto(database: Any) -> Iterator[None]:
    yield
    database.execute("DROP FUNCTION IF EXISTS veto CASCADE")


@pytest.mark.parametrize(
    "how",
    [
        "RAISE EXCEPTION 'the books of 2022 are closed'",
        "RAISE unique_violation USING MESSAGE = 'twice'",
    ],
    ids=["raise", "constraint"],
)
@pytest.mark.parametrize("table", [SYNCED, OFFLINE])
def test_a_row_that_the_erp_keeps_from_being_changed_holds_up_no_other(
    database: Any, service: Service, no_veto: None, capsys: Any, table: str, how: str
) -> None:
    invoices = [accepted(number(i), i) for i in range(1, 41)]
    add_synced(database, HERE, [i.ksef_number for i in invoices])
    add_offline(database, HERE, [SESSION, *(i.reference_number for i in invoices)])
    column = "ksef_number" if table == SYNCED else "ksef_reference_number"
    kept_back = [getattr(i, column.replace("ksef_ref", "ref")) for i in invoices[5:40:10]]
    refusing(database, table, f"NEW.{column} = ANY (ARRAY{kept_back})", how)
    telemetry.configure("INFO")

    linked = link(service.account(*HERE), SESSION, invoices)

    expected = (36, 41) if table == SYNCED else (40, 37)
    assert linked == Linked(*expected)
    left = database.execute(
        f"SELECT {column} FROM {table} WHERE session_reference_number IS NULL ORDER BY 1"
    )
    assert left == [(name,) for name in sorted(kept_back)]
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    rows = [line["row"] for line in told if line["event"].startswith("a row was left unlinked")]
    assert sorted(row.split()[0] for row in rows) == sorted(kept_back)
    database.execute("DROP FUNCTION veto CASCADE")
    assert sum(astuple(link(service.account(*HERE), SESSION, invoices))) == 4


def test_a_rule_against_every_row_is_given_up_in_time(
    database: Any, service: Service, no_veto: None
) -> None:
    invoices = [accepted(number(i), i) for i in range(1, 3001)]
    add_synced(database, HERE, [i.ksef_number for i in invoices])
    add_offline(database, HERE, [invoices[0].reference_number])
    refusing(database, SYNCED, "true", "RAISE EXCEPTION 'never'")
    began = time.monotonic()
    assert link(service.account(*HERE), SESSION, invoices) == Linked(0, 1)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("table", [SYNCED, OFFLINE])
def test_a_rule_against_every_row_of_one_table_holds_up_no_row_of_the_other(
    database: Any, service: Service, no_veto: None, table: str
) -> None:
    invoices = [accepted(number(i), i) for i in range(1, 201)]
    add_synced(database, HERE, [i.ksef_number for i in invoices])
    add_offline(database, HERE, [i.reference_number for i in invoices])
    refusing(database, table, "true", "RAISE EXCEPTION 'never'")
    linked = link(service.account(*HERE), SESSION, invoices)
    assert linked == (Linked(0, 200) if table == SYNCED else Linked(200, 0))


def test_duplicate_without_its_original_links_nothing(database: Any, service: Service) -> None:
    add_synced(database, HERE, [number("original")])
    unnamed = structs.replace(
        duplicate(number("original"), ORIGINAL_SESSION), status=Status(440, "Duplikat faktury")
    )

    link(service.account(*HERE), SESSION, [unnamed])

    assert synced_sessions(database, HERE) == {number("original"): None}


@pytest.mark.parametrize("previous", [None, OTHER_SESSION])
@pytest.mark.parametrize("accepted_first", [True, False])
def test_number_accepted_and_duplicated_in_one_session_gets_this_session(
    database: Any, service: Service, accepted_first: bool, previous: str | None
) -> None:
    add_synced(database, HERE, [number("twice")], session=previous)
    twice = [accepted(number("twice")), duplicate(number("twice"), ORIGINAL_SESSION)]

    link(service.account(*HERE), SESSION, twice if accepted_first else twice[::-1])

    assert synced_sessions(database, HERE) == {number("twice"): SESSION}


def test_accepted_invoice_replaces_a_wrong_session_and_the_log_says_so(
    database: Any, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("INFO")  # to the standard error of this test
    wrong = [number("wrong"), number("wrong too")]
    right, empty = number("right"), number("empty")
    add_synced(database, HERE, wrong, session=OTHER_SESSION)
    add_synced(database, HERE, [right], session=SESSION)
    add_synced(database, HERE, [empty])

    done = link(service.account(*HERE), SESSION, [accepted(n) for n in (*wrong, empty, right)])

    assert done == Linked(3, 0)

    assert set(synced_sessions(database, HERE).values()) == {SESSION}
    replaced = [
        line
        for line in capsys.readouterr().err.splitlines()
        if "rows were linked to another session before" in line
    ]
    assert len(replaced) == 1
    assert f'"previous":"{OTHER_SESSION}"' in replaced[0]
    assert f'"session":"{SESSION}"' in replaced[0]
    assert '"rows":2' in replaced[0]
    assert '"level":"warning"' in replaced[0]
    assert NIP not in replaced[0]


def test_offline_rows_of_another_session_are_linked_anew_and_the_log_says_so(
    database: Any, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure("INFO")  # to the standard error of this test
    add_offline(database, HERE, [SESSION, SESSION], session=OTHER_SESSION)
    add_synced(database, HERE, [number(1)])

    assert link(service.account(*HERE), SESSION, [accepted(number(1))]) == Linked(1, 2)

    linked, replaced = map(json.loads, capsys.readouterr().err.splitlines())
    where = {"environment": "test", "session": SESSION}
    assert (where | {"level": "info", "event": "linked", "rows": 3}).items() <= linked.items()
    told = where | {"level": "warning", "previous": OTHER_SESSION, "rows": 2}
    assert told.items() <= replaced.items()

    link(service.account(*HERE), SESSION, [accepted(number(1))])
    assert capsys.readouterr().err == "", "nothing was linked"


@pytest.mark.parametrize("code", [100, 150, 405, 410, 415, 430, 435, 450, 500, 550])
def test_number_of_an_invoice_not_accepted_links_no_synced_row(
    database: Any, service: Service, code: int
) -> None:
    """Even where KSeF (or somebody in between) gives a number to it."""
    rejected = structs.replace(accepted(number("refused")), status=Status(code, "…"))
    add_synced(database, HERE, [number("refused")])

    link(service.account(*HERE), SESSION, [rejected])

    assert synced_sessions(database, HERE) == {number("refused"): None}


def test_offline_rows_are_linked_by_the_session_s_reference(
    database: Any, service: Service
) -> None:
    add_offline(database, HERE, [SESSION, SESSION, OTHER_SESSION])

    assert link(service.account(*HERE), SESSION, []) == Linked(synced=0, offline=2)

    assert offline_sessions(database, HERE) == [
        (SESSION, SESSION),
        (SESSION, SESSION),
        (OTHER_SESSION, None),
    ]
    [(only_now, others)] = database.execute(
        "SELECT bool_and(linked_at BETWEEN now() - interval '1 minute' AND now())"
        " FILTER (WHERE session_reference_number IS NOT NULL),"
        " count(linked_at) FILTER (WHERE session_reference_number IS NULL)"
        f" FROM {OFFLINE}"
    )
    assert (only_now, others) == (True, 0)


@pytest.mark.parametrize("code", [100, 150, 200, 405, 430, 440, 450, 550])
def test_offline_rows_are_linked_by_the_invoice_s_own_reference_whatever_its_status(
    database: Any, service: Service, code: int
) -> None:
    invoice = without_number(code, "sent offline")
    add_offline(database, HERE, [invoice.reference_number])

    link(service.account(*HERE), SESSION, [invoice])

    assert offline_sessions(database, HERE) == [(invoice.reference_number, SESSION)]


def test_offline_rows_without_a_reference_are_never_linked(database: Any, service: Service) -> None:
    database.execute(
        f"INSERT INTO {OFFLINE} (company_nip, environment, invoice_number, ksef_number)"
        f" VALUES ('{NIP}', 'test', 'OFF/0', '{number(1)}')"
    )
    link(service.account(*HERE), SESSION, [accepted(number(1))])

    assert offline_sessions(database, HERE) == [(None, None)]


@pytest.mark.parametrize("place", ELSEWHERE, ids=str)
def test_other_company_and_other_environment_are_untouched(
    database: Any, service: Service, place: Place
) -> None:
    """The same KSeF numbers and references stand in both places."""
    invoices = [accepted(number(1)), duplicate(number(2), ORIGINAL_SESSION)]
    add_synced(database, place, [number(1), number(2)])
    add_offline(database, place, [SESSION, invoices[0].reference_number])
    before = stored(database)
    add_synced(database, HERE, [number(1), number(2)])
    add_offline(database, HERE, [SESSION, invoices[0].reference_number])

    assert link(service.account(*HERE), SESSION, invoices) == Linked(2, 2)

    there = [row for row in stored(database) if place.company_nip in row and row in before]
    assert there == before


@pytest.mark.parametrize(
    "invoices",
    [[], [without_number(450, "1")], [duplicate(number(1), ORIGINAL_SESSION)]],
    ids=["empty", "rejected", "duplicate"],
)
def test_a_link_is_never_cleared(database: Any, service: Service, invoices: list[Invoice]) -> None:
    """A later listing in which the invoice is missing, or was not accepted, takes nothing back."""
    link_before = [accepted(number(1))]
    add_synced(database, HERE, [number(1)])
    add_offline(database, HERE, [link_before[0].reference_number])
    link(service.account(*HERE), SESSION, link_before)
    linked = stored(database)

    link(service.account(*HERE), SESSION, invoices)

    assert stored(database) == linked


def test_failure_of_the_second_update_takes_the_first_one_back(
    database: Any, service: Service
) -> None:
    add_synced(database, HERE, [number(1)])
    add_offline(database, HERE, [SESSION])
    with closing(psycopg2.connect(database.owner_dsn)) as erp, erp.cursor() as cursor:
        cursor.execute(f"SELECT FROM {OFFLINE} FOR UPDATE")
        with pytest.raises(errors.Unavailable):
            link(service.account(*HERE), SESSION, [accepted(number(1))])
    assert synced_sessions(database, HERE) == {number(1): None}

    assert link(service.account(*HERE), SESSION, [accepted(number(1))]) == Linked(1, 1)


# -- who may write what ---------------------------------------------------------------------


def refused(dsn: str, statement: str) -> bool:
    """Whether PostgreSQL refuses the statement for lack of rights (nothing else will do)."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except sqlstates.InsufficientPrivilege:
            return True
        return False


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        f"ALTER TABLE {SYNCED} ADD COLUMN mine int",
        f"DROP TABLE {SYNCED}",
        "ALTER TABLE outage_simulations DROP CONSTRAINT never_production",
        f"CREATE INDEX ON {SYNCED} (invoice_number)",
        f"TRUNCATE {SYNCED}",
        f"DELETE FROM {SYNCED}",
        f"DELETE FROM {OFFLINE}",
        f"UPDATE {SYNCED} SET ksef_number = 'x'",
        f"UPDATE {SYNCED} SET invoice_number = 'x'",
        f"UPDATE {SYNCED} SET company_nip = '{NIP}'",
        f"UPDATE {SYNCED} SET environment = 'prod'",
        f"UPDATE {SYNCED} SET created_at = now()",
        f"UPDATE {OFFLINE} SET ksef_reference_number = 'x'",
        f"UPDATE {OFFLINE} SET ksef_number = 'x'",
        f"UPDATE {OFFLINE} SET invoice_number = 'x'",
        f"UPDATE {OFFLINE} SET company_nip = '{NIP}'",
        f"UPDATE {OFFLINE} SET environment = 'prod'",
        f"UPDATE {OFFLINE} SET created_at = now()",
        "UPDATE schema_migrations SET checksum = ''",
    ],
)
def test_service_s_role_may_not(database: Any, statement: str) -> None:
    assert refused(database.service_dsn, statement)


@pytest.mark.parametrize(
    "statement",
    [
        *(
            f"UPDATE {table} SET {column}"
            for table in (SYNCED, OFFLINE)
            for column in (
                "session_reference_number = 'x'",
                "session_reference_number = NULL",
                "linked_at = now()",
                f"company_nip = '{NIP}'",
                "environment = 'prod'",
            )
        ),
        f"INSERT INTO {SYNCED}"
        " (company_nip, environment, ksef_number, invoice_number, session_reference_number)"
        f" VALUES ('{NIP}', 'test', 'n', 'i', 's')",
        f"INSERT INTO {OFFLINE}"
        " (company_nip, environment, invoice_number, session_reference_number)"
        f" VALUES ('{NIP}', 'test', 'i', 's')",
        f"DELETE FROM {SYNCED}",
        f"DELETE FROM {OFFLINE}",
        f"TRUNCATE {OFFLINE}",
        "CREATE TABLE mine (id int)",
        "SELECT FROM ksef_credentials",
        "SELECT FROM ksef_sessions",
        "SELECT FROM users",
        "SELECT FROM companies",
        "SELECT FROM leases",
        "INSERT INTO outage_simulations (environment, message) VALUES ('test', 'x')",
    ],
)
def test_erp_s_role_may_not(database: Any, statement: str) -> None:
    assert refused(database.erp_dsn, statement)


def test_erp_s_role_puts_in_reads_and_changes_its_own_columns(
    database: Any, service: Service
) -> None:
    with closing(psycopg2.connect(database.erp_dsn)) as erp, erp, erp.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {SYNCED}"
            " (company_nip, environment, ksef_number, invoice_number, created_at)"
            f" VALUES ('{NIP}', 'test', '{number('mistyped')}', 'FV/1', '2021-01-01')"
        )
        cursor.execute(f"UPDATE {SYNCED} SET ksef_number = %s", (number("right"),))
        cursor.execute(
            f"INSERT INTO {OFFLINE}"
            " (company_nip, environment, invoice_number, ksef_reference_number, ksef_number)"
            f" VALUES ('{NIP}', 'test', 'FV/2', NULL, NULL)"
        )
        cursor.execute(f"UPDATE {OFFLINE} SET ksef_reference_number = %s", (SESSION,))

    assert link(service.account(*HERE), SESSION, [accepted(number("right"))]) == Linked(1, 1)

    with closing(psycopg2.connect(database.erp_dsn)) as erp, erp.cursor() as cursor:
        cursor.execute(
            f"SELECT session_reference_number FROM {SYNCED}"
            f" UNION ALL SELECT session_reference_number FROM {OFFLINE}"
        )
        assert cursor.fetchall() == [(SESSION,), (SESSION,)]


# -- several at once ------------------------------------------------------------------------


@pytest.fixture
def patient(service: Service, settings: Any) -> Iterator[Service]:
    """Waits for locks for longer than a test takes."""
    timing = replace(settings.timing, lock_timeout=20.0, statement_timeout=20.0)
    patient = Service(replace(settings, timing=timing))
    yield patient
    patient.db.close()


@pytest.mark.parametrize(
    ("table", "key"), [(SYNCED, "ksef_number"), (OFFLINE, "ksef_reference_number")]
)
def test_rows_are_locked_in_the_order_of_their_numbers(
    database: Any, patient: Service, table: str, key: str
) -> None:
    """L8. With one row held by somebody else, exactly those before it are locked meanwhile."""
    invoices = [accepted(number(i)) for i in range(40)]
    add_synced(database, HERE, [number(i) for i in range(40)])
    add_offline(database, HERE, [invoice.reference_number for invoice in invoices])
    # How they lie on disk says nothing of their order, and on so few pages the planner would rather
    # take them as they lie.
    database.execute(
        f"WITH moved AS (DELETE FROM {table} WHERE hashtext({key}::text) > 0 RETURNING *)"
        f" INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM moved"
    )
    database.execute(f"VACUUM (FULL, ANALYZE) {table}")
    rows = sorted(row for (row,) in database.execute(f"SELECT {key} FROM {table}"))
    held = rows[25]

    with closing(psycopg2.connect(database.owner_dsn)) as holder, holder.cursor() as cursor:
        cursor.execute(f"SELECT FROM {table} WHERE {key} = %s FOR UPDATE", (held,))
        checking = threading.Thread(target=link, args=(patient.account(*HERE), SESSION, invoices))
        checking.start()
        wait_until_somebody_waits_for_a_lock(database)
        free = database.execute(f"SELECT {key} FROM {table} FOR SHARE SKIP LOCKED")
        holder.rollback()
        checking.join(20)

    assert set(rows) - {row for (row,) in free} == {row for row in rows if row <= held}
    assert set(synced_sessions(database, HERE).values()) == {SESSION}
    assert {session for _, session in offline_sessions(database, HERE)} == {SESSION}


@pytest.mark.parametrize("table", [SYNCED, OFFLINE])
def test_rows_that_the_erp_changes_at_the_same_moment_are_linked_too(
    database: Any, patient: Service, table: str
) -> None:
    invoices = [accepted(number(i)) for i in range(3)]
    add_synced(database, HERE, [number(i) for i in range(3)])
    add_offline(database, HERE, [invoice.reference_number for invoice in invoices])
    done: list[Linked] = []

    with closing(psycopg2.connect(database.owner_dsn)) as erp, erp.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET invoice_number = 'FV/new' || ctid::text")
        checking = threading.Thread(
            target=lambda: done.append(link(patient.account(*HERE), SESSION, invoices)), daemon=True
        )
        checking.start()
        wait_until_somebody_waits_for_a_lock(database)
        erp.commit()
        checking.join(20)

    assert done == [Linked(3, 3)]
    assert set(synced_sessions(database, HERE).values()) == {SESSION}
    assert {session for _, session in offline_sessions(database, HERE)} == {SESSION}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (f"session_reference_number = '{OTHER_SESSION}'", {number("original"): OTHER_SESSION}),
        (f"ksef_number = '{number('corrected')}'", {number("corrected"): None}),
    ],
    ids=["linked", "renumbered"],
)
def test_what_somebody_else_changes_at_the_same_moment_is_respected(
    database: Any, patient: Service, change: str, left: dict[str, str | None]
) -> None:
    """A duplicate fills what is empty, and waits here for one that meanwhile no longer is."""
    add_synced(database, HERE, [number("original")])
    done: list[Linked] = []

    with closing(psycopg2.connect(database.owner_dsn)) as other, other.cursor() as cursor:
        cursor.execute(f"UPDATE {SYNCED} SET {change}")
        checking = threading.Thread(
            target=lambda: done.append(
                link(
                    patient.account(*HERE),
                    SESSION,
                    [duplicate(number("original"), ORIGINAL_SESSION)],
                )
            ),
            daemon=True,
        )
        checking.start()
        wait_until_somebody_waits_for_a_lock(database)
        other.commit()
        checking.join(20)

    assert done == [Linked(0, 0)]
    assert synced_sessions(database, HERE) == left


def test_a_row_that_cannot_be_written_is_not_tried_for_ever(
    database: Any, service: Service
) -> None:
    add_synced(database, HERE, [number(1)])
    with kept_as_they_are(database), pytest.raises(errors.Unavailable):
        link(service.account(*HERE), SESSION, [accepted(number(1))])


@contextmanager
def kept_as_they_are(database: Any) -> Iterator[None]:
    """A trigger of somebody's drops every update of a synced row."""
    database.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f"CREATE TRIGGER keep BEFORE UPDATE ON {SYNCED} FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    try:
        yield
    finally:
        database.execute(f"DROP TRIGGER keep ON {SYNCED}; DROP FUNCTION keep")


def wait_until_somebody_waits_for_a_lock(database: Any) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if database.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND application_name = 'ksef-proxy'"
        ):
            return
    raise AssertionError("nobody waits for a lock")


def test_overlapping_checks_in_opposite_order_do_not_wait_in_a_ring(
    database: Any, service: Service
) -> None:
    numbers = [number(i) for i in range(400)]
    add_synced(database, HERE, random.Random(3).sample(numbers, 400))
    add_offline(database, HERE, [invoice_reference(n) for n in numbers])
    ways = [
        (SESSION, [accepted(n) for n in numbers[:300]]),
        (OTHER_SESSION, [accepted(n) for n in reversed(numbers[100:])]),
    ]
    failures: list[BaseException] = []

    def check(session: str, invoices: list[Invoice], start: threading.Barrier) -> None:
        try:
            for _ in range(8):
                start.wait(20)
                link(service.account(*HERE), session, invoices)
        except BaseException as error:
            failures.append(error)
            start.abort()

    start = threading.Barrier(len(ways))
    threads = [threading.Thread(target=check, args=(*way, start)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    found = synced_sessions(database, HERE)
    assert {found[n] for n in numbers[:100]} == {SESSION}
    assert {found[n] for n in numbers[300:]} == {OTHER_SESSION}
    # Two sessions that claim the same numbers: one of them wins whole, never row by row.
    assert len({found[n] for n in numbers[100:300]}) == 1


# -- any order of checks --------------------------------------------------------------------

PLACES = [HERE, *ELSEWHERE]
NUMBERS = [number(f"model {i}") for i in range(5)]
SESSIONS = [SESSION, OTHER_SESSION, ORIGINAL_SESSION]


@dataclass(frozen=True)
class Check:
    """A status check whose listing holds these numbers as accepted, duplicated or only sent."""

    place: Place
    session: str
    accepted: frozenset[str]
    duplicates: dict[str, str | None]
    offline: frozenset[str]

    @property
    def invoices(self) -> list[Invoice]:
        return [
            *(accepted(n) for n in sorted(self.accepted)),
            *(duplicate(n, session) for n, session in self.duplicates.items()),
            *(without_number(150, n) for n in sorted(self.offline)),
        ]


Cell = tuple[str, Place, str]  # a table, and the KSeF number or the reference in it


@dataclass
class Model:
    """What the contract says must stand in the rows, in Python."""

    sessions: dict[Cell, str | None]

    def apply(self, check: Check) -> None:
        for n in check.accepted:
            self.sessions[SYNCED, check.place, n] = check.session
        for n, original in check.duplicates.items():
            cell = (SYNCED, check.place, n)
            names_another = original not in (None, check.session)
            if names_another and n not in check.accepted and self.sessions[cell] is None:
                self.sessions[cell] = original
        for reference in {check.session, *(one.reference_number for one in check.invoices)}:
            if (OFFLINE, check.place, reference) in self.sessions:
                self.sessions[OFFLINE, check.place, reference] = check.session


REFERENCES = [*SESSIONS, *(invoice_reference(n) for n in NUMBERS)]


def unlinked_rows_everywhere(database: Any) -> Model:
    database.execute(
        f"DELETE FROM {SYNCED}; DELETE FROM {OFFLINE}; "
        + "; ".join(
            f"INSERT INTO {SYNCED} (company_nip, environment, ksef_number, invoice_number)"
            f" SELECT '{place.company_nip}', '{place.environment}', n, n"
            f" FROM unnest(ARRAY{NUMBERS}) AS n;"
            f"INSERT INTO {OFFLINE}"
            " (company_nip, environment, ksef_reference_number, invoice_number)"
            f" SELECT '{place.company_nip}', '{place.environment}', n, n"
            f" FROM unnest(ARRAY{REFERENCES}) AS n"
            for place in PLACES
        )
    )
    return Model(
        {(SYNCED, place, n): None for place in PLACES for n in NUMBERS}
        | {(OFFLINE, place, reference): None for place in PLACES for reference in REFERENCES}
    )


def found_everywhere(database: Any) -> dict[Cell, str | None]:
    return {
        (table, Place(nip, environment), key): session
        for table, nip, environment, key, session in database.execute(
            f"SELECT '{SYNCED}', company_nip, environment, ksef_number, session_reference_number"
            f" FROM {SYNCED} UNION ALL SELECT '{OFFLINE}', company_nip, environment,"
            f" ksef_reference_number, session_reference_number FROM {OFFLINE}"
        )
    }


checks = st.builds(
    Check,
    place=st.sampled_from(PLACES),
    session=st.sampled_from(SESSIONS),
    accepted=st.frozensets(st.sampled_from(NUMBERS), max_size=3),
    duplicates=st.dictionaries(
        st.sampled_from(NUMBERS), st.sampled_from([*SESSIONS, None]), max_size=3
    ),
    offline=st.frozensets(st.sampled_from(NUMBERS), max_size=2),
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(checks, min_size=2, max_size=6))
def test_any_order_of_checks_leaves_what_the_contract_says(
    database: Any, service: Service, history: list[Check]
) -> None:
    """L1 twice is once · L2 only what KSeF said · L3 never cleared · L4 each place for itself."""
    with one_connection(database) as owner:
        model = unlinked_rows_everywhere(owner)
        for check in history:
            model.apply(check)
            link(service.account(*check.place), check.session, check.invoices)
            assert found_everywhere(owner) == model.sessions

            once = stored(owner)
            assert link(service.account(*check.place), check.session, check.invoices) == Linked(
                0, 0
            )
            assert stored(owner) == once
