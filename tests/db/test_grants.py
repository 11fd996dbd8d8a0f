"""The rights of the two roles are those of docs/operators.md, on every table there is."""

import re
from typing import Any

import pytest

from tests.pages import OPERATORS

RIGHTS = ("select", "insert", "update", "delete")
NEVER = ("truncate", "references", "trigger")


def published() -> dict[str, dict[str, set[str]]]:
    """By table ("" for all others) and role: the rights named in the cell."""
    found = {}
    for first, *cells in OPERATORS.rows("Rights in the database"):
        rights = [set(re.findall("|".join(RIGHTS), cell)) for cell in cells]
        for name in re.findall(r"`(\w+)`", first) or [""]:
            found[name] = dict(zip(("ksef_proxy", "erp"), rights, strict=True))
    return found


@pytest.mark.parametrize("role", ["ksef_proxy", "erp"])
def test_rights_are_those_that_are_published(database: Any, role: str) -> None:
    expected = published()
    tables = [
        name
        for (name,) in database.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p', 'v', 'm')"
        )
    ]
    assert set(expected) - {""} <= set(tables)
    for table in tables:
        [held] = database.execute(
            "SELECT "
            + ", ".join(f"has_any_column_privilege('{role}', '{table}', '{r}')" for r in RIGHTS[:3])
            + "".join(
                f", has_table_privilege('{role}', '{table}', '{right}')"
                for right in (RIGHTS[3], *NEVER)
            )
        )
        rights = {name for name, has in zip((*RIGHTS, *NEVER), held, strict=True) if has}
        assert rights == expected.get(table, expected[""])[role], table


@pytest.mark.parametrize("role", ["ksef_proxy", "erp"])
def test_neither_may_make_anything(database: Any, role: str) -> None:
    [rights] = database.execute(
        f"SELECT has_schema_privilege('{role}', 'public', 'CREATE'),"
        f" has_database_privilege('{role}', current_database(), 'CREATE'),"
        " rolsuper, rolcreaterole, rolcreatedb, rolbypassrls"
        f" FROM pg_roles WHERE rolname = '{role}'"
    )
    assert not any(rights)
    owned = database.execute(
        f"SELECT relname FROM pg_class JOIN pg_roles ON relowner = pg_roles.oid"
        f" WHERE rolname = '{role}'"
    )
    assert owned == []
