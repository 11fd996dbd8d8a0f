"""What became of a session: one consistent snapshot of it, and the company's rows linked to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app import clock
from app.ksef.gateway import Gateway
from app.ksef.listing import all_invoices
from app.ksef.wire import SUCCESS, SessionStatus
from app.ksef.wire import SessionInvoice as SessionInvoice
from app.services import linking, outages
from app.services.auth import ActiveSession
from app.services.parts import Parts, Place


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session as KSeF told it at `checked_at`; `final` where nothing of it will change."""

    reference_number: str
    session: SessionStatus
    invoices: Sequence[SessionInvoice]
    checked_at: datetime

    @property
    def final(self) -> bool:
        return self.session.status.is_final and self.fits

    @property
    def fits(self) -> bool:
        """Whether list and counts say the same, as far as the session has got."""
        if not self.session.status.is_final:
            return len(self.invoices) == self.session.invoice_count
        accepted = sum(invoice.status.code == SUCCESS for invoice in self.invoices)
        return (
            len(self.invoices) == self.session.invoice_count
            and accepted == self.session.successful_invoice_count
            and all(invoice.status.is_final for invoice in self.invoices)
        )

    @property
    def next_check_after(self) -> int | None:
        """Seconds until asking again is worth it, by how long the session has not changed."""
        if self.session.status.is_final:
            return None
        age = (self.checked_at - self.session.date_updated).total_seconds()
        return math.ceil(min(30.0, max(2.0, age / 4)))


def check_session(parts: Parts, place: Place, reference_number: str) -> Snapshot:
    """Ask KSeF after a session, link the company's rows to it, and tell what is known.

    Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, and what the gateway raises.
    """
    outages.refuse_if_simulated(parts, place)
    snapshot = _ask_ksef(parts, place, reference_number)
    linking.link(parts, place, reference_number, snapshot.invoices)
    return snapshot


def _ask_ksef(parts: Parts, place: Place, reference_number: str) -> Snapshot:
    bearer = ActiveSession(parts, place)
    gateway = parts.ksef[place.environment]

    def status() -> SessionStatus:
        return bearer.call(lambda access: gateway.session_status(access, reference_number))

    def invoices(session: SessionStatus) -> Sequence[SessionInvoice]:
        return _invoices(parts, gateway, bearer, reference_number, session)

    checked_at = clock.now()
    session = status()
    snapshot = Snapshot(reference_number, session, invoices(session), checked_at)
    if snapshot.fits:
        return snapshot
    if session.status.is_final:
        # KSeF writes the last invoices just after the session's code: the list catches up.
        return Snapshot(reference_number, session, invoices(session), checked_at)
    # Invoices came in between the two calls: the counts catch up.
    return Snapshot(reference_number, status(), snapshot.invoices, checked_at)


def _invoices(
    parts: Parts,
    gateway: Gateway,
    bearer: ActiveSession,
    reference_number: str,
    session: SessionStatus,
) -> Sequence[SessionInvoice]:
    """The session's invoices. A session that moves and has none is not listed: lists are dear."""
    if session.invoice_count == 0 and (session.counted or not session.status.is_final):
        return []
    return all_invoices(gateway, bearer, reference_number, seconds=parts.timing.ksef_listing)
