"""The named queries of sql/queries: each file is an attribute, `users.get_user(connection, …)`.

A query takes its values by name. The sign after its name in the file says what it returns: `^` a
named tuple or None, `$` a single value, `!` how many rows it wrote, none many rows.
"""

from pathlib import Path
from typing import Any

import aiosql

FOLDER = Path(__file__).parents[1] / "sql" / "queries"


def _load(resource: str) -> Any:  # aiosql makes the attributes at run time
    return aiosql.from_path(FOLDER / f"{resource}.sql", "psycopg2", encoding="utf-8")


audit = _load("audit")
companies = _load("companies")
database = _load("database")
events = _load("events")
figures = _load("figures")
follow = _load("follow")
keys = _load("keys")
leases = _load("leases")
linking = _load("linking")
login = _load("login")
not_found = _load("not_found")
outages = _load("outages")
overview = _load("overview")
purge = _load("purge")
quota = _load("quota")
rows = _load("rows")
search = _load("search")
sessions = _load("sessions")
throttle = _load("throttle")
upo = _load("upo")
users = _load("users")
webhooks = _load("webhooks")

# Writes that do nothing more the second time, and say the same: the pool sends them again where the
# connection was lost before the answer came.
REPEATABLE = frozenset(
    {
        leases.take_lease,
        leases.extend_lease,
        leases.release_lease,
        login.claim_silent_login,
    }
)

# The pool has PostgreSQL keep the plans of these. Each returns one row, by keys alone.
PREPARED = frozenset({sessions.look, upo.hand_out})
