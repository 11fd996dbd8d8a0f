"""Statements that PostgreSQL plans once for many uses, where planning takes most of their time.

PREPARE and EXECUTE are statements like others, so they work behind PgBouncer too, where each
transaction has any of the server's connections: one that lacks the statement, or has it already,
says so before anything is done.
"""

import functools
import hashlib
import re
from contextlib import suppress
from typing import Any

from psycopg2 import errors as postgres

from app import clock

_PLANNED_FOR = 10.0  # seconds: nobody tells PostgreSQL how much the tables have grown since
# A plan is for every company, and made before the tables are full. These end with the message.
_LASTING = "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off"


def one(connection: Any, query: Any, values: dict[str, Any]) -> Any:
    """The row of a named query that returns one, or None.

    `connection.planned` has when its statements were planned, by name, on `clock.monotonic()`.
    """
    name, prepare, execute = _statements(query.sql)
    now, planned = clock.monotonic(), connection.planned.get(name)
    is_fresh = planned is not None and now - planned < _PLANNED_FOR
    attempts = [execute if is_fresh else f"DISCARD PLANS; {execute}", f"{prepare}; {execute}"]
    if planned is None:
        attempts.reverse()
    with connection.cursor() as cursor:
        for attempt in attempts:
            with suppress(postgres.InvalidSqlStatementName, postgres.DuplicatePreparedStatement):
                cursor.execute(f"{_LASTING}; {attempt}", values)
                if not is_fresh:
                    connection.planned[name] = now
                return cursor.fetchone()
    return query(connection, **values)


@functools.cache
def _statements(sql: str) -> tuple[str, str, str]:
    """A name for a statement, and how it is prepared and executed with the same values."""
    numbers: dict[str, str] = {}
    numbered = re.sub(
        r"%\((\w+)\)s", lambda found: numbers.setdefault(found[1], f"${len(numbers) + 1}"), sql
    )
    name = f"ksef_proxy_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
    values = ", ".join(f"%({value})s" for value in numbers)
    return name, f"PREPARE {name} AS {numbered.rstrip(';')}", f"EXECUTE {name} ({values})"
