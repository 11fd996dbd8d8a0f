"""The session reference sync: the company's rows learn in which KSeF session they went."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app import errors, meters, telemetry
from app.account import Account
from app.db.pool import Connection, retried
from app.db.queries import linking as queries
from app.ksef.wire import Invoice


@dataclass(frozen=True, slots=True)
class Linked:
    """How many rows were written; 0 of both where everything was linked before."""

    synced: int
    offline: int


@retried
def link(account: Account, reference_number: str, invoices: Sequence[Invoice]) -> Linked:
    """Write the session into the company's rows of these invoices, and commit.

    `synced_invoices` by KSeF number: an accepted invoice gets this session; the original of a
    duplicate (440) gets its own session, where it has none. `offline_invoices` by reference, the
    session's or the invoice's own. A second time writes nothing; nothing is ever cleared.
    """
    accepted = {invoice.ksef_number for invoice in invoices if invoice.is_accepted}
    duplicates = {
        original.ksef_number: original.session_reference_number
        for original in (invoice.duplicate_of for invoice in invoices)
        if original and original.ksef_number not in accepted
    }
    where = {**account.columns, "session_reference_number": reference_number}
    with account.db.transaction(opening=queries.keep_order) as connection:
        synced = _all(
            queries.link_synced,
            connection,
            **where,
            ksef_numbers=[*accepted, *duplicates],
            duplicates=msgspec.json.encode(duplicates).decode(),
        )
        offline = _all(
            queries.link_offline,
            connection,
            **where,
            reference_numbers=[reference_number, *(i.reference_number for i in invoices)],
        )
    linked = Linked(synced.total(), offline.total())
    meters.linked_rows.labels(account.environment, "synced_invoices").inc(linked.synced)
    meters.linked_rows.labels(account.environment, "offline_invoices").inc(linked.offline)
    _report(account, reference_number, synced + offline)
    return linked


def _all(link: Callable[..., Any], connection: Connection, **values: Any) -> Counter[str | None]:
    """Link every row that the statement finds; how many held which session before (None: none).

    Raises BrokenOff where rows are found and none of them can be written.
    """
    before: Counter[str | None] = Counter()
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


def _report(account: Account, reference_number: str, before: Counter[str | None]) -> None:
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
