"""The named queries of sql/queries: each file is an attribute, `users.get_user(connection, …)`.

A query takes its values by name. The sign after its name in the file says what it returns: `^` a
named tuple or None, `$` a single value, `!` how many rows it wrote, none many rows.
"""

from pathlib import Path
from typing import Any

import aiosql

FOLDER = Path(__file__).parents[2] / "sql" / "queries"


def _load(resource: str) -> Any:  # aiosql makes the attributes at run time
    return aiosql.from_path(FOLDER / f"{resource}.sql", "psycopg2")


audit = _load("audit")
auth = _load("auth")
companies = _load("companies")
console = _load("console")
documents = _load("documents")
invoices = _load("invoices")
kept = _load("kept")
keys = _load("keys")
leases = _load("leases")
limits = _load("limits")
linking = _load("linking")
metrics = _load("metrics")
outages = _load("outages")
upo = _load("upo")
users = _load("users")
