"""The ERP's two tables in tests: rows put in, read back, and every write to them counted."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg2.extras import execute_values

from app.account import Account

SYNCED, OFFLINE = "synced_invoices", "offline_invoices"
LONG_AGO = "2021-03-04 05:06:07+01"


class Place(NamedTuple):
    """A company in an environment, whose rows they are; an Account will do as well."""

    company_nip: str
    environment: str


def add_synced(
    database: Any,
    owner: Place | Account,
    ksef_numbers: Iterable[str],
    *,
    session: str | None = None,
) -> None:
    """Rows as an ERP stored them years ago, with a session only where one is named."""
    rows = [
        (owner.company_nip, owner.environment, number, f"FV/{number}", session, LONG_AGO)
        for number in ksef_numbers
    ]
    _insert(
        database,
        f"{SYNCED} (company_nip, environment, ksef_number, invoice_number,"
        " session_reference_number, created_at)",
        rows,
    )


def add_offline(
    database: Any, owner: Place | Account, references: Iterable[str], *, session: str | None = None
) -> None:
    """Rows of invoices issued offline, one for each reference (they may repeat)."""
    rows = [
        (owner.company_nip, owner.environment, f"OFF/{i}", reference, session, LONG_AGO)
        for i, reference in enumerate(references)
    ]
    _insert(
        database,
        f"{OFFLINE} (company_nip, environment, invoice_number, ksef_reference_number,"
        " session_reference_number, created_at)",
        rows,
    )


def synced_sessions(database: Any, owner: Place | Account) -> dict[str, str | None]:
    """Session by KSeF number."""
    return dict(_select(database, f"ksef_number, session_reference_number FROM {SYNCED}", owner))


def offline_sessions(database: Any, owner: Place | Account) -> list[tuple[str, str | None]]:
    """(reference, session) of each row, in the order in which they were put in."""
    return _select(
        database,
        f"ksef_reference_number, session_reference_number FROM {OFFLINE}",
        owner,
        order="ORDER BY id",
    )


def stored(database: Any) -> list[tuple[Any, ...]]:
    """Every row of both tables with its place on disk and the transaction that wrote it."""
    return [
        row
        for table in (SYNCED, OFFLINE)
        for row in database.execute(
            f"SELECT '{table}', t.ctid::text, t.xmin::text, t.* FROM {table} AS t ORDER BY t.ctid"
        )
    ]


@dataclass(frozen=True, slots=True)
class OneConnection:
    """Takes the place of the `database` fixture where a test asks it hundreds of times."""

    connection: Any

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def one_connection(database: Any) -> Iterator[OneConnection]:
    """The owner's way into the database; each statement is committed at once."""
    with database.connection() as connection:
        yield OneConnection(connection)


@dataclass(frozen=True, slots=True)
class Write:
    """One statement that PostgreSQL carried out, and the rows that it wrote."""

    table: str
    operation: str
    rows: int


class WriteLog:
    """What PostgreSQL itself counted, with triggers that fire once a statement.

    A statement that writes no row is not in it.
    """

    def __init__(self, database: Any) -> None:
        self._database = database

    def read(self) -> list[Write]:
        """All writes since the last reading."""
        rows = self._database.execute(
            "WITH gone AS (DELETE FROM write_log RETURNING *)"
            " SELECT table_name, operation, rows FROM gone ORDER BY id"
        )
        return [Write(*row) for row in rows]


@contextmanager
def counted_writes(database: Any) -> Iterator[WriteLog]:
    """Counts the statements that write to the two tables while the block lasts."""
    statements = [
        "CREATE TABLE write_log (id bigint GENERATED ALWAYS AS IDENTITY,"
        " table_name text, operation text, rows bigint)",
        "CREATE FUNCTION log_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO write_log (table_name, operation, rows)"
        " SELECT TG_TABLE_NAME, TG_OP, count(*) FROM written HAVING count(*) > 0;"
        " RETURN NULL; END $$",
    ]
    for table in (SYNCED, OFFLINE):
        for operation, rows in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            statements.append(
                f"CREATE TRIGGER log_{operation.lower()} AFTER {operation} ON {table}"
                f" REFERENCING {rows} TABLE AS written"
                " FOR EACH STATEMENT EXECUTE FUNCTION log_write()"
            )
    database.execute("; ".join(statements))
    try:
        yield WriteLog(database)
    finally:
        database.execute("DROP FUNCTION log_write CASCADE; DROP TABLE write_log")


def _insert(database: Any, into: str, rows: list[tuple[Any, ...]]) -> None:
    with database.connection() as connection, connection, connection.cursor() as cursor:
        execute_values(cursor, f"INSERT INTO {into} VALUES %s", rows, page_size=2000)


def _select(
    database: Any, what: str, owner: Place | Account, *, order: str = ""
) -> list[tuple[Any, ...]]:
    with database.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {what} WHERE company_nip = %s AND environment = %s {order}",
            (owner.company_nip, owner.environment),
        )
        return cursor.fetchall()
