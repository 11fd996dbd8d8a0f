"""The rights of the two roles are those that README publishes, on every table there is."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
RIGHTS = ("select", "insert", "update", "delete")
NEVER = ("truncate", "references", "trigger")


def published() -> dict[str, dict[str, set[str]]]:
    """By table ("" for all others) and role: the rights named in the cell."""
    table = (
        README.read_text("utf-8").split("| table | `ksef_proxy` | `erp` |\n")[1].split("\n\n")[0]
    )
    found = {}
    for line in table.splitlines()[1:]:
        first, *cells = line.strip("|").split("|")
        rights = [set(re.findall("|".join(RIGHTS), cell)) for cell in cells]
        for name in re.findall(r"`(\w+)`", first) or [""]:
            found[name] = dict(zip(("ksef_proxy", "erp"), rights, strict=True))
    return found


@pytest.mark.parametrize("role", ["ksef_proxy", "erp"])
def test_rights_are_those_of_the_readme(database: Any, role: str) -> None:
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
