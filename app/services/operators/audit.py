"""The audit: who did what and when, written in the transaction of the act itself.

Not recorded are status checks (they only repeat what KSeF says), the HTTP Basic login of each
request, and single wrong passwords, with which anybody could fill the table. The service's database
role can add and read rows, but not change or delete them.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.db.pool import Connection, Database
from app.db.queries import audit as queries

OPERATOR = "operator"
_BATCH = 1000


class What(StrEnum):
    """What can be done, by the names in the table."""

    KSEF_LOGIN = "ksef_login"
    KSEF_SILENT_LOGIN = "ksef_silent_login"
    KSEF_LOGIN_REFUSED = "ksef_login_refused"
    KSEF_LOGOUT = "ksef_logout"
    CREDENTIAL_STORED = "credential_stored"
    KEYS_ROTATED = "keys_rotated"
    SIMULATION_STARTED = "simulation_started"
    SIMULATION_ENDED = "simulation_ended"
    UPO_DOWNLOADED = "upo_downloaded"
    USER_PUT_OFF = "user_put_off"
    USER_ADDED = "user_added"
    USER_PASSWORD_SET = "user_password_set"  # noqa: S105 - no password
    USER_ROLE_SET = "user_role_set"
    USER_DISABLED = "user_disabled"
    USER_ENABLED = "user_enabled"
    USER_UNLOCKED = "user_unlocked"
    COMPANY_ADDED = "company_added"
    COMPANY_REMOVED = "company_removed"
    DOCUMENTS_PURGED = "documents_purged"
    WEBHOOK_ADDED = "webhook_added"
    WEBHOOK_REMOVED = "webhook_removed"
    WEBHOOK_REPLAYED = "webhook_replayed"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a user (its e-mail, address and request id), or the operator by a command."""

    who: str = OPERATOR
    address: str | None = None
    request_id: str | None = None

    @property
    def columns(self) -> dict[str, str | None]:
        """Its three columns."""
        return {"who": self.who, "address": self.address, "request_id": self.request_id}


actor: ContextVar[Actor] = ContextVar("actor", default=Actor())  # noqa: B039 - it is frozen
"""Who acts in this thread: the caller during a request, else the operator."""


def note(
    connection: Connection,
    what: What,
    by: Actor | None = None,
    /,
    *,
    company_nip: str | None = None,
    environment: str | None = None,
    detail: str | None = None,
) -> None:
    """Record an act, in the transaction of the act itself; by `actor` unless `by` is given."""
    queries.note(
        connection,
        what=what,
        company_nip=company_nip,
        environment=environment,
        detail=detail,
        **(by or actor.get()).columns,
    )


def newest(
    db: Database, *, nip: str | None, what: str | None, since: datetime | None, most: int
) -> Sequence[Any]:
    """At most `most` rows, newest first; a filter that is None lets everything through.

    Their columns: at, who, what, company_nip, environment, detail, request_id, address.
    """
    return db.rows(queries.newest, nip=nip, what=what, since=since, most=most)


def purge(db: Database, days: int) -> int:
    """Delete rows older than so many days, in batches. Returns how many.

    Raises NoRight unless the database role is the owner's.
    """
    total = 0
    while deleted := db.run(queries.purge, days=days, batch=_BATCH):
        total += deleted
    return total
