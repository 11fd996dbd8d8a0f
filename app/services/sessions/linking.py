"""The session reference sync: the company's rows learn in which KSeF session they went."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from app import errors, meters, telemetry
from app.account import Account
from app.db.pool import Connection, retried
from app.db.queries import linking as queries
from app.ksef.wire import Invoice

_Before = Counter[str | None]
"""How many rows held which session before; None: none."""
_MOST_VETOES = 50


@dataclass(frozen=True, slots=True)
class Linked:
    """How many rows were written; 0 of both where everything was linked before."""

    synced: int
    offline: int


@dataclass(frozen=True, slots=True)
class _Work:
    """What to link to a session: `synced_invoices` by KSeF number, `offline_invoices` by reference
    or, those without one, by hash.

    `duplicates`: {original KSeF number: its session}, also among `ksef_numbers`. `hashed`: for each
    hash the KSeF number of the invoice, if it was accepted. With `invoice_numbers`, only offline
    rows with these.
    """

    session: str
    ksef_numbers: Sequence[str | None]
    duplicates: Mapping[str, str | None]
    references: Sequence[str | None]
    hashes: Sequence[str | None]
    hashed: Sequence[str | None]
    invoice_numbers: Sequence[str] | None = None

    @property
    def by_name(self) -> dict[str, Any]:
        """The parameters by which offline rows are found."""
        return {
            "session_reference_number": self.session,
            "reference_numbers": self.references,
            "invoice_hashes": self.hashes,
            "hashed_numbers": self.hashed,
        }


def link(account: Account, reference_number: str, invoices: Sequence[Invoice]) -> Linked:
    """Write the session into the company's rows of these invoices, and commit.

    `synced_invoices` by KSeF number: an accepted invoice gets this session; the original of a
    duplicate (440) gets its own session, where it has none and KSeF names another than this one.
    `offline_invoices` by reference, the session's or the invoice's own; without one by the hash of
    the file: an invoice that was not accepted only fills what is empty. A second time writes
    nothing; nothing is ever cleared. Rows that a rule of the ERP keeps from being changed are left.
    """
    accepted = [invoice for invoice in invoices if invoice.is_accepted]
    others = [invoice for invoice in invoices if not invoice.is_accepted]
    ksef_numbers = {invoice.ksef_number for invoice in accepted}
    duplicates = {
        original.ksef_number: original.session_reference_number
        for original in (invoice.duplicate_of for invoice in others)
        if original
        and original.session_reference_number not in (None, reference_number)
        and original.ksef_number not in ksef_numbers
    }
    references = [reference_number, *(i.reference_number for i in invoices)]
    # Accepted ones last: the same file may have been sent twice in a session.
    hashed = dict.fromkeys(invoice.invoice_hash for invoice in others)
    hashed |= {invoice.invoice_hash: invoice.ksef_number for invoice in accepted}
    hashed.pop(None, None)
    work = _Work(
        reference_number,
        [*ksef_numbers, *duplicates],
        duplicates,
        references,
        [*hashed],
        [*hashed.values()],
    )
    try:
        synced, offline = _linked(account, work)
    except errors.Vetoed:
        synced, offline = _around_vetoes(account, work)
    linked = Linked(synced.total(), offline.total())
    meters.linked_rows.labels(account.environment, "synced_invoices").inc(linked.synced)
    meters.linked_rows.labels(account.environment, "offline_invoices").inc(linked.offline)
    _report(account, reference_number, synced + offline)
    return linked


@retried
def _linked(account: Account, work: _Work) -> tuple[_Before, _Before]:
    """Link all of it in one transaction: which sessions the rows of both tables held before."""
    with account.db.transaction(opening=queries.keep_order) as connection:
        synced = _all(
            queries.link_synced,
            connection,
            **account.columns,
            session_reference_number=work.session,
            ksef_numbers=work.ksef_numbers,
            duplicates=msgspec.json.encode(work.duplicates).decode(),
        )
        offline = _all(
            queries.link_offline,
            connection,
            **account.columns,
            **work.by_name,
            invoice_numbers=work.invoice_numbers,
        )
    return synced, offline


def _around_vetoes(account: Account, work: _Work) -> tuple[_Before, _Before]:
    """Link all rows but those that are vetoed, which are found by halving what is refused.

    After _MOST_VETOES in a table it gives up the rest of that table: then the rule is no matter of
    single rows.
    """
    rows = account.db.rows(queries.unlinked_offline, **account.columns, **work.by_name)
    nothing = replace(
        work, ksef_numbers=[], references=[], hashes=[], hashed=[], invoice_numbers=[]
    )
    numbers = sorted(map(str, work.ksef_numbers))
    synced, _ = _halved(account, replace(nothing, ksef_numbers=numbers))
    hashed = dict(zip(work.hashes, work.hashed, strict=True))
    named = replace(
        nothing,
        references=[row.ksef_reference_number for row in rows],
        hashes=[row.invoice_hash for row in rows],
        hashed=[hashed.get(row.invoice_hash) for row in rows],
        invoice_numbers=[row.invoice_number for row in rows],
    )
    _, offline = _halved(account, named)
    return synced, offline


def _halved(account: Account, whole: _Work) -> tuple[_Before, _Before]:
    """Link the rows of one table but those that are vetoed."""
    synced, offline = _Before(), _Before()
    left = [whole]
    vetoes = 0
    while left and vetoes < _MOST_VETOES:
        work = left.pop()
        try:
            more = _linked(account, work)
        except errors.Vetoed:
            half = max(len(work.ksef_numbers), len(work.references)) // 2
            if half:
                left += [_piece(work, slice(half, None)), _piece(work, slice(half))]
            else:
                vetoes += 1
                _report_veto(account, work)
        else:
            synced, offline = synced + more[0], offline + more[1]
    if left:
        telemetry.warning(
            "rows were left unlinked: too many of them are vetoed",
            **account.log_fields,
            session=whole.session,
        )
    return synced, offline


def _piece(work: _Work, rows: slice) -> _Work:
    """Only these of the rows; offline ones are named by reference or hash, and invoice number."""
    return replace(
        work,
        ksef_numbers=work.ksef_numbers[rows],
        references=work.references[rows],
        hashes=work.hashes[rows],
        hashed=work.hashed[rows],
        invoice_numbers=(work.invoice_numbers or [])[rows],
    )


def _report_veto(account: Account, work: _Work) -> None:
    """Count and log the one row that is left of the work."""
    table = "synced_invoices" if work.ksef_numbers else "offline_invoices"
    meters.vetoed_rows.labels(account.environment, table).inc()
    telemetry.warning(
        "a row was left unlinked: a rule in the database refuses to change it",
        **account.log_fields,
        session=work.session,
        table=table,
        row=" ".join(
            name
            for name in (
                *work.ksef_numbers,
                *work.references,
                *work.hashes,
                *(work.invoice_numbers or ()),
            )
            if name
        ),
    )


def _all(link: Callable[..., Any], connection: Connection, **values: Any) -> _Before:
    """Link every row that the statement finds; how many held which session before (None: none).

    Raises BrokenOff where rows are found and none of them can be written.
    """
    before: _Before = Counter()
    while True:
        row = link(connection, **values)
        replaced = row.replaced or []
        before.update(replaced)
        if unlinked := row.linked - len(replaced):
            before[None] += unlinked
        if row.linked == row.found:
            return before
        if row.linked == 0:
            raise errors.BrokenOff("Invoice rows were changed while they were linked.")


def _report(account: Account, reference_number: str, before: _Before) -> None:
    if before:
        telemetry.info(
            "linked", **account.log_fields, session=reference_number, rows=before.total()
        )
    for previous, rows in before.items():
        if previous is not None:
            telemetry.warning(
                "rows were linked to another session before",
                **account.log_fields,
                session=reference_number,
                previous=previous,
                rows=rows,
            )
