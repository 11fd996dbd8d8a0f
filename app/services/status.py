"""What became of a session: kept for as long as it holds, asked of KSeF by one caller at a time."""

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
from app.services import flight, linking, outages, quota, refusals, snapshots, together
from app.services.active_session import ActiveSession
from app.services.parts import Parts, Place
from app.services.snapshots import Snapshot as Snapshot

_ONE_BY_ONE = 20  # so many moving invoices are asked after singly; lists are the dearest calls


def check_session(
    parts: Parts, place: Place, reference_number: str, *, bearer: ActiveSession | None = None
) -> Snapshot:
    """What became of a session; the company's rows are linked to it before this returns.

    Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, and what the gateway raises.
    """
    telemetry.answered_from("store")
    outages.refuse_if_simulated(parts, place)
    snapshot = _known(parts, place, reference_number) or _new(
        parts, place, bearer, reference_number
    )
    if not snapshot.linked:
        linking.link(parts, place, reference_number, snapshot.invoices)
    return snapshot


def _known(parts: Parts, place: Place, reference_number: str) -> Snapshot | None:
    """The kept answer, where it is final or fresh."""
    kept = snapshots.load(parts, place, reference_number)
    if kept is None or kept.final:
        return kept
    window = _window(parts, place, kept)
    return _dated(kept, window) if kept.asked_ago < window else None


def _new(
    parts: Parts, place: Place, bearer: ActiveSession | None, reference_number: str
) -> Snapshot:
    """KSeF's answer, or the kept one while others are asking, or where quota is short."""
    question = f"session {reference_number}"
    refusals.repeat(parts, place, question)

    def look_beside() -> Snapshot | None:
        if kept := snapshots.load(parts, place, reference_number):
            telemetry.answered_from("earlier")
            return _dated(kept, _window(parts, place, kept))
        refusals.repeat(parts, place, question)
        return None

    def fetch() -> Snapshot:
        with refusals.remembered(parts, place, question):
            return _ask(parts, place, active, reference_number)

    try:
        with parts.places.one(place.company_nip):
            active = bearer or ActiveSession(parts, place)
            return flight.single(
                parts,
                place,
                question,
                look=lambda: _known(parts, place, reference_number),
                look_beside=look_beside,
                fetch=fetch,
            )
    except errors.Busy:
        if earlier := look_beside():
            return earlier
        raise


def _ask(parts: Parts, place: Place, bearer: ActiveSession, reference_number: str) -> Snapshot:
    kept = snapshots.load(parts, place, reference_number)
    telemetry.answered_from("fresh")
    try:
        if kept and together.refresh(parts, place, bearer):
            kept = snapshots.load(parts, place, reference_number) or kept
            if kept.asked_ago < parts.timing.fresh_least:
                return _dated(kept, _window(parts, place, kept))
        if kept is None:  # not begun where its list would have to wait
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
    return asked if asked.final else _dated(asked, _window(parts, place, asked))


class _Question:
    """One round of asking KSeF after a session, knowing an earlier answer or none."""

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
        """One consistent snapshot: the new one, or the earlier one whole."""
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
        # Invoices came in between the two calls: the counts catch up.
        caught_up, _ = self._status()
        return replace(snapshot, session=caught_up)

    def _status(self) -> tuple[SessionStatus, datetime]:
        """KSeF's status of the session, and when it was asked for it."""

        def ask(access: str) -> tuple[SessionStatus, datetime]:
            # Only now: the call may have waited for its turn, and is fresh from here on.
            asked_at = snapshots.database_now(self._parts)
            return self._gateway.session_status(access, self._reference_number), asked_at

        return self._bearer.call(SESSION, ask)

    def _listed_again(self, snapshot: Snapshot) -> Snapshot:
        """KSeF writes the last invoices just after the session's code: the list catches up.

        Once only: where that does not help, the answer is told as one that is not final.
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
        """The invoices now, and whether they were listed; None where that must wait."""
        if session.invoice_count == 0 and (session.counted or not session.status.is_final):
            return [], False
        kept = self._kept
        if kept is None or not kept.listed or session.invoice_count != kept.session.invoice_count:
            return self._list(session), True
        if kept.session.status.is_final or len(kept.moving) > _ONE_BY_ONE:
            ended = session.status.is_final and not kept.session.status.is_final
            if ended or (kept.listed_for or 0) >= self._parts.timing.relist:
                return self._list(session), True
            return None, False
        if session.invoice_count != len(kept.invoices):  # the list was behind the counts
            return self._list(session), True
        return self._refreshed(kept), False

    def _refreshed(self, kept: Snapshot) -> Sequence[SessionInvoice]:
        """The kept invoices, those that were moving asked after one by one."""
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


def _window(parts: Parts, place: Place, snapshot: Snapshot) -> float:
    """Seconds for which the answer is fresh."""
    used = quota.used_share(parts, place, limits.SESSION, limits.INVOICE, limits.INVOICE_LIST)
    return snapshots.freshness(parts, snapshot, used)


def _dated(snapshot: Snapshot, window: float) -> Snapshot:
    return replace(snapshot, next_check_after=snapshots.wait_for_next(window, snapshot))
