"""A new key for everything that is sealed: the first of SECRET_KEYS seals, the others open.

In small transactions, row by row, and what is sealed with the new key is left alone: it may be
broken off, begun again and run beside the service.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app import telemetry
from app.crypto import SealError, Vault
from app.db.pool import Database
from app.db.queries import keys as queries
from app.services.operators import audit
from app.services.operators.progress import Progress

_BATCH = 100

Query = Callable[..., Any]

COLUMNS: dict[str, tuple[Query, Query, Query]] = {
    "credential": (
        queries.count_credentials,
        queries.lock_credentials,
        queries.put_credentials,
    ),
    "access token": (
        queries.count_access_tokens,
        queries.lock_access_tokens,
        queries.put_access_tokens,
    ),
    "refresh token": (
        queries.count_refresh_tokens,
        queries.lock_refresh_tokens,
        queries.put_refresh_tokens,
    ),
    "webhook secret": (
        queries.count_webhook_secrets,
        queries.lock_webhook_secrets,
        queries.put_webhook_secrets,
    ),
}
"""What is sealed, each with the queries that count, lock and store those of an older key.

Download links are not sealed again but forgotten: they end within three days anyway.
"""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many sealed values got the new key, and how many opened with none."""

    sealed: int
    unreadable: int


def rotate(db: Database, vault: Vault, progress: Progress) -> Rotation:
    """Seal again what was not sealed with the newest key.

    What opens with no key stays as it is and is counted: its key is missing in SECRET_KEYS, or
    the row was moved.
    """
    newest = vault.newest_key_id
    with db.transaction() as connection:
        total = sum(count(connection, key_id=newest) for count, _, _ in COLUMNS.values())
    sealed = unreadable = 0
    for purpose, (_, lock, put) in COLUMNS.items():
        after = {"nip": "", "environment": ""}
        while True:
            with db.transaction() as connection:
                rows = list(lock(connection, key_id=newest, **after, batch=_BATCH))
                for row in rows:
                    again = _sealed_again(vault, purpose, row)
                    if again is None:
                        unreadable += 1
                        continue
                    put(
                        connection,
                        company_nip=row.company_nip,
                        environment=row.environment,
                        before=row.sealed,
                        sealed=again,
                    )
                    sealed += 1
            if not rows:
                break
            after = {"nip": rows[-1].company_nip, "environment": rows[-1].environment}
            progress(sealed + unreadable, total)
    while db.run(queries.forget_links, key_id=newest, batch=_BATCH):
        pass
    with db.transaction() as connection:
        audit.note(connection, audit.What.KEYS_ROTATED, detail=f"{sealed} secrets")
    return Rotation(sealed, unreadable)


def missing(db: Database, vault: Vault) -> list[str]:
    """Names of the keys that seal stored credentials and are not in SECRET_KEYS.

    Only the credentials': where a KSeF session does not open, the company is logged in anew.
    """
    sealing = {row.key_name for row in db.rows(queries.credential_keys)}
    return sorted(sealing - set(vault.key_names))


def unreadable(db: Database, vault: Vault) -> list[str]:
    """Each stored secret that does not open: whose it is, and why."""
    found = []
    for row in db.rows(queries.all_sealed):
        where = {"company_nip": row.company_nip, "environment": row.environment}
        try:
            vault.open(row.sealed, **where, purpose=row.purpose)
        except SealError as error:
            found.append(f"{row.purpose} of {row.company_nip} in {row.environment}: {error}")
    return found


def _sealed_again(vault: Vault, purpose: str, row: Any) -> bytes | None:
    where = {"company_nip": row.company_nip, "environment": row.environment, "purpose": purpose}
    try:
        return vault.seal(vault.open(row.sealed, **where), **where)
    except SealError as error:
        telemetry.warning(
            "a stored secret does not open",
            reason=str(error),
            purpose=purpose,
            environment=row.environment,
            company=telemetry.masked_nip(row.company_nip),
        )
        return None
