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
    """What to link to a session: `synced_invoices` by KSeF number, `offline_invoices` by reference.

    `duplicates`: {original KSeF number: its session}, also among `ksef_numbers`. With
    `invoice_numbers`, only offline rows with these.
    """

    session: str
    ksef_numbers: Sequence[str | None]
    duplicates: Mapping[str, str | None]
    references: Sequence[str]
    invoice_numbers: Sequence[str] | None = None


_Part = tuple[list[str], list[tuple[str, str]], _Work]
"""KSeF numbers, offline rows as (reference, invoice number), and the work that has only these."""


def link(account: Account, reference_number: str, invoices: Sequence[Invoice]) -> Linked:
    """Write the session into the company's rows of these invoices, and commit.

    `synced_invoices` by KSeF number: an accepted invoice gets this session; the original of a
    duplicate (440) gets its own session, where it has none and KSeF names another than this one.
    `offline_invoices` by reference, the session's or the invoice's own. A second time writes
    nothing; nothing is ever cleared. Rows that a rule of the ERP keeps from being changed are left.
    """
    accepted = {invoice.ksef_number for invoice in invoices if invoice.is_accepted}
    duplicates = {
        original.ksef_number: original.session_reference_number
        for original in (invoice.duplicate_of for invoice in invoices)
        if original
        and original.session_reference_number not in (None, reference_number)
        and original.ksef_number not in accepted
    }
    references = [reference_number, *(i.reference_number for i in invoices)]
    work = _Work(reference_number, [*accepted, *duplicates], duplicates, references)
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
    where = {**account.columns, "session_reference_number": work.session}
    with account.db.transaction(opening=queries.keep_order) as connection:
        synced = _all(
            queries.link_synced,
            connection,
            **where,
            ksef_numbers=work.ksef_numbers,
            duplicates=msgspec.json.encode(work.duplicates).decode(),
        )
        offline = _all(
            queries.link_offline,
            connection,
            **where,
            reference_numbers=work.references,
            invoice_numbers=work.invoice_numbers,
        )
    return synced, offline


def _around_vetoes(account: Account, work: _Work) -> tuple[_Before, _Before]:
    """Link all rows but those that are vetoed, which are found by halving what is refused.

    After _MOST_VETOES in a table it gives up the rest of that table: then the rule is no matter of
    single rows.
    """
    where = {**account.columns, "session_reference_number": work.session}
    rows = account.db.rows(queries.unlinked_offline, **where, reference_numbers=work.references)
    pairs = [(row.ksef_reference_number, row.invoice_number) for row in rows]
    synced, _ = _halved(account, _part(work, sorted(map(str, work.ksef_numbers)), []))
    _, offline = _halved(account, _part(work, [], pairs))
    return synced, offline


def _halved(account: Account, whole: _Part) -> tuple[_Before, _Before]:
    """Link the rows of one table but those that are vetoed."""
    synced, offline = _Before(), _Before()
    left = [whole]
    vetoes = 0
    while left and vetoes < _MOST_VETOES:
        numbers, pairs, work = left.pop()
        try:
            more = _linked(account, work)
        except errors.Vetoed:
            half = max(len(numbers), len(pairs)) // 2
            if half:
                left.append(_part(work, numbers[half:], pairs[half:]))
                left.append(_part(work, numbers[:half], pairs[:half]))
            else:
                vetoes += 1
                _report_veto(account, work.session, numbers, pairs)
        else:
            synced, offline = synced + more[0], offline + more[1]
    if left:
        telemetry.warning(
            "rows were left unlinked: too many of them are vetoed",
            **account.log_fields,
            session=whole[2].session,
        )
    return synced, offline


def _part(work: _Work, numbers: list[str], pairs: list[tuple[str, str]]) -> _Part:
    """Of the work only these KSeF numbers, and offline rows (reference, invoice number)."""
    part = replace(
        work,
        ksef_numbers=numbers,
        references=[reference for reference, _ in pairs],
        invoice_numbers=[number for _, number in pairs],
    )
    return numbers, pairs, part


def _report_veto(
    account: Account, session: str, numbers: list[str], pairs: list[tuple[str, str]]
) -> None:
    table = "synced_invoices" if numbers else "offline_invoices"
    meters.vetoed_rows.labels(account.environment, table).inc()
    row = numbers[0] if numbers else " ".join(pairs[0])
    telemetry.warning(
        "a row was left unlinked: a rule in the database refuses to change it",
        **account.log_fields,
        session=session,
        table=table,
        row=row,
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
