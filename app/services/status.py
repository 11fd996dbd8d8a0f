"""What became of a session: kept for as long as it holds, asked of KSeF by one caller at a time."""

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
    snapshots.mark_wanted(parts, place, kept)
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
            return _ask(parts, place, active, reference_number, live=bearer is None)

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


def _ask(
    parts: Parts, place: Place, bearer: ActiveSession, reference_number: str, *, live: bool
) -> Snapshot:
    """KSeF's answer. `live`: somebody waits for it, and others for those of other sessions."""
    kept = snapshots.load(parts, place, reference_number)
    telemetry.answered_from("fresh")
    try:
        if kept and live and together.refresh(parts, place, bearer):
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
    finally:
        bearer.give_back()
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
        """Whether the counts know of every invoice, and of every one that was accepted just now."""
        before = self._kept.accepted if self._kept else 0
        return snapshot.fits and snapshot.accepted <= max(
            before, snapshot.session.successful_invoice_count
        )

    def _caught_up(self, snapshot: Snapshot) -> Snapshot:
        """Invoices came in, or were accepted, between the two calls: the counts catch up.

        Where more came in meanwhile, the newcomers wait: the list is as long as the first count.
        """
        try:
            session, _ = self._status()
        except errors.KsefRateLimited:
            session = snapshot.session
        newer = replace(snapshot, session=session)
        if newer.fits or session.status.is_final:
            return newer
        known = snapshot.invoices[: snapshot.session.invoice_count]
        return replace(snapshot, invoices=known)

    def _earlier(self, kept: Snapshot, checked_at: datetime, *, listed: bool = False) -> Snapshot:
        self._mark_asked(checked_at, listed=listed)
        return kept

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
        """The invoices now, and whether they were listed; None where that must wait."""
        kept = self._kept
        if session.invoice_count == 0 and (session.counted or not session.status.is_final):
            forgotten = kept is not None and kept.invoices and not session.counted
            return None if forgotten else [], False
        if kept is None or not kept.listed:
            return self._list(session), True
        if self._needs_list(kept, session):
            ended = session.status.is_final and not kept.session.status.is_final
            if ended or (kept.listed_for or 0) >= self._pause(kept, session):
                return self._list(session), True
            return None, False
        return self._refreshed(kept), False

    def _needs_list(self, kept: Snapshot, session: SessionStatus) -> bool:
        """Whether asking singly after what moves would not do."""
        return (
            kept.session.status.is_final
            or len(kept.moving) > _ONE_BY_ONE
            or session.invoice_count != len(kept.invoices)
        )

    def _pause(self, kept: Snapshot, session: SessionStatus) -> float:
        """Seconds between two lists of the session: more as they cost more, and less is left.

        A session that grew is listed at once where much is left. One that is finished, and whose
        list does not fit, may never fit: it is listed ever more seldom.
        """
        timing = self._parts.timing
        used = quota.used_share(self._parts, self._place, limits.INVOICE_LIST)
        pause = timing.relist * pages_of(session.invoice_count) * snapshots.stretched(used)
        if session.invoice_count != kept.session.invoice_count:
            return pause * min(1.0, max(0.0, 2 * used - 0.2))
        if kept.session.status.is_final:
            return max(pause, snapshots.patience(self._parts, kept))
        return pause

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
    used = quota.used_share(
        parts, place, limits.SESSION, limits.SESSION_LIST, limits.INVOICE, limits.INVOICE_LIST
    )
    return snapshots.freshness(parts, snapshot, used)


def _dated(snapshot: Snapshot, window: float) -> Snapshot:
    return replace(snapshot, next_check_after=snapshots.wait_for_next(window, snapshot))
