"""Deletes documents, which are kept answers and archived UPOs: by age, or with their company.

The links in the company's own invoice rows are no documents, and stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.db.pool import Database
from app.db.queries import purge as queries
from app.services.operators import audit

# How many a statement deletes, which has 3 s: an answer may hold 10,000 invoices.
_ANSWERS = 20
_UPOS = 500
_LINKS = 500
_FIRST_ANSWER = {"nip": "", "environment": "test", "reference_number": ""}
_FIRST_UPO = {**_FIRST_ANSWER, "ksef_number": "", "page": ""}


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many of each were deleted."""

    answers: int
    upos: int


def purge(db: Database, days: int) -> Deleted:
    """Delete documents that are older than so many days, counted from when KSeF gave them.

    In small transactions, beside live traffic; can be interrupted and run again. If somebody asks
    for a deleted one later, KSeF is asked as for the first time.
    """
    before = db.now() - timedelta(days=days)
    with db.transaction() as connection:  # first, since the rest may be interrupted
        queries.forget_known(connection, before=before)
        audit.note(connection, audit.What.DOCUMENTS_PURGED, detail=f"older than {days} days")
    return delete(db, before=before)


def forget_links(db: Database, *, newest_key_id: bytes | None = None) -> int:
    """Delete expired download links, half a kilobyte for each invoice. Returns of how many answers.

    They are secrets of no further use: a UPO comes from the archive or from KSeF's API. With
    `newest_key_id`: those that are sealed with another key, instead.
    """
    which = {"newest_key_id": newest_key_id}
    return _walk(db, queries.forget_links, _FIRST_ANSWER, batch=_LINKS, **which)


def delete(
    db: Database, *, company_nip: str | None = None, before: datetime | None = None
) -> Deleted:
    """Delete the documents of one company, or of all; those older than `before`, or all."""
    which = {"only": company_nip, "before": before}
    return Deleted(
        _walk(db, queries.delete_answers, _FIRST_ANSWER, batch=_ANSWERS, **which),
        _walk(db, queries.delete_upos, _FIRST_UPO, batch=_UPOS, **which),
    )


def _walk(db: Database, query: Callable[..., Any], first: dict[str, str], **which: Any) -> int:
    """Run a deleting query, from the first key to the last. Returns how many it deleted.

    The query deletes a batch after `key` and returns its last key, or no row when it is done.
    """
    total, key = 0, first
    while True:
        row = db.run(query, **key, **which)
        if row is None:
            return total
        total += row.deleted
        key = {name: getattr(row, name) for name in first}
