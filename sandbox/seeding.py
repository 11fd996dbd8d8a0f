"""Makes and changes sessions to order, without a client that sends them."""

from datetime import date, datetime, timedelta

from msgspec import UNSET

from sandbox import identifiers
from sandbox.access import environment
from sandbox.clock import parse_stamp, stamp
from sandbox.orders import InvoiceOrder, SeededInvoice, SeededSession, SessionChange, SessionOrder
from sandbox.sending import make_duplicate
from sandbox.state import (
    MAX_INVOICES,
    ONLINE_LIFETIME,
    Invoice,
    Means,
    Session,
)
from sandbox.world import world


def seed_session(order: SessionOrder) -> Session:
    """Makes a session. ValueError where the order contradicts itself or what is there."""
    now = world().clock.now()
    is_over = order.state in ("finished", "failed")
    if order.date_created is not None:
        try:
            created = parse_stamp(order.date_created)
        except (ValueError, OverflowError):
            raise ValueError("dateCreated: a date and time in ISO 8601 is expected") from None
    else:
        created = now - timedelta(seconds=300) if is_over else now
    reference = order.reference_number or identifiers.reference_number(
        "SO" if order.kind == "online" else "SB", created.date()
    )
    if order.login_document_hash is not None:
        means = Means(document_sha256=order.login_document_hash)
    else:
        means = Means(identifiers.reference_number("EC", created.date(), f"{reference}|token"))
    session = Session(
        reference=reference,
        nip=order.nip,
        kind=order.kind,
        created=created,
        means=means,
        valid_until=created + ONLINE_LIFETIME,
        form_code=order.form_code,
        processing=timedelta(seconds=world().settings.session_seconds),
        details=order.details,
    )
    invoices = order.invoices
    if invoices is None:
        invoices = 0 if order.state == "failed" else 1
    env = environment()
    with env.lock:
        if reference in env.sessions:
            raise ValueError(f"referenceNumber: {reference} exists already")
        _set_times(session, order, now)
        add_invoices(session, invoices)
        env.sessions[reference] = session
    return session


def _set_times(session: Session, order: SessionOrder, now: datetime) -> None:
    created = session.created
    if session.kind == "batch":
        session.starts = created + timedelta(seconds=1)
    if order.state in ("finished", "failed"):
        if session.kind == "online":
            session.closed = created + timedelta(seconds=30)
        session.finishes = min(created + timedelta(seconds=60), max(now, created))
    else:
        # A moving online session counts as open or closed, but not as forgotten for 12 hours.
        session.valid_until = max(session.valid_until, now + ONLINE_LIFETIME)
        if order.state == "moving" and session.kind == "online":
            session.closed = max(created, now - timedelta(seconds=1))
        session.moving_code = order.code
        _finish_after(session, order.finishes_after, now)
    if order.state == "failed":
        session.code = order.code or 445


def _finish_after(session: Session, seconds: float | None, now: datetime) -> None:
    if seconds is not None:
        session.finishes = now + timedelta(seconds=seconds)
        session.closed = session.closed or now


def add_invoices(session: Session, invoices: int | list[InvoiceOrder]) -> list[Invoice]:
    """Appends invoices to a session: so many accepted ones, or one for each description."""
    orders = [InvoiceOrder()] * invoices if isinstance(invoices, int) else invoices
    if len(session.invoices) + len(orders) > MAX_INVOICES:
        raise ValueError(f"invoices: at most {MAX_INVOICES} in a session")
    with environment().lock:
        now = world().clock.now()
        added = []
        for order in orders:
            invoice = _make_invoice(session, order, now)
            session.add(invoice)
            environment().accept(session, invoice)
            added.append(invoice)
        return added


def _make_invoice(session: Session, order: InvoiceOrder, now: datetime) -> Invoice:
    ordinal = len(session.invoices) + 1
    seed = f"{session.reference}|{ordinal}"
    day = session.created.date()
    received = max(
        session.created, min(session.created + timedelta(milliseconds=2000 + ordinal), now)
    )
    status = order.status or 200
    number = f"FV/{session.created:%Y/%m}/{session.reference[12:16]}/{ordinal:05d}"
    invoice = Invoice(
        ordinal=ordinal,
        reference=order.reference_number
        or identifiers.reference_number("EE", day, f"{seed}|invoice"),
        received=received,
        sha256=identifiers.sha256_base64(seed.encode()),
        seller_nip=session.nip,
        invoice_number=number,
        issue_date=day.isoformat(),
        code=status,
        starts=received,
        finishes=None,
        file_name=f"faktura_{ordinal:05d}.xml" if session.kind == "batch" else None,
    )
    _change_members(invoice, order)
    if status < 200:
        invoice.moving_code = status
        invoice.code = order.outcome
        if order.finishes_after is not None:
            invoice.finishes = now + timedelta(seconds=order.finishes_after)
        elif session.finishes is not None:
            if session.finishes <= now:
                raise ValueError(f"status: {status} in a session that is over")
            invoice.finishes = session.finishes
    else:
        end = received + timedelta(seconds=2)
        if session.finishes is not None:
            end = min(end, session.finishes)
        invoice.finishes = max(received, min(end, now))
    _settle(session, invoice, order)
    return invoice


