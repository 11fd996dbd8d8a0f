"""What became of a session: the kept answer while it is fresh, else a new one from KSeF.

However many requests ask for the same session, only one of them asks KSeF.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app import errors, telemetry
from app.ksef import limits
from app.ksef.gateway import SESSION, SESSION_INVOICE, SESSION_INVOICES, Gateway
from app.ksef.listing import all_invoices
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
            return _ask_ksef(parts, place, active, reference_number)

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


def _ask_ksef(parts: Parts, place: Place, bearer: ActiveSession, reference_number: str) -> Snapshot:
    """KSeF's answer, stored; or the kept one, if the quota is short or a list has to wait."""
    kept = snapshots.load(parts, place, reference_number)
    telemetry.answered_from("fresh")
    try:
        if kept and bulk_refresh.refresh(parts, place, bearer):
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
            self._mark_asked(checked_at)
            return self._kept
        snapshot = Snapshot(self._reference_number, session, invoices or [], checked_at, listed)
        if snapshot.fits:
            return snapshot
        if session.status.is_final:
            return self._listed_again(snapshot)
        # Invoices were added between the two calls: newer counts may fit the list.
        caught_up, _ = self._status()
        return replace(snapshot, session=caught_up)

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

    def _mark_asked(self, moment: datetime) -> None:
        if self._kept:
            snapshots.mark_asked(self._parts, self._place, self._reference_number, moment)

    def _list(self, session: SessionStatus) -> Sequence[SessionInvoice]:
        return all_invoices(
            self._gateway,
            self._bearer,
            self._reference_number,
            expected=session.invoice_count,
            seconds=self._parts.timing.ksef_listing,
        )

    def _invoices(self, session: SessionStatus) -> tuple[Sequence[SessionInvoice] | None, bool]:
        """The session's invoices, and whether they come from a list; None if a list must wait.

        Listed when there is no list yet, or the session has more invoices than it held. Otherwise
        the moving ones are fetched one by one; many of them, or those of a session that is final
        already, are listed instead, at most every `timing.relist` seconds.
        """
        if session.invoice_count == 0 and (session.counted or not session.status.is_final):
            return [], False
        kept = self._kept
        if kept is None or not kept.listed or session.invoice_count != kept.session.invoice_count:
            return self._list(session), True
        if kept.session.status.is_final or len(kept.moving) > _MOST_ONE_BY_ONE:
            ended = session.status.is_final and not kept.session.status.is_final
            if ended or (kept.listed_for or 0) >= self._parts.timing.relist:
                return self._list(session), True
            return None, False
        if session.invoice_count != len(kept.invoices):  # the kept list was incomplete
            return self._list(session), True
        return self._refreshed(kept), False

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
    used = quota.used_share(parts, place, limits.SESSION, limits.INVOICE, limits.INVOICE_LIST)
    return snapshots.freshness(parts, snapshot, used)


def _with_next_check(snapshot: Snapshot, fresh_for: float) -> Snapshot:
    return replace(snapshot, next_check_after=snapshots.wait_for_next(fresh_for, snapshot))
