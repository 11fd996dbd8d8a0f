"""Removing a company: what it has in the database, and how that is deleted."""

from contextlib import ExitStack
from typing import Any

from app import clock, errors
from app.account import Account
from app.db.pool import Database
from app.db.queries import companies as queries
from app.errors import OperatorError
from app.service import Service
from app.services.events import journal
from app.services.login import session
from app.services.operators import audit, purge
from app.services.replicas.leases import Lease
from app.settings import ENVIRONMENTS


def holdings(db: Database, nip: str) -> Any:
    """A row with how much a company has in the database.

    `users`, `credentials`; `logged_in`: the environments in which it has a KSeF session; `answers`:
    its kept answers; `upos`; `rows_that_stay`: its invoice rows in both tables, which are not
    removed with it. OperatorError if there is no such company, or nothing is left of it.
    """
    row = db.run(queries.holdings, nip=nip)
    if row is None or (row.removed_at is not None and not row.answers + row.upos):
        raise OperatorError(f"There is no company {nip}.")
    return row


def remove(service: Service, nip: str) -> list[str]:
    """Remove a company: users, credentials, KSeF sessions, documents, events, the quota's ledger.

    Its webhooks go too; its invoice rows and their links stay. If it is interrupted while deleting
    documents, calling it again goes on. Returns the environments whose KSeF session could not be
    revoked at KSeF; raises OperatorError as `holdings` does.
    """
    with ExitStack() as held:
        # Nobody logs in meanwhile.
        accounts = {name: service.account(nip, name) for name in ENVIRONMENTS}
        leases = {
            name: held.enter_context(session.alone(account)) for name, account in accounts.items()
        }
        had = holdings(service.db, nip)
        not_revoked = [name for name in had.logged_in if not _revoked(accounts[name], leases[name])]
        _delete(service.db, nip, had)
    journal.forget(service.db, nip)
    purge.delete(service.db, company_nip=nip)
    return not_revoked


def _delete(db: Database, nip: str, had: Any) -> None:
    with db.transaction() as connection:
        queries.remove(connection, nip=nip)
        audit.note(
            connection,
            audit.What.COMPANY_REMOVED,
            company_nip=nip,
            detail=f"{had.users} users, {had.credentials} credentials, {had.answers} answers, "
            f"{had.upos} UPOs",
        )


def _revoked(account: Account, lease: Lease) -> bool:
    """Whether KSeF has ended the session; it is forgotten here in any case."""
    try:
        with clock.within(account.timing.request):
            session.end(account, lease)
    except errors.ProxyError:
        return False
    return True
