"""A new key for everything that is sealed: the first of SECRET_KEYS seals, the others open.

Value by value, and what is sealed with the new key is left alone: it may be broken off, begun again
and run beside the service.
"""

from dataclasses import dataclass

from app import telemetry
from app.crypto import SealError, Vault
from app.db.pool import Database
from app.db.queries import keys as queries
from app.services.operators import audit, purge
from app.services.operators.progress import Progress


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many sealed values got the new key, and how many opened with none."""

    sealed: int
    unreadable: int


def rotate(db: Database, vault: Vault, progress: Progress) -> Rotation:
    """Seal again what was not sealed with the newest key.

    What opens with no key stays as it is and is counted: its key is missing in SECRET_KEYS, or
    the row was moved. Download links are forgotten: they end within three days anyway.
    """
    newest = vault.newest_key_id
    older = [row for row in db.rows(queries.all_sealed) if not bytes(row.sealed).startswith(newest)]
    sealed = 0
    for done, row in enumerate(older, start=1):
        where = {"company_nip": row.company_nip, "environment": row.environment}
        try:
            secret = vault.open(row.sealed, **where, purpose=row.purpose)
        except SealError as error:
            telemetry.warning(
                "a stored secret does not open",
                reason=str(error),
                purpose=row.purpose,
                environment=row.environment,
                company=telemetry.masked_nip(row.company_nip),
            )
        else:
            again = vault.seal(secret, **where, purpose=row.purpose)
            db.run(queries.seal_again, **where, before=row.sealed, sealed=again)
            sealed += 1
        progress(done, len(older))
    while purge.forget_links(db, newest_key_id=newest):
        pass
    with db.transaction() as connection:
        audit.note(connection, audit.What.KEYS_ROTATED, detail=f"{sealed} secrets")
    return Rotation(sealed, len(older) - sealed)


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
