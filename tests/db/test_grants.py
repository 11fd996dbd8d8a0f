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
            " AND relkind IN ('r', 'p', 'm')"
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


def test_views_are_only_read_and_only_by_the_service(database: Any) -> None:
    views = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"
    )
    assert views
    for (view,) in views:
        for role, may_read in (("ksef_proxy", True), ("erp", False)):
            rights = {
                right
                for right in (*RIGHTS[:3], RIGHTS[3])
                if database.execute(f"SELECT has_table_privilege('{role}', '{view}', '{right}')")
                == [(True,)]
            }
            assert rights == ({"select"} if may_read else set()), (view, role)


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
