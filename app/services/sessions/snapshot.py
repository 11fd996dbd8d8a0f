"""A snapshot: what KSeF said of a session at one moment, and for how long it may be given again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from app.ksef.wire import SUCCESS, Session
from app.ksef.wire import Invoice as Invoice
from app.ksef.wire import Original as Original
from app.ksef.wire import Status as Status
from app.settings import Timing

_UNKNOWN_ERROR = 500
_MAY_END_WELL = 24 * 3600.0  # seconds
_OPEN = 100  # a session that takes invoices: batches stand at it until they are uploaded


@dataclass(frozen=True)
class Snapshot:
    """A session with its counts and invoices, all of the same moment.

    `checked_at`: when KSeF gave this answer; `listed`: the invoices come from a list; `asked_at`:
    when KSeF was last asked, None for an answer that was not loaded.
    Seconds when it was loaded: `age` since `checked_at`, `asked_ago` since KSeF was last asked
    (maybe in vain), `unchanged_for` since anything in it changed, `listed_for` since the last list
    (None: never listed), `wanted_ago` since a caller asked for it (noted only now and then).
    `incomplete`: version 0.1.0 kept some of the invoices, and dropped what they are sent with now.
    `next_check_after`: seconds until asking again is worthwhile; None if nothing will change.
    """

    reference_number: str
    session: Session
    invoices: Sequence[Invoice]
    checked_at: datetime
    listed: bool
    asked_at: datetime | None = None
    age: float = 0.0
    asked_ago: float = 0.0
    unchanged_for: float = 0.0
    listed_for: float | None = None
    wanted_ago: float = 0.0
    incomplete: bool = False
    next_check_after: int | None = None

    @cached_property
    def final(self) -> bool:
        """Whether nothing in it will change: its code is final, and counts and list agree.

        KSeF's "unknown error" has been seen to end well; it is final after a day without a change.
        """
        if self.session.status.code == _UNKNOWN_ERROR and self.unchanged_for < _MAY_END_WELL:
            return False
        return self.session.status.is_final and self.fits

    @property
    def open_until(self) -> datetime | None:
        """When KSeF closes the session by itself; None unless it is open."""
        return self.session.valid_until if self.session.status.code == _OPEN else None

    @cached_property
    def fits(self) -> bool:
        """Whether the list agrees with the counts, as far as a session in this state has them."""
        if len(self.invoices) != self.session.invoice_count:
            return False
        if not self.session.status.is_final:
            return True
        if self.session.status.code == SUCCESS and not self.invoices:
            return False  # counts that are missing or behind, and a list that is: it has invoices
        return self.accepted == self.session.successful_invoice_count and not self.moving

    @cached_property
    def accepted(self) -> int:
        """How many of the invoices KSeF accepted."""
        return [invoice.status.code for invoice in self.invoices].count(SUCCESS)

    @cached_property
    def accepted_numbers(self) -> frozenset[str | None]:
        """The KSeF numbers of the invoices that KSeF accepted."""
        return frozenset(one.ksef_number for one in self.invoices if one.is_accepted)

    @cached_property
    def moving(self) -> list[Invoice]:
        """The invoices that KSeF still works on."""
        return [invoice for invoice in self.invoices if invoice.status.code < SUCCESS]

    def original_of(self, invoice: Invoice) -> Original | None:
        """The original that one of its invoices repeats."""
        original = invoice.duplicate_of
        is_held = original is not None and original.ksef_number in self.accepted_numbers
        return original_of(invoice, self.reference_number, is_held=is_held)

    def fresh_for(self, timing: Timing, used_share: float) -> float:
        """For how many seconds after asking KSeF it counts as fresh, if it is not final.

        A quarter of the time for which nothing has changed, within bounds; up to seven times as
        much once more than half of the hour's quota is used (`used_share` is from 0 to 1).
        """
        window = min(timing.fresh_most, max(timing.fresh_least, self.unchanged_for / 4))
        if self.session.status.is_final:  # but its list does not fit
            window = max(window, self.patience(timing))
        return window * stretched(used_share)

    def patience(self, timing: Timing) -> float:
        """Seconds between two attempts at a final session whose list does not fit its counts."""
        return min(timing.unfit_most, max(timing.relist, self.unchanged_for / 4))

    def with_next_check(self, fresh_for: float) -> "Snapshot":
        """The same, with `next_check_after`: whole seconds, at least 1, until it is not fresh."""
        return replace(self, next_check_after=max(1, math.ceil(fresh_for - self.asked_ago)))


def original_of(invoice: Invoice, session: str, *, is_held: bool) -> Original | None:
    """The original of a duplicate in a session. `is_held`: this session holds it, as accepted.

    KSeF at times names the duplicate's own session, although that does not hold the number.
    """
    original = invoice.duplicate_of
    if original and original.session_reference_number == session and not is_held:
        return Original(original.ksef_number, None)
    return original


def stretched(used_share: float) -> float:
    """The factor by which intervals grow as quota is used: 1 up to half of it, 7 at all of it."""
    return 1 + 12 * max(0.0, used_share - 0.5)
