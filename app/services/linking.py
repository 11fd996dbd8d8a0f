"""The session reference sync: the company's rows learn in which KSeF session they went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app import meters, telemetry
from app.db.queries import linking as queries
from app.ksef.wire import SessionInvoice
from app.services.parts import Parts, Place


@dataclass(frozen=True, slots=True)
class Linked:
    """How many rows were written; 0 of both where everything was linked before."""

    synced: int
    offline: int


def link(
    parts: Parts, place: Place, reference_number: str, invoices: Sequence[SessionInvoice]
) -> Linked:
    """Write the session into the company's rows of these invoices, and commit.

    `synced_invoices` by KSeF number: an accepted invoice gets this session; the original of a
    duplicate (440) gets its own session, where it has none. `offline_invoices` by reference, the
    session's or the invoice's own. A second time writes nothing; nothing is ever cleared.
    """
    accepted = {invoice.ksef_number for invoice in invoices if invoice.is_accepted}
    duplicates = {
        original.ksef_number: original.session_reference_number
        for invoice in invoices
        if (original := invoice.duplicate_of) and original.ksef_number not in accepted
    }
    found = {
        **place.columns,
        "session_reference_number": reference_number,
    }
    by_number: dict[str, Any] = {
        "ksef_numbers": [*accepted, *duplicates],
        "duplicates": orjson.dumps(duplicates).decode(),
    }
    by_reference = {
        "reference_numbers": [reference_number, *(i.reference_number for i in invoices)]
    }
    with parts.db.transaction() as connection:
        if not queries.unlinked(connection, **found, **by_number, **by_reference):
            return Linked(0, 0)
        synced = list(queries.lock_synced(connection, **found, **by_number))
        if synced:
            by_number["ksef_numbers"] = [row.ksef_number for row in synced]
            queries.link_synced(connection, **found, **by_number)
        offline = list(queries.lock_offline(connection, **found, **by_reference))
        if offline:
            queries.link_offline(connection, **found, ids=[row.id for row in offline])
    _report(place, reference_number, synced, offline)
    return Linked(len(synced), len(offline))


def _report(place: Place, reference_number: str, *changed: Sequence[Any]) -> None:
    telemetry.info(
        "linked",
        **place.log_fields,
        session=reference_number,
        rows=sum(map(len, changed)),
    )
    for table, rows in zip(("synced_invoices", "offline_invoices"), changed, strict=True):
        meters.linked_rows.labels(place.environment, table).inc(len(rows))
    for row in (row for rows in changed for row in rows if row.previous is not None):
        telemetry.warning(
            "a row was linked to another session before",
            **place.log_fields,
            session=reference_number,
            previous=row.previous,
        )
