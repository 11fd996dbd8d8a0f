"""Every named query fits the migrated schema, and somebody uses it."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosql
import psycopg2
import pytest

from app.db import prepared, queries
from app.db.migrate import migrate
from tests.rows import SYNCED

APP = Path(__file__).parents[2] / "app"
SOURCES = [path.read_text("utf-8") for path in APP.rglob("*.py")]
QUERIES = {
    f"{file.stem}.{name}": getattr(loaded, name).sql
    for file in sorted(queries.FOLDER.glob("*.sql"))
    if (loaded := aiosql.from_path(file, "psycopg2"))
    for name in loaded.available_queries
    if not name.endswith("_cursor")  # aiosql's own variant of each
}


def planned(sql: str) -> str:
    """Plan a query, whatever its parameters: they become $1, $2, … of the type they are used as.

    EXPLAIN (GENERIC_PLAN) would say the same in one statement, from PostgreSQL 16 on. Parsing
    alone is not enough: only a plan that is looked at asks for the rights to the tables.
    """
    numbers: dict[str, str] = {}
    statement = re.sub(
        r"%\((\w+)\)s", lambda found: numbers.setdefault(found[1], f"${len(numbers) + 1}"), sql
    ).replace("%%", "%")
    values = f"({', '.join(['NULL'] * len(numbers))})" if numbers else ""
    return (
        "SET plan_cache_mode = force_generic_plan;"
        f"PREPARE planned AS {statement.rstrip().rstrip(';')};"
        f"EXPLAIN EXECUTE planned{values}"
    )


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_can_be_planned_and_is_used(database: Any, name: str) -> None:
    resource, _, query = name.partition(".")
    # What writes the schema's own table, or deletes what was audited, is the owner's.
    owners = resource == "migrations" or name == "audit.purge"
    dsn = database.owner_dsn if owners else database.service_dsn
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(planned(QUERIES[name]))
        assert cursor.fetchall()
    assert any(
        re.search(rf"queries\.{query}\b", source)
        for source in SOURCES
        if f"import {resource} as " in source or f'"{resource}.sql"' in source
    )


def carried_out(database: Any, name: str, **values: Any) -> Any:
    """The plan with which a query of a company was carried out, with what each step read."""
    where = {"company_nip": "5265877635", "environment": "test"}
    with closing(psycopg2.connect(database.owner_dsn)) as connection:
        cursor = connection.cursor()
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {QUERIES[name]}", {**where, **values})
        [(explained,)] = cursor.fetchall()
    return explained[0]["Plan"]


def rows_read(plan: Any, table: str) -> float:
    """Rows of a table that a carried out plan looked at, whether it needed them or not."""
    own = 0.0
    if plan.get("Relation Name") == table:
        removed = plan.get("Rows Removed by Filter", 0)
        own = plan["Actual Loops"] * (plan["Actual Rows"] + removed)
    return own + sum(rows_read(part, table) for part in plan.get("Plans", ()))


class Look:
    """Looks of the service on one connection: with the plan of the first one, like its pool's."""

    class _Connection(psycopg2.extensions.connection):
        planned: dict[str, float]

    def __init__(self, database: Any, reference_number: str) -> None:
        self._connection = psycopg2.connect(database.owner_dsn, connection_factory=self._Connection)
        self._connection.planned = {}
        self._reference_number = reference_number
        self.rows_read()

    def rows_read(self) -> Counter[str]:
        """How many rows of each table one look reads, whether it needs them or not."""
        values = {
            "company_nip": "5265877635",
            "environment": "test",
            "reference_number": self._reference_number,
            "form": "",
            "tags": [],
            "look_every": 60.0,
        }
        with self._connection:
            before = self._rows_read()
            prepared.one(self._connection, queries.sessions.look, values)
            return self._rows_read() - before

    def _rows_read(self) -> Counter[str]:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0)"
                " FROM pg_stat_xact_user_tables"
            )
            return Counter(dict(cursor.fetchall()))

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_a_page_of_missing_upos_is_found_without_reading_the_whole_archive(
    empty_database: Any, statistics: str
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO synced_invoices"
        " SELECT '5265877635', 'test', '5265877635-20250826-K-' || n, 'FV/' || n, 'S' || n,"
        " now() - n * interval '1 second' FROM generate_series(1, 20000) AS n;"
        "INSERT INTO upos (company_nip, environment, session_reference_number, ksef_number,"
        " content, sha256)"
        " SELECT '5265877635', 'test', 'S' || n, '5265877635-20250826-K-' || n, 'x', 'x'"
        f" FROM generate_series(1, 19999) AS n; {statistics}"
    )
    plan = carried_out(empty_database, "upo.missing_upos", after="", batch=100)
    assert rows_read(plan, SYNCED) <= 100
    assert rows_read(plan, "upos") <= 100


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_rows_without_a_hash_are_not_read_to_find_that_none_has_one(
    empty_database: Any, statistics: str
) -> None:
    """Not of this company; another one has many."""
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO kept_sessions VALUES ('5265877635', 'test', 'S', '{}', NULL, true, now(),"
        " now(), now(), now(), now());"
        "INSERT INTO kept_invoices (company_nip, environment, session_reference_number,"
        " reference_number, ordinal_number, status, more)"
        " VALUES ('5265877635', 'test', 'S', 'I', 1, '{}', '{}');"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number)"
        " SELECT '5265877635', 'test', n FROM generate_series(1, 20000) AS n;"
        "INSERT INTO companies (nip, name) VALUES ('7812019453', 'x');"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number, invoice_hash)"
        " SELECT '7812019453', 'test', n, encode(sha256(n::text::bytea), 'base64')"
        f" FROM generate_series(1, 20000) AS n; {statistics}"
    )
    with closing(Look(empty_database, "S")) as look:
        assert look.rows_read()["offline_invoices"] <= 1


