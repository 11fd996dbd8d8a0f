"""A snapshot: what KSeF said of a session at one moment; and how snapshots are stored."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from app import errors, telemetry
from app.crypto import SealError
from app.db.pool import retried
from app.db.queries import kept as queries
from app.ksef import wire
from app.ksef.wire import SUCCESS, Link, SessionInvoice, SessionStatus
from app.services.parts import Parts, Place

_LINKS = "download links"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session with its counts and invoices, all of the same moment.

    `checked_at`: when KSeF gave this answer; `listed`: the invoices come from a list.
    Seconds when it was loaded: `age` since `checked_at`, `asked_ago` since KSeF was last asked
    (maybe in vain), `unchanged_for` since anything in it changed, `listed_for` since the last list
    (None: never listed), `wanted_ago` since a caller asked for it (noted only now and then).
    `next_check_after`: seconds until asking again is worthwhile; None if nothing will change.
    `linked`: linking would change nothing, since all rows of the company are linked already.
    """

    reference_number: str
    session: SessionStatus
    invoices: Sequence[SessionInvoice]
    checked_at: datetime
    listed: bool
    age: float = 0.0
    asked_ago: float = 0.0
    unchanged_for: float = 0.0
    listed_for: float | None = None
    wanted_ago: float = 0.0
    next_check_after: int | None = None
    linked: bool = False

    @property
    def final(self) -> bool:
        """Whether nothing in it will change: its code is final, and counts and list agree."""
        return self.session.status.is_final and self.fits

    @property
    def fits(self) -> bool:
        """Whether the list agrees with the counts, as far as a session in this state has them."""
        if len(self.invoices) != self.session.invoice_count:
            return False
        if not self.session.status.is_final:
            return True
        return self.accepted == self.session.successful_invoice_count and not self.moving

    @property
    def accepted(self) -> int:
        """How many of the invoices KSeF accepted."""
        return sum(invoice.status.code == SUCCESS for invoice in self.invoices)

    @property
    def moving(self) -> list[SessionInvoice]:
        """The invoices that KSeF still works on."""
        return [invoice for invoice in self.invoices if not invoice.status.is_final]


def database_now(parts: Parts) -> datetime:
    """The present moment by the database's clock, which all replicas share."""
    moment: datetime = parts.db.run(queries.database_now)
    return moment


def load(parts: Parts, place: Place, reference_number: str) -> Snapshot | None:
    """The stored snapshot with all invoices, but without download links; None for none."""
    row = parts.db.run(queries.get_session, **_where(place, reference_number))
    if row is None:
        return None
    invoices = [_kept_invoice(*values) for values in orjson.loads(row.invoices or "[]")]
    linked = row.linked
    if linked is None:
        linked = _is_linked(parts, place, reference_number, invoices)
    return Snapshot(
        reference_number,
        wire.reading(wire.session_status, row.session),
        invoices,
        row.checked_at,
        listed=row.listed_at is not None,
        age=row.age,
        asked_ago=row.asked_ago,
        unchanged_for=row.unchanged_for,
        listed_for=row.listed_for,
        wanted_ago=row.wanted_ago,
        linked=linked,
    )


def _is_linked(
    parts: Parts, place: Place, reference_number: str, invoices: Sequence[SessionInvoice]
) -> bool:
    linked: bool = parts.db.run(
        queries.is_linked,
        **_where(place, reference_number),
        accepted=[invoice.ksef_number for invoice in invoices if invoice.is_accepted],
        originals=[i.duplicate_of.ksef_number for i in invoices if i.duplicate_of],
        reference_numbers=[invoice.reference_number for invoice in invoices],
    )
    return linked


def mark_asked(
    parts: Parts, place: Place, reference_number: str, asked_at: datetime, *, listed: bool
) -> None:
    """Note that KSeF was asked (and its list fetched) without a new answer: the stored one counts
    as fresh for a while."""
    parts.db.run(
        queries.mark_asked, **_where(place, reference_number), asked_at=asked_at, listed=listed
    )


def mark_wanted(parts: Parts, place: Place, kept: Snapshot) -> None:
    """Note that a caller asked for the session, unless that was noted a short while ago."""
    if kept.wanted_ago > parts.timing.wanted / 2:
        with suppress(errors.Unavailable):  # the answer can be given all the same
            parts.db.run(queries.mark_wanted, **_where(place, kept.reference_number))


@retried
def store(parts: Parts, place: Place, new: Snapshot, old: Snapshot | None) -> None:
    """Store a snapshot, unless a newer or final one is stored already. `old`: the one before."""
    where = _where(place, new.reference_number)
    known = {invoice.reference_number: invoice for invoice in old.invoices} if old else {}
    changed = [i for i in new.invoices if not _same(i, known.get(i.reference_number))]
    gone = known.keys() - {invoice.reference_number for invoice in new.invoices}
    links = _links(new)
    if links and not new.listed:  # only the invoices fetched one by one have new links
        links = {**_kept_links(parts, place, new.reference_number), **links}
    with parts.db.transaction() as connection:
        stored = queries.put_session(
            connection,
            **where,
            session=orjson.dumps(wire.session_json(new.session)).decode(),
            links=_sealed(parts, place, links),
            final=new.final,
            checked_at=new.checked_at,
            changed=old is None
            or bool(changed or gone)
            or wire.session_json(old.session) != wire.session_json(new.session),
            listed=new.listed,
        )
        if stored:  # for the first time: if there is an `old` one, it was purged meanwhile
            changed = list(new.invoices)
        if stored is not None and changed:
            queries.put_invoices(connection, **_columns(place, new.reference_number, changed))
        if stored is not None and gone:
            queries.drop_invoices(connection, **where, reference_numbers=list(gone))


