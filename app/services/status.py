"""What became of a session: the kept answer while it is fresh, else a new one from KSeF.

However many requests ask for the same session, only one of them asks KSeF.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app import errors, telemetry
from app.ksef import limits
from app.ksef.gateway import SESSION, SESSION_INVOICE, SESSION_INVOICES, Gateway
from app.ksef.listing import all_invoices, pages_of
from app.ksef.transport import DEFAULT_RETRY_AFTER
from app.ksef.wire import SessionInvoice as SessionInvoice
from app.ksef.wire import SessionStatus
from app.services import (
    bulk_refresh,
    linking,
    outages,
    quota,
    refusals,
    single_flight,
    snapshots,
)
from app.services.active_session import ActiveSession
from app.services.parts import Parts, Place
from app.services.snapshots import Snapshot as Snapshot

# Up to so many moving invoices are fetched one by one: the quota of lists is the smallest.
_MOST_ONE_BY_ONE = 20


def check_session(
    parts: Parts, place: Place, reference_number: str, *, bearer: ActiveSession | None = None
) -> Snapshot:
    """What became of a session; the company's rows are linked to it before this returns.

    `bearer` is the KSeF session to ask with; by default the company's own, with the patience and
    the quota of live traffic. Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, Busy,
    and what the gateway raises.
    """
    telemetry.answered_from("store")
    outages.refuse_if_simulated(parts, place)
    snapshot = _kept_if_fresh(parts, place, reference_number) or _fetch_once(
        parts, place, bearer, reference_number
    )
    if not snapshot.linked:
        linking.link(parts, place, reference_number, snapshot.invoices)
    return snapshot


def _kept_if_fresh(parts: Parts, place: Place, reference_number: str) -> Snapshot | None:
    """The kept answer, if it is final or fresh."""
    kept = snapshots.load(parts, place, reference_number)
    if kept is None or kept.final:
        return kept
    snapshots.mark_wanted(parts, place, kept)
    fresh_for = _fresh_for(parts, place, kept)
    return _with_next_check(kept, fresh_for) if kept.asked_ago < fresh_for else None


def _fetch_once(
    parts: Parts, place: Place, bearer: ActiveSession | None, reference_number: str
) -> Snapshot:
    """KSeF's answer; or the kept one, if another request is asking or no thread is free to ask."""
    question = f"session {reference_number}"
    refusals.repeat(parts, place, question)

    def look_beside() -> Snapshot | None:
        if kept := snapshots.load(parts, place, reference_number):
            telemetry.answered_from("earlier")
            return _with_next_check(kept, _fresh_for(parts, place, kept))
        refusals.repeat(parts, place, question)
        return None

    def fetch() -> Snapshot:
        with refusals.remembered(parts, place, question):
            return _ask_ksef(parts, place, active, reference_number, live=bearer is None)

    try:
        with parts.places.one(place.company_nip):
            active = bearer or ActiveSession(parts, place)
            return single_flight.fetch_once(
                parts,
                place,
                question,
                look=lambda: _kept_if_fresh(parts, place, reference_number),
                look_beside=look_beside,
                fetch=fetch,
            )
    except errors.Busy:
        if earlier := look_beside():
            return earlier
        raise


def _ask_ksef(
    parts: Parts, place: Place, bearer: ActiveSession, reference_number: str, *, live: bool
) -> Snapshot:
    """KSeF's answer, stored; or the kept one, if the quota is short or a list has to wait.

    `live`: a caller waits for it, who may poll other sessions as well.
    """
    kept = snapshots.load(parts, place, reference_number)
    telemetry.answered_from("fresh")
    try:
        if kept and live and bulk_refresh.refresh(parts, place, bearer):
            kept = snapshots.load(parts, place, reference_number) or kept
            if kept.asked_ago < parts.timing.fresh_least:
                return _with_next_check(kept, _fresh_for(parts, place, kept))
        if kept is None:  # a status is of no use if the list of invoices cannot follow
            bearer.require(SESSION_INVOICES)
        asked = _Question(parts, place, bearer, reference_number, kept).ask()
    except errors.KsefRateLimited as error:
        if kept is None:
            raise
        telemetry.answered_from("earlier")
        return replace(kept, next_check_after=error.retry_after or DEFAULT_RETRY_AFTER)
    finally:
        bearer.give_back()
    if asked is kept:
        telemetry.answered_from("earlier")
    else:
        snapshots.store(parts, place, asked, kept)
    return asked if asked.final else _with_next_check(asked, _fresh_for(parts, place, asked))