SESSION = "20260915-SO-00000001A1-0000000001-01"
LINKED, OTHERS = "linked to the session", "others"


def erp_rows(kind: str, *, first: int = 1, last: int = 2000) -> str:
    """Rows in each table of the ERP: of the session's invoices, or of others."""
    day, session = ("15", f"'{SESSION}'") if kind == LINKED else ("14", "NULL")
    columns = "company_nip, environment, invoice_number, session_reference_number"
    values = f"'5265877635', 'test', 'FV' || n, {session}"
    numbers = f"generate_series({first}, {last}) AS n"
    return (
        f"INSERT INTO synced_invoices ({columns}, ksef_number)"
        f" SELECT {values}, '5265877635-202609{day}-EE-' || n FROM {numbers};"
        f"INSERT INTO offline_invoices ({columns}, ksef_reference_number)"
        f" SELECT {values}, '202609{day}-EE-' || n FROM {numbers};"
    )


def kept_invoices(*, first: int = 1, last: int = 2000) -> str:
    """Invoices that KSeF accepted in the session."""
    return (
        "INSERT INTO kept_invoices (company_nip, environment, session_reference_number,"
        " reference_number, ordinal_number, ksef_number, status)"
        f" SELECT '5265877635', 'test', '{SESSION}', '20260915-EE-' || n, n,"
        " '5265877635-20260915-EE-' || n, '{\"code\": 200}'"
        f" FROM generate_series({first}, {last}) AS n;"
    )


KEPT_SESSION = (
    "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
    "INSERT INTO kept_sessions (company_nip, environment, reference_number, session, final,"
    " checked_at, asked_at, changed_at)"
    f" VALUES ('5265877635', 'test', '{SESSION}', '{{}}', true, now(), now(), now());"
)


@pytest.mark.parametrize("kinds", [(LINKED,), (OTHERS, LINKED), (LINKED, OTHERS)], ids=" ".join)
@pytest.mark.parametrize("analyzed_after", [None, 0, 1, 2])
def test_whether_all_is_linked_is_found_by_key_whatever_the_statistics(
    empty_database: Any, kinds: Sequence[str], analyzed_after: int | None
) -> None:
    """As of the only session of a company that has just begun: all rows are linked to it."""
    steps = [erp_rows(kind) for kind in kinds]
    if analyzed_after is not None:
        steps.insert(analyzed_after, "ANALYZE;")
    migrate(empty_database.owner_dsn)
    empty_database.execute(KEPT_SESSION + kept_invoices() + "".join(steps))
    with closing(Look(empty_database, SESSION)) as look:
        read = look.rows_read()
    assert read[SYNCED] <= 2000
    assert read["offline_invoices"] <= 2001  # and the session's own number


