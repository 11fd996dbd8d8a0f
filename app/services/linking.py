"""The session reference sync: the company's rows learn in which KSeF session they went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app import telemetry
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
    where = {**place.columns, "session_reference_number": reference_number}
    originals = orjson.dumps(duplicates).decode()
    numbers = [*accepted, *duplicates]
    references = [reference_number, *(invoice.reference_number for invoice in invoices)]
    with parts.db.transaction() as connection:
        synced = list(
            queries.lock_synced(connection, **where, ksef_numbers=numbers, duplicates=originals)
        )
        if synced:
            queries.link_synced(connection, **where, places=_places(synced), duplicates=originals)
        offline = list(queries.lock_offline(connection, **where, reference_numbers=references))
        if offline:
            queries.link_offline(connection, **where, places=_places(offline))
    _report(place, reference_number, [*synced, *offline])
    return Linked(len(synced), len(offline))


def _places(rows: Sequence[Any]) -> list[str]:
    return [row.place for row in rows]


def _report(place: Place, reference_number: str, linked: Sequence[Any]) -> None:
    if linked:
        telemetry.info("linked", **place.log_fields, session=reference_number, rows=len(linked))
    for row in linked:
        if row.previous is not None:
            telemetry.warning(
                "a row was linked to another session before",
                **place.log_fields,
                session=reference_number,
                previous=row.previous,
            )
