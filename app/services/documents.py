"""What is kept of KSeF's answers, and how it goes: by age, or with its company.

Documents are the kept answers and the archived UPOs. Links in the company's own rows are none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app.db.queries import documents as queries
from app.services import audit, snapshots
from app.services.parts import Parts

_ANSWERS = 20  # an answer may hold 10,000 invoices, and a statement has 3 s
_UPOS = 500
_FIRST_ANSWER = {"nip": "", "environment": "test", "reference_number": ""}
_FIRST_UPO = {**_FIRST_ANSWER, "ksef_number": "", "page": ""}


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many of each were deleted."""

    answers: int
    upos: int


def purge(parts: Parts, days: int) -> Deleted:
    """Delete documents that KSeF gave more than so many days ago.

    In small transactions, beside live traffic; may be broken off and begun again. Whoever asks
    for one after that is answered by KSeF, as for the first time.
    """
    with parts.db.transaction() as connection:  # ahead: it may be broken off
        audit.note(connection, audit.What.DOCUMENTS_PURGED, detail=f"older than {days} days")
    return delete(parts, before=snapshots.database_now(parts) - timedelta(days=days))


def delete(
    parts: Parts, *, company_nip: str | None = None, before: datetime | None = None
) -> Deleted:
    """Delete documents of one company, or of all; those older than `before`, or any."""
    which = {"only": company_nip, "before": before}
    return Deleted(
        _walk(parts, queries.delete_answers, _FIRST_ANSWER, batch=_ANSWERS, **which),
        _walk(parts, queries.delete_upos, _FIRST_UPO, batch=_UPOS, **which),
    )


def _walk(parts: Parts, query: Callable[..., Any], first: dict[str, str], **which: Any) -> int:
    """Call the query from the first key on until none is left; how many it deleted."""
    total, key = 0, first
    while True:
        row = parts.db.run(query, **key, **which)
        if row is None:
            return total
        total += row.deleted
        key = {name: getattr(row, name) for name in first}