@pytest.mark.parametrize("rows", [0, 1, 100])
def test_a_plan_made_while_the_tables_were_small_finds_by_key_when_they_are_big(
    empty_database: Any, rows: int
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        KEPT_SESSION + kept_invoices(last=rows) + erp_rows(LINKED, last=rows) + "ANALYZE"
    )
    with closing(Look(empty_database, SESSION)) as look:
        grown = {"first": rows + 1, "last": rows + 2000}
        empty_database.execute(kept_invoices(**grown) + erp_rows(LINKED, **grown))
        read = look.rows_read()
    assert read["kept_invoices"] <= rows + 2000
    assert read[SYNCED] <= rows + 2000
    assert read["offline_invoices"] <= rows + 2001


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_rows_that_wait_for_ever_do_not_read_all_answers_to_be_found_late(
    empty_database: Any, statistics: str
) -> None:
    """A thousand rows of unknown numbers, beside as many kept invoices and sessions."""
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO kept_sessions SELECT '5265877635', 'test', 'S' || n, '{}', NULL, true, now(),"
        " now(), now(), now(), now() FROM generate_series(1, 1000) AS n;"
        "INSERT INTO kept_invoices (company_nip, environment, session_reference_number,"
        " reference_number, ordinal_number, ksef_number, status, more)"
        " SELECT '5265877635', 'test', 'S' || n, 'I', 1, 'K-' || n, '{\"code\": 200}', '{}'"
        " FROM generate_series(1, 1000) AS n;"
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        " SELECT '5265877635', 'test', '5265877635-20250826-K-' || n, n"
        " FROM generate_series(1, 1000) AS n;"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number,"
        " ksef_reference_number) SELECT '5265877635', 'test', n, '20250826-SO-' || n"
        f" FROM generate_series(1, 1000) AS n; {statistics}"
    )
    plan = carried_out(empty_database, "follow.late_rows", newest=10_000)
    assert rows_read(plan, "kept_invoices") <= 2000
    assert rows_read(plan, "kept_sessions") <= 2000


def test_sessions_that_were_given_up_are_not_read_to_find_those_that_move(
    empty_database: Any,
) -> None:
    """A session that KSeF has not moved on for days is still one of those."""
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO kept_sessions SELECT '5265877635', 'test', 'S' || n, '{}', NULL, false,"
        " at, at, at, at, at FROM generate_series(1, 20000) AS n,"
        " LATERAL (SELECT now() - interval '7 days' - n * interval '1 hour') AS given_up (at);"
        "INSERT INTO kept_sessions SELECT '5265877635', 'test', 'moving' || n, '{}', NULL, false,"
        " at, at, at - interval '2 days', at, at FROM generate_series(1, 2) AS n,"
        " LATERAL (SELECT now() - interval '1 minute') AS answered (at); ANALYZE"
    )
    plan = carried_out(empty_database, "sessions.stale_moving", seconds=10.0, wanted=3600.0)
    assert plan["Actual Rows"] == 2
    assert rows_read(plan, "kept_sessions") == 2


def test_quota_is_told_without_reading_calls_of_long_ago(empty_database: Any) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO quota_groups (company_nip, environment, quota_group)"
        " VALUES ('5265877635', 'test', 'other');"
        "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
        " SELECT '5265877635', 'test', 'other', now() - n * interval '19 minutes'"
        " FROM generate_series(1, 20000) AS n; ANALYZE"
    )
    plan = carried_out(
        empty_database,
        "figures.quota_by_group",
        quota_groups=["other"],
        per_hour=[120],
        share=0.9,
        seconds=3600.0,
    )
    assert rows_read(plan, "quota_calls") == 3


