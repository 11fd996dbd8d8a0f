"""Every named query fits the migrated schema, and somebody uses it."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosql
import psycopg2
import pytest

from app.db.queries import FOLDER

APP = Path(__file__).parents[2] / "app"
SOURCES = [path.read_text("utf-8") for path in APP.rglob("*.py")]
QUERIES = {
    f"{file.stem}.{name}": getattr(loaded, name).sql
    for file in sorted(FOLDER.glob("*.sql"))
    if (loaded := aiosql.from_path(file, "psycopg2"))
    for name in loaded.available_queries
    if not name.endswith("_cursor")  # aiosql's own variant of each
}


def prepared(sql: str) -> str:
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
        cursor.execute(prepared(QUERIES[name]))
        assert cursor.fetchall()
    assert any(
        re.search(rf"queries\.{query}\b", source)
        for source in SOURCES
        if f"import {resource} as queries" in source or f'"{resource}.sql"' in source
    )
