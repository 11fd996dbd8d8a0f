"""What is known of one invoice, by its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.account import Account
from app.db.queries import search as queries
from app.ksef import wire
from app.ksef.wire import Invoice


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """An invoice in a kept answer."""

    invoice: Invoice
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
        answers = [
            FoundAnswer(
                wire.decode(Invoice, row.told),
                row.session_reference_number,
                row.final,
                row.checked_at,
                row.upo_archived,
            )
            for row in queries.find_invoices(connection, **wanted)
        ]
    return Found(rows, answers)
