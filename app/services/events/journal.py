"""The journal: what happened to a company in an environment, in an order that can be relied on.

An event is written in the transaction of what it tells, once: whoever comes second finds its key.
Its number comes from a row of the company that stays locked until that transaction ends. So events
become visible in the order of their numbers, and one who reads on from a number misses none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app import errors
from app.account import Account
from app.db.pool import Connection, Database, retried
from app.db.queries import events as queries
from app.settings import ENVIRONMENTS

MOST = 1000
"""Events in one answer."""
_EXPIRING = (30, 7, 1)  # days before the end of a certificate
_BATCH = 1000
_ID_PART = 8  # of an event's id, in a cursor
_Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Kind(StrEnum):
    """The types of events."""

    SESSION_FINAL = "session.final"
    SESSION_STUCK = "session.stuck"
    UPO_ARCHIVED = "upo.archived"
    OUTAGE_BEGAN = "outage.began"
    OUTAGE_ENDED = "outage.ended"
    CREDENTIAL_REFUSED = "credential.refused"
    CERTIFICATE_EXPIRING = "certificate.expiring"


class Event(msgspec.Struct, kw_only=True, rename="camel", gc=False):
    """One event, as the API answers it and webhooks send it. All times are in UTC."""

    id: Annotated[str, Meta(description="The same each time that the event is told")]
    type: Annotated[str, Meta(description=f"{', '.join(Kind)}; more may come")]
    timestamp: Annotated[_Moment, Meta(description="When it was written to the journal")]
    nip: Annotated[str, Meta(description="The company's NIP", pattern="^[0-9]{10}$")]
    environment: Annotated[
        Annotated[str, Meta(title="Environment", extra_json_schema={"enum": [*ENVIRONMENTS]})],
        Meta(description="KSeF environment"),
    ]
    reference_number: Annotated[
        str | UnsetType, Meta(description="Of a session: its reference number, to ask with")
    ] = UNSET
    code: Annotated[
        int | UnsetType,
        Meta(description="KSeF's code: of a session its status, of a credential the refusal"),
    ] = UNSET
    total_invoice_count: Annotated[
        int | UnsetType, Meta(description="Of session.final: invoices of the session")
    ] = UNSET
    successful_invoice_count: Annotated[
        int | UnsetType, Meta(description="Of session.final: accepted invoices")
    ] = UNSET
    failed_invoice_count: Annotated[
        int | UnsetType, Meta(description="Of session.final: rejected invoices")
    ] = UNSET
    upo_count: Annotated[
        int | UnsetType, Meta(description="Of upo.archived: the accepted invoices that they prove")
    ] = UNSET
    since: Annotated[
        _Moment | UnsetType,
        Meta(description="Begin of an outage; or since when nothing of a stuck session changed"),
    ] = UNSET
    source: Annotated[
        str | UnsetType, Meta(description="Of outage.began: `latarnia` or `breaker`")
    ] = UNSET
    certificate_valid_until: Annotated[
        _Moment | UnsetType, Meta(description="Of certificate.expiring: when it ends")
    ] = UNSET
    days: Annotated[
        int | UnsetType, Meta(description="Of certificate.expiring: it ends within 30, 7 or 1")
    ] = UNSET


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, and the cursor after them (that of the question where there are none)."""

    events: Sequence[Event]
    next: str | None
    is_last: bool


