"""What the operator console shows, from the database alone: looking never asks KSeF."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.account import Account
from app.db.pool import Database
from app.db.queries import overview as queries
from app.db.queries import users as user_queries
from app.ksef import wire
from app.ksef.wire import Invoice, Session
from app.services import outages
from app.services.operators.quotas import GroupUse, last_hour

NEWEST = 10_000
"""How many sessions are listed at most, and in how many rows of each table unlinked ones are found.
"""

_CODES = {"all": (0, 9999), "accepted": (200, 200), "rejected": (201, 9999), "moving": (0, 199)}
FILTERS = tuple(_CODES)


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A kept answer without its invoices. `checked_at`: when KSeF was asked."""

    reference_number: str
    session: Session
    final: bool
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """One environment, for one company.

    `name`, `outage`, `answered_at`: see `outages.State`. `login`: a row with the stored credential
    and the KSeF session's times, or None. `quota`: how it was used in the last hour.
    """

    name: str
    outage: outages.Evidence
    answered_at: datetime | None
    login: Any
    quota: Sequence[GroupUse]


@dataclass(frozen=True, slots=True)
class Followed:
    """How far the company's sessions are followed.

    `known_until`: see `search.known_sessions`. `found`, `moving`, `archiving`: how many sessions
    wait to be read, are not final, wait for their UPOs. `stuck`: rows with `reference_number` and
    `moving_since`, those that move for the longest time first.
    """

    known_until: datetime | None
    found: int
    moving: int
    archiving: int
    stuck: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a longer list, and how many entries that list has."""

    entries: Sequence[Any]
    total: int


def company_name(db: Database, nip: str) -> str:
    """The name of a company, which must exist."""
    name: str = db.run(user_queries.get_company, nip=nip).name
    return name


def overview(account: Account) -> Overview:
    """What is known of an environment, for this company."""
    login = account.db.run(queries.login, **account.columns)
    known = outages.state(account)
    return Overview(known.name, known.evidence, known.answered_at, login, last_hour(account))


def followed(account: Account, *, most: int) -> Followed | None:
    """How far the company is followed, with so many stuck sessions; None if it never was."""
    row = account.db.run(queries.followed, **account.columns)
    if not row:
        return None
    stuck = account.db.rows(queries.stuck_sessions, **account.columns, most=most)
    return Followed(row.known_until, row.found, row.moving, row.archiving, stuck)


def sessions(account: Account, *, skip: int, take: int) -> Page:
    """The kept sessions, those that changed last first; counted up to NEWEST."""
    with account.db.transaction() as connection:
        rows = list(queries.recent_sessions(connection, **account.columns, skip=skip, take=take))
        total = queries.count_sessions(connection, **account.columns, most=NEWEST)
    return Page([_kept(row) for row in rows], total)


def session(account: Account, reference_number: str) -> KeptSession | None:
    """A kept session."""
    row = account.db.run(queries.get_session, **_where(account, reference_number))
    return _kept(row) if row else None


def invoices(
    account: Account, reference_number: str, chosen: str, *, skip: int, take: int
) -> tuple[Sequence[Invoice], Any]:
    """A page of a kept session's invoices, and how many there are of each kind, by FILTERS.

    `chosen` is one of these: the kind of invoices on the page.
    """
    least, most = _CODES[chosen]
    where = _where(account, reference_number)
    with account.db.transaction() as connection:
        rows = list(
            queries.session_invoices(
                connection, **where, least=least, most=most, skip=skip, take=take
            )
        )
        counts = queries.count_invoices(connection, **where)
    return [wire.decode(Invoice, row.told) for row in rows], counts


def environments_of(db: Database, company_nip: str, reference_number: str) -> Sequence[str]:
    """The environments in which an answer for this session is kept."""
    rows = db.rows(
        queries.environments_of_session, company_nip=company_nip, reference_number=reference_number
    )
    return [row.environment for row in rows]


def unlinked(account: Account, *, skip: int, take: int) -> Page:
    """The company's unlinked invoice rows among the NEWEST of each table, newest first."""
    rows = account.db.rows(
        queries.unlinked_rows, **account.columns, newest=NEWEST, skip=skip, take=take
    )
    return Page(rows, rows[0].total if rows else 0)


def _kept(row: Any) -> KeptSession:
    return KeptSession(
        row.reference_number,
        wire.decode(Session, row.session),
        row.final,
        row.checked_at,
    )


def _where(account: Account, reference_number: str) -> dict[str, str]:
    return {**account.columns, "reference_number": reference_number}