def _change_members(invoice: Invoice, order: InvoiceOrder) -> None:
    for name in ("invoice_number", "offline", "details", "seller_nip", "issue_date", "sha256"):
        value = getattr(order, name)
        if value is not UNSET:
            setattr(invoice, name, value.isoformat() if isinstance(value, date) else value)


def _settle(session: Session, invoice: Invoice, order: InvoiceOrder) -> None:
    """Gives the invoice what its outcome needs: a KSeF number, or a pointer to the original."""
    seed = f"{session.reference}|{invoice.ordinal}"
    day = session.created.date()
    if invoice.code == 200:
        invoice.extensions = None
        invoice.ksef_number = (
            order.ksef_number
            or invoice.ksef_number
            or identifiers.ksef_number(invoice.seller_nip, day, seed)
        )
        return
    invoice.ksef_number = None
    if invoice.code == 440:
        make_duplicate(
            invoice,
            order.original_ksef_number
            or identifiers.ksef_number(invoice.seller_nip, day, f"{seed}|original"),
            order.original_session_reference_number
            or identifiers.reference_number("SO", day, f"{seed}|original"),
        )
        if order.details:
            invoice.details = order.details


def change_session(session: Session, order: SessionChange) -> None:
    """Finishes, fails or restarts a session."""
    now = world().clock.now()
    with environment().lock:
        if order.details is not UNSET:
            session.details = order.details
        if order.state in ("finished", "failed"):
            session.code = (order.code or 445) if order.state == "failed" else None
            session.moving_code = None
            session.finishes = now
            session.closed = session.closed or now
            for invoice in session.invoices:
                if invoice.code_at(now) < 200:
                    invoice.finishes = now
        elif order.state is not None:
            session.code = None
            session.finishes = None
            session.moving_code = order.code
            moves = order.state == "moving" and session.kind == "online"
            session.closed = now if moves else None
            session.valid_until = max(session.valid_until, now + ONLINE_LIFETIME)
        elif order.code is not None:
            session.moving_code = order.code
        _finish_after(session, order.finishes_after, now)
        session.touch()


def change_invoice(session: Session, invoice: Invoice, order: InvoiceOrder) -> None:
    """Changes an invoice's status or other members; its UPO is made anew."""
    if order.reference_number is not None:
        raise ValueError("referenceNumber: that of an invoice cannot be changed")
    now = world().clock.now()
    with environment().lock:
        invoice.upo = None
        session.by_ksef_number.pop(invoice.ksef_number or "", None)
        _change_members(invoice, order)
        if isinstance(order.status, int):
            if order.status < 200:
                invoice.moving_code, invoice.finishes = order.status, None
                invoice.code = order.outcome
            else:
                invoice.moving_code, invoice.finishes, invoice.code = None, now, order.status
        _settle(session, invoice, order)
        session.index(invoice)
        environment().accept(session, invoice)


def describe_session(session: Session) -> SeededSession:
    """A session with all that was made for it, as the control plane shows it."""
    now = world().clock.now()
    with environment().lock:
        pages = session.pages(now, world().settings.upo_page_size)
        return SeededSession(
            environment=environment().name,
            reference_number=session.reference,
            nip=session.nip,
            kind=session.kind,
            date_created=stamp(session.created),
            status=session.summary(now).code,
            upo_pages=[page.reference for page in pages],
            invoices=describe_invoices(session.invoices),
        )


def describe_invoices(invoices: list[Invoice]) -> list[SeededInvoice]:
    """Invoices as the control plane shows them; `outcome` is what a moving one will become."""
    now = world().clock.now()
    return [
        SeededInvoice(
            ordinal_number=invoice.ordinal,
            reference_number=invoice.reference,
            invoice_number=invoice.invoice_number,
            invoice_hash=invoice.sha256,
            ksef_number=invoice.ksef_number,
            status=invoice.code_at(now),
            outcome=invoice.code,
        )
        for invoice in invoices
    ]
