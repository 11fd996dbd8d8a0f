"""The rights of the two roles are those of docs/operators.md, on every table there is."""

import re
from typing import Any

import psycopg2
import pytest

from app.db.migrate import migrate
from tests.conftest import ROLES, DatabaseServer
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


def test_views_are_only_read_and_each_by_one_role(database: Any) -> None:
    """`invoice_status` is made for the ERP, the others for the service."""
    views = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"
    )
    assert views
    for (view,) in views:
        for role in ROLES:
            may_read = (role == "erp") == (view == "invoice_status")
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


def test_a_role_for_each_company_sees_its_own_rows_only(
    database_server: DatabaseServer, empty_database: Any
) -> None:
    """As docs/operators.md has it; the service goes on seeing and linking all rows."""
    migrate(empty_database.owner_dsn)
    [lines] = re.findall(r"```sql\n(CREATE ROLE erp_5265877635.*?)```", OPERATORS.text, re.DOTALL)
    numbers = {nip: f"{nip}-20250826-0100001AF629-AF" for nip in ("5265877635", "7812019453")}
    for nip, number in numbers.items():
        empty_database.execute(
            f"INSERT INTO companies (nip, name) VALUES ('{nip}', 'x');"
            " INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
            f" VALUES ('{nip}', 'test', '{number[:-2]}X1', 'FV')"
        )
    seen = "SELECT company_nip FROM synced_invoices ORDER BY 1"
    statuses = seen.replace("synced_invoices", "invoice_status")
    update = "UPDATE synced_invoices SET session_reference_number = 'S' RETURNING company_nip"
    try:
        empty_database.execute(f"GRANT {', '.join(ROLES)} TO CURRENT_USER")
        as_company = f"SET ROLE erp_5265877635; {seen}"
        assert empty_database.execute(f"SET ROLE erp; {statuses}") != []
        empty_database.execute(lines)
        assert empty_database.execute(as_company) == [("5265877635",)]
        assert empty_database.execute(f"SET ROLE erp_5265877635; {statuses}") == [("5265877635",)]
        assert empty_database.execute(f"SET ROLE erp; {seen}") == []
        assert empty_database.execute(f"SET ROLE erp; {statuses}") == []
        assert len(empty_database.execute(f"SET ROLE ksef_proxy; {update}")) == 2
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            empty_database.execute(
                "SET ROLE erp_5265877635; INSERT INTO synced_invoices"
                " (company_nip, environment, ksef_number, invoice_number)"
                " VALUES ('7812019453', 'test', '7812019453-20250826-1-1', 'FV')"
            )
    finally:
        empty_database.execute("DROP OWNED BY erp_5265877635; DROP ROLE erp_5265877635")