class _Question:
    """Asking KSeF once about a session; `kept` is the earlier answer, if any."""

    def __init__(
        self,
        parts: Parts,
        place: Place,
        bearer: ActiveSession,
        reference_number: str,
        kept: Snapshot | None,
    ) -> None:
        self._gateway: Gateway = parts.ksef[place.environment]
        self._parts = parts
        self._place = place
        self._bearer = bearer
        self._reference_number = reference_number
        self._kept = kept

    def ask(self) -> Snapshot:
        """A consistent snapshot: a new one, or `kept` itself where the list has to wait."""
        session, checked_at = self._status()
        try:
            invoices, listed = self._invoices(session)
        except errors.KsefRateLimited:
            self._mark_asked(checked_at)
            raise
        if invoices is None and self._kept:
            return self._earlier(self._kept, checked_at)
        snapshot = Snapshot(self._reference_number, session, invoices or [], checked_at, listed)
        if not session.status.is_final and not self._agrees(snapshot):
            snapshot = self._caught_up(snapshot)
        if snapshot.fits:
            return snapshot
        if self._kept and not snapshot.session.status.is_final:
            return self._earlier(self._kept, checked_at, listed=listed)
        return self._listed_again(snapshot)

    def _agrees(self, snapshot: Snapshot) -> bool:
        """Whether the counts include every invoice, and every one that was accepted since."""
        before = self._kept.accepted if self._kept else 0
        return snapshot.fits and snapshot.accepted <= max(
            before, snapshot.session.successful_invoice_count
        )

    def _caught_up(self, snapshot: Snapshot) -> Snapshot:
        """Invoices were added or accepted between the two calls: newer counts may fit the list.

        If even more were added, the list is cut to the first counts; the next check has the rest.
        """
        try:
            session, _ = self._status()
        except errors.KsefRateLimited:
            session = snapshot.session
        newer = replace(snapshot, session=session)
        if newer.fits or session.status.is_final:
            return newer
        return replace(snapshot, invoices=snapshot.invoices[: snapshot.session.invoice_count])

    def _earlier(self, kept: Snapshot, checked_at: datetime, *, listed: bool = False) -> Snapshot:
        self._mark_asked(checked_at, listed=listed)
        return kept

    def _status(self) -> tuple[SessionStatus, datetime]:
        """KSeF's status of the session, and when KSeF was asked for it."""

        def ask(access: str) -> tuple[SessionStatus, datetime]:
            # Here, since the call may have waited for quota before: freshness counts from now on.
            asked_at = snapshots.database_now(self._parts)
            return self._gateway.session_status(access, self._reference_number), asked_at

        return self._bearer.call(SESSION, ask)

    def _listed_again(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with a newer list: KSeF updates the last invoices just after the session.

        Done once only. If list and counts still differ, the snapshot counts as not final.
        """
        if self._kept and self._kept.session.status.is_final:
            return snapshot
        try:
            return replace(snapshot, invoices=self._list(snapshot.session), listed=True)
        except errors.KsefRateLimited:
            return snapshot

    def _mark_asked(self, moment: datetime, *, listed: bool = False) -> None:
        if self._kept:
            snapshots.mark_asked(
                self._parts, self._place, self._reference_number, moment, listed=listed
            )

    def _list(self, session: SessionStatus) -> Sequence[SessionInvoice]:
        return all_invoices(
            self._gateway,
            self._bearer,
            self._reference_number,
            expected=session.invoice_count,
            seconds=self._parts.timing.ksef_listing,
        )

    def _invoices(self, session: SessionStatus) -> tuple[Sequence[SessionInvoice] | None, bool]:
        """The session's invoices, and whether they come from a list; None if a list must wait."""
        kept = self._kept
        if session.invoice_count == 0 and (session.counted or not session.status.is_final):
            known = kept is not None and kept.invoices and not session.counted
            return None if known else [], False
        if kept is None or not kept.listed:
            return self._list(session), True
        if self._needs_list(kept, session):
            ended = session.status.is_final and not kept.session.status.is_final
            if ended or (kept.listed_for or 0) >= self._pause(kept, session):
                return self._list(session), True
            return None, False
        return self._refreshed(kept), False

    def _needs_list(self, kept: Snapshot, session: SessionStatus) -> bool:
        """Whether it would not do to fetch the moving invoices one by one."""
        return (
            kept.session.status.is_final
            or len(kept.moving) > _MOST_ONE_BY_ONE
            or session.invoice_count != len(kept.invoices)
        )

    def _pause(self, kept: Snapshot, session: SessionStatus) -> float:
        """Seconds between two lists, which grow with their pages as quota is used up.

        A session that grew is listed at once while hardly any quota is used. A final one whose list
        does not fit its counts may never fit: the longer that lasts, the longer the pause.
        """
        timing = self._parts.timing
        used = quota.used_share(self._parts, self._place, limits.INVOICE_LIST)
        pages = max(1.0, pages_of(session.invoice_count) * min(1.0, 2 * used))
        pause = timing.relist * pages * snapshots.stretched(used)
        if session.invoice_count != kept.session.invoice_count:
            return pause * min(1.0, max(0.0, 2 * used - 0.2))
        if kept.session.status.is_final:
            return max(pause, snapshots.patience(self._parts, kept))
        return pause

    def _refreshed(self, kept: Snapshot) -> Sequence[SessionInvoice]:
        """The kept invoices, with the moving ones fetched anew one by one."""
        if not kept.moving:
            return kept.invoices
        self._bearer.reserve(SESSION_INVOICE, len(kept.moving))
        new = {invoice.reference_number: self._invoice(invoice) for invoice in kept.moving}
        return [new.get(invoice.reference_number, invoice) for invoice in kept.invoices]

    def _invoice(self, invoice: SessionInvoice) -> SessionInvoice:
        return self._bearer.call(
            SESSION_INVOICE,
            lambda access: self._gateway.session_invoice(
                access, self._reference_number, invoice.reference_number
            ),
        )


def _fresh_for(parts: Parts, place: Place, snapshot: Snapshot) -> float:
    """For how many seconds after asking KSeF the answer counts as fresh."""
    # Without the lists of invoices: they have their own pauses, and other calls do without them.
    used = quota.used_share(parts, place, limits.SESSION, limits.SESSION_LIST, limits.INVOICE)
    return snapshots.freshness(parts, snapshot, used)


def _with_next_check(snapshot: Snapshot, fresh_for: float) -> Snapshot:
    return replace(snapshot, next_check_after=snapshots.wait_for_next(fresh_for, snapshot))