_MANY_KEPT = (
    "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
    "INSERT INTO kept_sessions SELECT '5265877635', 'test', 'S' || n, '{}', NULL, true,"
    " now(), now(), now(), now(), now() FROM generate_series(1, 2000) AS n;"
    "INSERT INTO kept_invoices (company_nip, environment, session_reference_number,"
    " reference_number, ordinal_number, invoice_number, ksef_number, status, more)"
    " SELECT '5265877635', 'test', 'S' || n / 10, 'I' || n, n, 'FV/' || n,"
    " '5265877635-20250826-K-' || n, '{\"code\": 200}', jsonb_build_object('invoiceHash',"
    " encode(sha256(n::text::bytea), 'base64')) FROM generate_series(10, 20009) AS n;"
)


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_an_invoice_is_found_by_its_hash_without_reading_others(
    empty_database: Any, statistics: str
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(_MANY_KEPT + statistics)
    [(name,)] = empty_database.execute("SELECT encode(sha256('777'), 'base64')")
    plan = carried_out(
        empty_database,
        "search.find_invoices",
        ksef_number=None,
        invoice_number=None,
        invoice_hash=name,
    )
    assert plan["Actual Rows"] == 1
    assert rows_read(plan, "kept_invoices") <= 3
    assert rows_read(plan, "kept_sessions") == 1


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
@pytest.mark.parametrize("name", ["events.read", "events.newest"])
def test_a_page_of_the_journal_is_read_alone(
    empty_database: Any, name: str, statistics: str
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO events (company_nip, environment, number, type, key, data)"
        " SELECT '5265877635', 'test', n, 'session.final', n, '{}'"
        f" FROM generate_series(1, 20000) AS n; {statistics}"
    )
    after = {"after": 5} if name == "events.read" else {}
    plan = carried_out(empty_database, name, most=50, **after)
    assert rows_read(plan, "events") <= 50


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_late_rows_are_looked_for_among_the_newest_alone(
    empty_database: Any, statistics: str
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO synced_invoices SELECT '5265877635', 'test', '5265877635-20250826-K-' || n,"
        " 'FV/' || n, 'S' || n, now() - n * interval '1 s' FROM generate_series(1, 20000) AS n;"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number,"
        " session_reference_number, created_at)"
        " SELECT '5265877635', 'test', 'FV/' || repeat('x', 200) || n, 'S' || n,"
        f" now() - n * interval '1 s' FROM generate_series(1, 20000) AS n; {statistics}"
    )
    plan = carried_out(empty_database, "follow.late_rows", newest=100)
    assert rows_read(plan, SYNCED) <= 100
    assert rows_read(plan, "offline_invoices") <= 200


@pytest.mark.parametrize("statistics", ["", "ANALYZE"], ids=["no statistics", "statistics"])
def test_the_status_of_a_row_is_found_without_reading_other_invoices(
    empty_database: Any, statistics: str
) -> None:
    migrate(empty_database.owner_dsn)
    empty_database.execute(
        _MANY_KEPT + "INSERT INTO offline_invoices (company_nip, environment, invoice_number,"
        " invoice_hash, session_reference_number) SELECT '5265877635', 'test', 'FV/' || n,"
        " encode(sha256(n::text::bytea), 'base64'), 'S' || n / 10"
        " FROM generate_series(10, 60) AS n;"
        "INSERT INTO synced_invoices SELECT '5265877635', 'test', '5265877635-20250826-K-' || n,"
        f" 'FV/' || n, 'S' || n / 10 FROM generate_series(10, 60) AS n; {statistics}"
    )
    with closing(psycopg2.connect(empty_database.owner_dsn)) as connection:
        cursor = connection.cursor()
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM invoice_status")
        [(explained,)] = cursor.fetchall()
        cursor.execute("SELECT count(invoice_code) FROM invoice_status")
        assert cursor.fetchall() == [(102,)]
    plan = explained[0]["Plan"]
    assert rows_read(plan, "kept_invoices") <= 2 * 102
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 4000
