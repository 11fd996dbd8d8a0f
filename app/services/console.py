"""What the operator console shows, from the database alone: looking never asks KSeF."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.queries import console as queries
from app.db.queries import users as user_queries
from app.ksef import wire
from app.ksef.wire import SessionInvoice, SessionStatus
from app.services import outages, quota
from app.services.parts import Parts, Place
from app.services.quota import GroupUse
from app.services.snapshots import kept_invoice

NEWEST = 10_000
"""How many sessions are listed at most, and in how many rows of each table unlinked ones are found.
"""

_CODES = {"all": (0, 9999), "accepted": (200, 200), "rejected": (201, 9999), "moving": (0, 199)}
FILTERS = tuple(_CODES)


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A kept answer without its invoices. `checked_at`: when KSeF was asked."""

    reference_number: str
    session: SessionStatus
    final: bool
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class State:
    """The state of one environment, for one company.

    `name`, `outage`, `answered_at`: see `outages.state`. `login`: a row with the stored credential
    and the KSeF session's times, or None. `quota`: how it was used in the last hour.
    """

    name: str
    outage: Mapping[str, Any]
    answered_at: datetime | None
    login: Any
    quota: Sequence[GroupUse]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a longer list, and how many entries that list has."""

    entries: Sequence[Any]
    total: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many invoices a session has, in all and by what became of them."""

    all: int
    accepted: int
    rejected: int
    moving: int


def company_name(parts: Parts, nip: str) -> str:
    """The name of a company, which must exist."""
    name: str = parts.db.run(user_queries.get_company, nip=nip).name
    return name


def state(parts: Parts, place: Place) -> State:
    """What is known of an environment, for this company."""
    name, outage, answered_at = outages.state(parts, place)
    login = parts.db.run(queries.login, **place.columns)
    return State(name, outage, answered_at, login, quota.last_hour(parts, place))


def sessions(parts: Parts, place: Place, *, skip: int, take: int) -> Page:
    """The kept sessions, those that changed last first; counted up to NEWEST."""
    with parts.db.transaction() as connection:
        rows = list(queries.recent_sessions(connection, **place.columns, skip=skip, take=take))
        total = queries.count_sessions(connection, **place.columns, most=NEWEST)
    return Page([_kept(row) for row in rows], total)


def session(parts: Parts, place: Place, reference_number: str) -> KeptSession | None:
    """A kept session."""
    row = parts.db.run(queries.get_session, **_where(place, reference_number))
    return _kept(row) if row else None


def invoices(
    parts: Parts, place: Place, reference_number: str, chosen: str, *, skip: int, take: int
) -> tuple[Sequence[SessionInvoice], Counts]:
    """A page of a kept session's invoices, and how many there are of each kind.

    `chosen` is one of FILTERS: the kind of invoices on the page.
    """
    least, most = _CODES[chosen]
    where = _where(place, reference_number)
    with parts.db.transaction() as connection:
        rows = list(
            queries.session_invoices(
                connection, **where, least=least, most=most, skip=skip, take=take
            )
        )
        counted = queries.count_invoices(connection, **where)
    counts = Counts(counted.total, counted.accepted, counted.rejected, counted.moving)
    return [kept_invoice(row) for row in rows], counts


def environments_of(parts: Parts, company_nip: str, reference_number: str) -> Sequence[str]:
    """The environments in which an answer for this session is kept."""
    rows = parts.db.rows(
        queries.places_of_session, company_nip=company_nip, reference_number=reference_number
    )
    return [row.environment for row in rows]


def unlinked(parts: Parts, place: Place, *, skip: int, take: int) -> Page:
    """The company's unlinked invoice rows among the NEWEST of each table, newest first."""
    rows = parts.db.rows(
        queries.unlinked_rows, **place.columns, newest=NEWEST, skip=skip, take=take
    )
    return Page(rows, rows[0].total if rows else 0)


def _kept(row: Any) -> KeptSession:
    return KeptSession(
        row.reference_number,
        wire.reading(wire.session_status, row.session),
        row.final,
        row.checked_at,
    )


def _where(place: Place, reference_number: str) -> dict[str, str]:
    return {**place.columns, "reference_number": reference_number}