def note(
    connection: Connection,
    kind: Kind,
    *,
    company_nip: str | None,
    environment: str,
    data: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Write an event in the transaction of what it tells, unless it was written before.

    `company_nip` None: for every company. `data`: members of `Event` under their names in JSON.
    `key` tells it from others of its kind; unless given it is the session's, `referenceNumber`.
    """
    queries.note(
        connection,
        company_nip=company_nip,
        environment=environment,
        type=kind.value,
        key=data["referenceNumber"] if key is None else key,
        data=msgspec.json.encode(data).decode(),
    )


def lock_session(connection: Connection, account: Account, reference_number: str) -> None:
    """Let the end of a session and its last UPO be stored one after the other."""
    queries.lock_session(connection, **account.columns, reference_number=reference_number)


def note_if_archived(connection: Connection, account: Account, reference_number: str) -> None:
    """Write `upo.archived`, once the session is final and no UPO of it is missing.

    The transaction must have begun with `lock_session`.
    """
    count = queries.archived(connection, **account.columns, reference_number=reference_number)
    if count is not None:
        data = {"referenceNumber": reference_number, "upoCount": count}
        note(connection, Kind.UPO_ARCHIVED, **account.columns, data=data)


@retried
def begin_outage(db: Database, environment: str, *, since: datetime | None, source: str) -> None:
    """Tell every company that an outage is established, unless that was told."""
    with db.transaction() as connection:
        established_at = queries.begin_outage(connection, environment=environment)
        if established_at is not None:
            note(
                connection,
                Kind.OUTAGE_BEGAN,
                company_nip=None,
                environment=environment,
                data={"since": utc(since or established_at), "source": source},
                key=utc(established_at),
            )


@retried
def end_outage(db: Database, environment: str) -> None:
    """Tell every company that the outage that was told is over, unless that was told."""
    with db.transaction() as connection:
        established_at = queries.end_outage(connection, environment=environment)
        if established_at is not None:
            note(
                connection,
                Kind.OUTAGE_ENDED,
                company_nip=None,
                environment=environment,
                data={"since": utc(established_at)},
                key=utc(established_at),
            )


@retried
def note_expiring(db: Database) -> None:
    """Tell of certificates that end within 30, 7 or 1 days; each of these once."""
    found = db.rows(queries.expiring, days=list(_EXPIRING))
    for row in found:
        with db.transaction() as connection:
            note(
                connection,
                Kind.CERTIFICATE_EXPIRING,
                company_nip=row.company_nip,
                environment=row.environment,
                data={"certificateValidUntil": utc(row.valid_until), "days": row.days},
                key=f"{row.valid_until.timestamp():.0f} {row.days}",
            )


def read(account: Account, after: str | None, most: int) -> Page:
    """The events after a cursor, or from the first one on; at most `most`.

    Raises InvalidParameter for a cursor of which nothing is known: the database was restored from
    a backup that is older, or what came after it was purged before it was read.
    """
    number, part = _split(after)
    if after is not None:
        row = account.db.run(queries.where, **account.columns, number=number)
        is_another = row.id is not None and row.id[:_ID_PART] != part
        if number > row.last or is_another or (number < row.last and row.is_gone):
            raise errors.InvalidParameter(
                "Invalid: after.",
                errors={"after": ["Is not known here (any more): read from the beginning."]},
            )
    rows = account.db.rows(queries.read, **account.columns, after=number, most=most + 1)
    shown = rows[:most]
    last = f"{shown[-1].number}-{shown[-1].id[:_ID_PART]}" if shown else after
    return Page([event(row) for row in shown], last, is_last=len(rows) <= most)


def newest(account: Account, most: int) -> Sequence[tuple[datetime, Event]]:
    """The newest events first, each with its time."""
    rows = account.db.rows(queries.newest, **account.columns, most=most)
    return [(row.at, event(row)) for row in rows]


def event(row: Any) -> Event:
    """The event of a row."""
    about = {
        "id": row.id,
        "type": row.type,
        "timestamp": utc(row.at),
        "nip": row.company_nip,
        "environment": row.environment,
    }
    return msgspec.convert({**msgspec.json.decode(row.data), **about}, Event)


def purge(db: Database, days: int) -> int:
    """Delete events that are older, and that no webhook waits to deliver. Returns how many."""
    total = 0
    while deleted := db.run(queries.purge, days=days, batch=_BATCH):
        total += deleted
    return total


def forget(db: Database, nip: str) -> None:
    """Delete all events of a company."""
    while db.run(queries.forget, nip=nip, batch=_BATCH):
        pass


def utc(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC, to the microsecond where it has them."""
    return moment.astimezone(UTC).isoformat()


def _split(cursor: str | None) -> tuple[int, str]:
    number, _, part = (cursor or "0").partition("-")
    return int(number), part
