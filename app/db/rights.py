"""The rights that the service needs in the database: those that the migrations grant its role."""

import re
from pathlib import Path
from typing import Any

from app.db.migrate import MIGRATIONS
from app.db.queries import database as queries

ROLE = "ksef_proxy"
_STATEMENT = re.compile(
    rf"^(GRANT|REVOKE)\s+([^;]+?)\s+ON\s+([\w\s,]+?)\s+(?:TO|FROM)\s+{ROLE};", re.MULTILINE
)
_RIGHT = re.compile(r"(\w+)(?:\s*\(([^)]*)\))?")

Right = tuple[str, str, str]
"""A table, a right to it, and the column for which alone it is needed, or ""."""


def needed(folder: Path = MIGRATIONS) -> set[Right]:
    """What the migrations grant the service's role, and do not take back."""
    found: set[Right] = set()
    for file in sorted(folder.glob("*.sql")):
        for verb, rights, tables in _STATEMENT.findall(file.read_text("utf-8")):
            for table in re.findall(r"\w+", tables):
                named = {
                    (table, right, column)
                    for right, columns in _RIGHT.findall(rights)
                    for column in re.findall(r"\w+", columns) or [""]
                }
                found = found | named if verb == "GRANT" else found - named
    return found


def missing(connection: Any) -> list[str]:
    """Those that the role of this connection lacks, as in `UPDATE (linked_at) on upos`."""
    tables, rights, columns = map(list, zip(*sorted(needed()), strict=True))
    rows = queries.missing_rights(connection, tables=tables, rights=rights, columns=columns)
    return [
        f"{row.needed} ({row.of}) on {row.name}" if row.of else f"{row.needed} on {row.name}"
        for row in rows
    ]


def owns_audit(connection: Any) -> bool:
    """Whether the role of this connection may change the audit, as its owner or a superuser."""
    return bool(queries.owns_audit(connection))


def missing_limits(connection: Any) -> list[str]:
    """The limits for single statements that the role of this connection has not got."""
    return [name for (name,) in queries.missing_limits(connection)]
