"""What is known of one invoice, by its numbers or by the hash of its file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from app.account import Account
from app.clock import WARSAW
from app.db.queries import follow as follow_queries
from app.db.queries import search as queries
from app.ksef import wire
from app.ksef.client import SESSION_TYPES
from app.ksef.wire import DUPLICATE, Invoice, Original
from app.services.sessions.snapshot import original_of

State = Literal["accepted", "rejected", "duplicate", "processing", "not_arrived", "unknown"]
_BATCH = SESSION_TYPES["Batch"]
_LONGEST_SESSION = timedelta(days=7)
"""An online session is open for 12 hours, a batch for as long as it is worked on."""
_LATEST_SESSION = timedelta(hours=1)
"""What was begun later after the time of sending is another sending."""


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """An invoice in a kept answer, and the original that it repeats.

    `taken_by`: when KSeF had taken it at the latest. In a batch `invoicing_date` is the opening of
    the session, and the parts come later.
    """

    invoice: Invoice
    original: Original | None
    session_reference_number: str
    final: bool
    checked_at: datetime
    taken_by: datetime | None
    upo_archived: bool


@dataclass(frozen=True, slots=True)
class Found:
    """The company's rows and the kept answers for an invoice, at most a hundred of each.

    A row has kind (synced or offline), invoice_number, ksef_number, ksef_reference_number,
    invoice_hash, session_reference_number and linked_at. `state`: None unless it was looked for by
    its hash. `because_of`: a session or an invoice for which the state is unknown, if it is.
    `known_since`, `known_until`: every session that KSeF lists between them is kept; None: unknown.
    """

    rows: Sequence[Any]
    answers: Sequence[FoundAnswer]
    state: State | None
    because_of: str | None
    known_since: datetime | None
    known_until: datetime | None


def find(
    account: Account,
    *,
    ksef_number: str | None = None,
    invoice_number: str | None = None,
    invoice_hash: str | None = None,
    sent_at: datetime | None = None,
) -> Found:
    """What is known of an invoice by one of its names, the others being None. KSeF is not asked.

    With its hash, `sent_at` is the moment at which the caller began to send it, by its own clock.
    """
    wanted = {
        **account.columns,
        "ksef_number": ksef_number,
        "invoice_number": invoice_number,
        "invoice_hash": invoice_hash,
    }
    # Looked at before the answers: what has ended by then is among them.
    known = known_sessions(account)
    settled, because_of = _settled(account, sent_at, known)
    with account.db.transaction() as connection:
        rows = list(queries.find_rows(connection, **wanted))
        answers = [_answer(row) for row in queries.find_invoices(connection, **wanted)]
    # And after them: what was purged meanwhile is not.
    if settled:
        settled, because_of = _settled(account, sent_at, known_sessions(account))
    state = _state(account, answers, sent_at, settled=settled) if invoice_hash else None
    return Found(
        rows,
        answers,
        state,
        because_of=because_of if state == "unknown" else None,
        known_since=known.known_since if known else None,
        known_until=known.known_until if known else None,
    )


def _state(
    account: Account, answers: Sequence[FoundAnswer], sent_at: datetime | None, *, settled: bool
) -> State:
    """What became of the file. "not_arrived" must never be wrong: the caller will send it again."""
    best = _best(answer.invoice for answer in answers)
    if best == "rejected" and sent_at is not None:
        delay = timedelta(seconds=account.timing.arrival)
        dates = [answer.taken_by for answer in answers]
        if all(date is not None and sent_at - date > delay for date in dates):
            best = None  # refused before, and sent once more: only that counts
    return best or ("not_arrived" if settled else "unknown")


def _best(invoices: Iterable[Invoice]) -> State | None:
    """The state of a file that may have been sent more than once; None if it never was."""
    states = {_state_of(invoice) for invoice in invoices}
    ordered: tuple[State, ...] = ("accepted", "processing", "duplicate", "rejected")
    return next((state for state in ordered if state in states), None)


def _state_of(invoice: Invoice) -> State:
    if invoice.is_accepted:
        return "accepted"
    if not invoice.status.is_final:
        return "processing"
    return "duplicate" if invoice.status.code == DUPLICATE else "rejected"


def _settled(account: Account, sent_at: datetime | None, known: Any) -> tuple[bool, str | None]:
    """Whether the kept answers hold every invoice that KSeF took then; if not, what it is due to:
    a session or an invoice, or None where that time is not known at all.
    """
    delay = timedelta(seconds=account.timing.arrival)  # also what the two clocks may differ by
    # (Differences, since a time at the end of the calendar has nothing beyond it.)
    if sent_at is None or known is None or known.known_until is None:
        return False, None
    if sent_at - known.known_since <= delay or known.known_until - sent_at <= delay:
        return False, None
    first_day = (sent_at - _LONGEST_SESSION).astimezone(WARSAW).strftime("%Y%m%d")
    last = sent_at + delay + _LATEST_SESSION
    because_of: str | None = account.db.run(
        queries.unsettled_by, **account.columns, first_day=first_day, last=last
    )
    return because_of is None, because_of


def known_sessions(account: Account) -> Any:
    """Of what time the company's sessions are known without asking; see `events.follow`.

    None if it was never followed. Each session in which anything happened between `known_since` and
    `known_until` is kept, with all invoices that it had then. `known_until` is None while that is
    true of no moment.
    """
    return account.db.run(follow_queries.get, **account.columns)


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
        row.session_updated if _BATCH in row.session_reference_number else invoice.invoicing_date,
        row.upo_archived,
    )
