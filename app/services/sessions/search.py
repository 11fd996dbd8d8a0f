"""What is known of one invoice, by its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.account import Account
from app.db.queries import search as queries
from app.ksef import wire
from app.ksef.wire import Invoice, Original
from app.services.sessions.snapshot import original_of


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """An invoice in a kept answer, and the original that it repeats."""

    invoice: Invoice
    original: Original | None
    session_reference_number: str
    final: bool
    checked_at: datetime
    upo_archived: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The company's rows and the kept answers for an invoice, at most a hundred of each.

    A row has kind (synced or offline), invoice_number, ksef_number, ksef_reference_number,
    session_reference_number and linked_at.
    """

    rows: Sequence[Any]
    answers: Sequence[FoundAnswer]


def find(account: Account, *, ksef_number: str | None, invoice_number: str | None) -> Found:
    """What is known of an invoice by one of its numbers; the other is None. KSeF is not asked."""
    wanted = {**account.columns, "ksef_number": ksef_number, "invoice_number": invoice_number}
    with account.db.transaction() as connection:
        rows = list(queries.find_rows(connection, **wanted))
        answers = [_answer(row) for row in queries.find_invoices(connection, **wanted)]
    return Found(rows, answers)


def session_of(account: Account, ksef_number: str) -> str | None:
    """The session that holds an accepted invoice, as far as it is known."""
    found: str | None = account.db.run(
        queries.session_of, **account.columns, ksef_number=ksef_number
    )
    return found


def _answer(row: Any) -> FoundAnswer:
    invoice = wire.decode(Invoice, row.told)
    return FoundAnswer(
        invoice,
        original_of(invoice, row.session_reference_number, is_held=row.is_held),
        row.session_reference_number,
        row.final,
        row.checked_at,
        row.upo_archived,
    )
