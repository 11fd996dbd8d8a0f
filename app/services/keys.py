"""A new key for everything that is sealed: the first of SECRET_KEYS seals, the others open.

In small transactions, row by row, and what is sealed with the new key is left alone: it may be
broken off, begun again and run beside the service.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app import telemetry
from app.crypto import SealError
from app.db.queries import keys as queries
from app.services import audit
from app.services.parts import Parts

_BATCH = 100

Progress = Callable[[int, int], None]
"""Called with how many rows were looked at, and how many there are."""


Query = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A sealed column: what it is sealed for, and the queries that count, lock and store."""

    purpose: str
    count: Query
    lock: Query
    put: Query


COLUMNS = (
    Column(
        "credential", queries.count_credentials, queries.lock_credentials, queries.put_credentials
    ),
    Column(
        "access token",
        queries.count_access_tokens,
        queries.lock_access_tokens,
        queries.put_access_tokens,
    ),
    Column(
        "refresh token",
        queries.count_refresh_tokens,
        queries.lock_refresh_tokens,
        queries.put_refresh_tokens,
    ),
    Column("download links", queries.count_links, queries.lock_links, queries.put_links),
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many sealed values got the new key, and how many opened with none."""

    sealed: int
    unreadable: int


def rotate(parts: Parts, progress: Progress) -> Rotation:
    """Seal again what was not sealed with the newest key.

    What opens with no key stays as it is and is counted: its key is missing in SECRET_KEYS, or
    the row was moved.
    """
    newest = parts.vault.newest_key_id
    with parts.db.transaction() as connection:
        total = sum(column.count(connection, key_id=newest) for column in COLUMNS)
    sealed = unreadable = 0
    for column in COLUMNS:
        after = ("", "", "")
        while True:
            with parts.db.transaction() as connection:
                rows = list(
                    column.lock(
                        connection,
                        key_id=newest,
                        nip=after[0],
                        environment=after[1],
                        name=after[2],
                        batch=_BATCH,
                    )
                )
                for row in rows:
                    again = _sealed_again(parts, column, row)
                    if again is None:
                        unreadable += 1
                        continue
                    column.put(
                        connection,
                        company_nip=row.company_nip,
                        environment=row.environment,
                        name=row.name,
                        sealed=again,
                    )
                    sealed += 1
            if not rows:
                break
            after = (rows[-1].company_nip, rows[-1].environment, rows[-1].name)
            progress(sealed + unreadable, total)
    with parts.db.transaction() as connection:
        audit.note(connection, audit.What.KEYS_ROTATED, detail=f"{sealed} secrets")
    return Rotation(sealed, unreadable)


def _sealed_again(parts: Parts, column: Column, row: Any) -> bytes | None:
    where = {
        "company_nip": row.company_nip,
        "environment": row.environment,
        "purpose": column.purpose,
    }
    try:
        return parts.vault.seal(parts.vault.open(row.sealed, **where), **where)
    except SealError as error:
        telemetry.warning(
            "a stored secret does not open",
            reason=str(error),
            purpose=column.purpose,
            environment=row.environment,
            company=telemetry.masked_nip(row.company_nip),
        )
        return None
