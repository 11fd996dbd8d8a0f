"""Asking KSeF about a session: what to ask next, and the calls."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from app import errors
from app.account import Account
from app.ksef import limits
from app.ksef.client import pages_of
from app.ksef.wire import Invoice, Session
from app.services.replicas import quota
from app.services.sessions import store
from app.services.sessions.snapshot import Snapshot, stretched
from app.settings import Timing

# Up to so many moving invoices are fetched one by one: the quota of lists is the smallest.
MOST_ONE_BY_ONE = 20


Act = Literal["keep", "none", "list", "single"]
"""What to do about the invoices of a session whose status was just asked for.

keep: the earlier answer is given whole, since a list has to wait · none: it has no invoices ·
list: all of them are listed · single: those that were moving are fetched one by one, maybe none.
"""


def plan(known: Snapshot | None, session: Session, timing: Timing, lists_used: float) -> Act:
    """What to ask after the status, with the earlier answer, if any.

    `lists_used` is how much of the hour's quota of lists is used, from 0 to 1.
    """
    counted = session.total is not None
    if session.invoice_count == 0 and (counted or not session.status.is_final):
        # KSeF leaves the counts out at times: that is no session without invoices.
        return "keep" if known and known.invoices and not counted else "none"
    if known is None or not known.listed:
        return "list"
    if session == known.session and session.status.is_final and known.fits and not known.incomplete:
        return "single"
    if _needs_list(known, session):
        ended = session.status.is_final and session.status.code != known.session.status.code
        waited = (known.listed_for or 0.0) >= _pause(known, session, timing, lists_used)
        return "list" if ended or waited else "keep"
    return "single"


def _needs_list(known: Snapshot, session: Session) -> bool:
    """Whether it would not do to fetch the moving invoices one by one."""
    return (
        known.session.status.is_final
        or known.incomplete
        or len(known.moving) > MOST_ONE_BY_ONE
        or session.invoice_count != len(known.invoices)
    )


def _pause(known: Snapshot, session: Session, timing: Timing, used: float) -> float:
    """Seconds between two lists, which grow with their pages as quota is used up.

    A session that grew is listed at once while hardly any quota is used. A final one whose list
    does not fit its counts may never fit: the longer that lasts, the longer the pause.
    """
    pages = max(1.0, pages_of(session.invoice_count) * min(1.0, 2 * used))
    pause = timing.relist * pages * stretched(used)
    if session.invoice_count != known.session.invoice_count:
        return pause * min(1.0, max(0.0, 2 * used - 0.2))
    if known.session.status.is_final:
        return max(pause, known.patience(timing))
    return pause


def ask(account: Account, reference_number: str, known: Snapshot | None) -> Snapshot:
    """A consistent snapshot: a new one, or `known` itself where the list has to wait.

    Raises SessionNotFound for a session that KSeF has never shown, KsefRateLimited and what a call
    to KSeF raises. Of a session that is known, it is stored when KSeF was asked, also where that
    was in vain: KSeF may say for a moment that it does not know it.
    """
    if known is None:  # a status is of no use if the list of invoices cannot follow
        account.ksef.require_session()
        account.calls.require(limits.INVOICE_LIST)
    try:
        session, checked_at = _status(account, reference_number)
    except errors.SessionNotFound:
        if known is None:
            raise
        _mark_asked(account, known, account.calls.turn_at)
        return known
    try:
        invoices, listed = _invoices(account, reference_number, known, session)
    except errors.KsefRateLimited:
        _mark_asked(account, known, checked_at)
        raise
    except errors.SessionNotFound as error:
        if known is None:
            raise errors.SessionLost.of(error, account.timing.retry_after) from error
        _mark_asked(account, known, checked_at)
        return known
    if invoices is None and known:
        _mark_asked(account, known, checked_at)
        return known
    snapshot = Snapshot(reference_number, session, invoices or [], checked_at, listed)
    if not session.status.is_final and not _agrees(snapshot, known):
        snapshot = _caught_up(account, snapshot)
    if snapshot.fits:
        return snapshot
    if known and not snapshot.session.status.is_final:
        _mark_asked(account, known, checked_at, listed=listed)
        return known
    return _listed_again(account, snapshot, known)


def _status(account: Account, reference_number: str) -> tuple[Session, datetime]:
    """KSeF's status of the session, and when KSeF was asked for it (not when we began to wait)."""
    session = account.ksef.session_status(reference_number)
    return session, account.calls.turn_at


def _invoices(
    account: Account, reference_number: str, known: Snapshot | None, session: Session
) -> tuple[Sequence[Invoice] | None, bool]:
    """The session's invoices, and whether they come from a list; None if a list must wait."""
    lists_used = quota.used_share(account, limits.INVOICE_LIST) if known else 0.0
    act = plan(known, session, account.timing, lists_used)
    if act == "list":
        return _list(account, reference_number, session), True
    if act == "single" and known:
        return _refreshed(account, known), False
    return None if act == "keep" else [], False


def _list(account: Account, reference_number: str, session: Session) -> Sequence[Invoice]:
    return account.ksef.session_invoices(
        reference_number, expected=session.invoice_count, seconds=account.timing.ksef_listing
    )


def _refreshed(account: Account, known: Snapshot) -> Sequence[Invoice]:
    """The known invoices, with the moving ones fetched anew one by one."""
    moving = known.moving
    if not moving:
        return known.invoices
    account.calls.reserve(limits.INVOICE, len(moving))
    new = {
        invoice.reference_number: account.ksef.session_invoice(
            known.reference_number, invoice.reference_number
        )
        for invoice in moving
    }
    return [new.get(invoice.reference_number, invoice) for invoice in known.invoices]


def _agrees(snapshot: Snapshot, known: Snapshot | None) -> bool:
    """Whether the counts include every invoice, and every one that was accepted since."""
    before = known.accepted if known else 0
    return snapshot.fits and snapshot.accepted <= max(
        before, snapshot.session.successful_invoice_count
    )


def _caught_up(account: Account, snapshot: Snapshot) -> Snapshot:
    """Invoices were added or accepted between the two calls: newer counts may fit the list.

    If even more were added, the list is cut to the first counts; the next check has the rest.
    """
    try:
        session, _ = _status(account, snapshot.reference_number)
    except (errors.KsefRateLimited, errors.SessionNotFound):
        session = snapshot.session
    newer = replace(snapshot, session=session)
    if newer.fits or session.status.is_final:
        return newer
    return replace(snapshot, invoices=snapshot.invoices[: snapshot.session.invoice_count])


def _listed_again(account: Account, snapshot: Snapshot, known: Snapshot | None) -> Snapshot:
    """The snapshot with a newer list: KSeF updates the last invoices just after the session.

    Done once only. If list and counts still differ, the snapshot counts as not final.
    """
    if known and known.session.status.is_final:
        return snapshot
    try:
        invoices = _list(account, snapshot.reference_number, snapshot.session)
    except (errors.KsefRateLimited, errors.SessionNotFound):
        return snapshot
    return replace(snapshot, invoices=invoices, listed=True)


def _mark_asked(
    account: Account, known: Snapshot | None, moment: datetime, *, listed: bool = False
) -> None:
    if known:
        store.mark_asked(account, known.reference_number, moment, listed=listed)
