"""Who did what, when: a row for each act that somebody may ask after later, written with the act.

Not recorded: questions (a status check changes nothing that is not KSeF's own word), the HTTP
Basic login of each request, and single wrong passwords, which anybody could fill the table with.
The service's database role can add rows and read them, and no more.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.db.pool import Connection
from app.db.queries import audit as queries
from app.services.parts import Parts

OPERATOR = "operator"
_BATCH = 1000


class What(StrEnum):
    """The acts, as they stand in the table."""

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
    USER_DISABLED = "user_disabled"
    COMPANY_ADDED = "company_added"
    COMPANY_REMOVED = "company_removed"
    DOCUMENTS_PURGED = "documents_purged"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a user by its e-mail, in a request from an address, or the operator."""

    who: str = OPERATOR
    address: str | None = None
    request_id: str | None = None

    @property
    def columns(self) -> dict[str, str | None]:
        """Its three columns."""
        return {"who": self.who, "address": self.address, "request_id": self.request_id}


actor: ContextVar[Actor] = ContextVar("actor", default=Actor())  # noqa: B039 - it is frozen
"""Who acts in this thread; the operator, unless a request says otherwise."""


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
    """Write an act down, in the transaction of the act itself; by whom the thread knows."""
    queries.note(
        connection,
        what=what,
        company_nip=company_nip,
        environment=environment,
        detail=detail,
        **(by or actor.get()).columns,
    )


def newest(
    parts: Parts, *, nip: str | None, what: str | None, since: datetime | None, most: int
) -> Sequence[Any]:
    """The newest rows first: at, who, what, company_nip, environment, detail, request_id, address.

    None: any.
    """
    return parts.db.rows(queries.newest, nip=nip, what=what, since=since, most=most)


def purge(parts: Parts, days: int) -> int:
    """Delete what is older than so many days; how much that was. The owner's right, in batches."""
    total = 0
    while True:
        deleted: int = parts.db.run(queries.purge, days=days, batch=_BATCH)
        total += deleted
        if deleted < _BATCH:
            return total