def upo_link(
    parts: Parts, place: Place, reference_number: str, name: str, now: datetime
) -> str | None:
    """A stored download link, if it is still valid at `now`, else None.

    `name`: an invoice's KSeF number, or the reference number of a page of the session's UPO.
    """
    url, valid_until = _kept_links(parts, place, reference_number).get(name, ("", ""))
    return url if url and datetime.fromisoformat(valid_until) > now else None


def freshness(parts: Parts, snapshot: Snapshot, used_share: float) -> float:
    """For how many seconds an answer that is not final counts as fresh.

    A quarter of the time for which nothing has changed, within bounds; up to seven times as much
    once more than half of the hour's quota is used (`used_share` is from 0 to 1).
    """
    timing = parts.timing
    window = min(timing.fresh_most, max(timing.fresh_least, snapshot.unchanged_for / 4))
    if snapshot.session.status.is_final:  # but its list does not fit
        window = max(window, patience(parts, snapshot))
    return window * stretched(used_share)


def stretched(used_share: float) -> float:
    """The factor by which intervals grow as quota is used: 1 up to half of it, 7 at all of it."""
    return 1 + 12 * max(0.0, used_share - 0.5)


def patience(parts: Parts, snapshot: Snapshot) -> float:
    """Seconds between two attempts at a final session whose list does not fit its counts."""
    timing = parts.timing
    return min(timing.unfit_most, max(timing.relist, snapshot.unchanged_for / 4))


def wait_for_next(fresh_for: float, snapshot: Snapshot) -> int:
    """Whole seconds, at least 1, until the snapshot is no longer fresh."""
    return max(1, math.ceil(fresh_for - snapshot.asked_ago))


def _same(new: SessionInvoice, old: SessionInvoice | None) -> bool:
    return old is not None and _row(new) == _row(old)


def _row(invoice: SessionInvoice) -> tuple[Any, ...]:
    return (
        invoice.ordinal_number,
        invoice.invoice_number,
        invoice.ksef_number,
        invoice.acquisition_date,
        wire.status_json(invoice.status, invoice.duplicate_of),
    )


def _columns(
    place: Place, reference_number: str, invoices: Sequence[SessionInvoice]
) -> dict[str, Any]:
    ordinals, numbers, ksef_numbers, dates, statuses = zip(*map(_row, invoices), strict=True)
    return {
        **place.columns,
        "session_reference_number": reference_number,
        "reference_numbers": [invoice.reference_number for invoice in invoices],
        "ordinal_numbers": list(ordinals),
        "invoice_numbers": list(numbers),
        "ksef_numbers": list(ksef_numbers),
        "acquisition_dates": list(dates),
        "statuses": [orjson.dumps(status).decode() for status in statuses],
    }


def kept_invoice(row: Any) -> SessionInvoice:
    """An invoice from its row in `kept_invoices`."""
    status, duplicate_of = wire.invoice_status(row.status)
    return SessionInvoice(
        ordinal_number=row.ordinal_number,
        reference_number=row.reference_number,
        invoice_number=row.invoice_number,
        ksef_number=row.ksef_number,
        acquisition_date=row.acquisition_date,
        status=status,
        duplicate_of=duplicate_of,
    )


def _kept_invoice(
    ordinal_number: int,
    reference_number: str,
    invoice_number: str | None,
    ksef_number: str | None,
    acquisition_date: str | None,
    status_json: dict[str, Any],
) -> SessionInvoice:
    """The same from a row in JSON, as `get_session` returns up to 10,000 of them."""
    status, duplicate_of = wire.invoice_status(status_json)
    return SessionInvoice(
        ordinal_number=ordinal_number,
        reference_number=reference_number,
        invoice_number=invoice_number,
        ksef_number=ksef_number,
        acquisition_date=datetime.fromisoformat(acquisition_date) if acquisition_date else None,
        status=status,
        duplicate_of=duplicate_of,
    )


def _kept_links(parts: Parts, place: Place, reference_number: str) -> dict[str, tuple[str, str]]:
    """(URL, end of its validity in ISO 8601) by KSeF number or page reference number."""
    sealed = parts.db.run(queries.get_links, **_where(place, reference_number))
    if sealed is None:
        return {}
    try:
        links = parts.vault.open(
            sealed,
            **place.columns,
            purpose=_LINKS,
        )
    except SealError as error:
        telemetry.warning("stored download links cannot be opened", reason=str(error))
        return {}
    found: dict[str, tuple[str, str]] = orjson.loads(links)
    return found


def _sealed(parts: Parts, place: Place, links: Mapping[str, tuple[str, str]]) -> bytes | None:
    """All links as one sealed value; None if there are none."""
    if not links:
        return None
    return parts.vault.seal(
        orjson.dumps(links).decode(),
        **place.columns,
        purpose=_LINKS,
    )


def _links(snapshot: Snapshot) -> Mapping[str, tuple[str, str]]:
    named: list[tuple[str | None, Link | None]] = [
        *((invoice.ksef_number, invoice.upo_link) for invoice in snapshot.invoices),
        *((page.reference_number, page.link) for page in snapshot.session.upo_pages),
    ]
    return {name: (link.url, link.valid_until.isoformat()) for name, link in named if name and link}


def _where(place: Place, reference_number: str) -> dict[str, str]:
    return {
        **place.columns,
        "reference_number": reference_number,
    }
