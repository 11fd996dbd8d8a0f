"""Makes and changes sessions to order, without a client that sends them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sandbox import identifiers
from sandbox.clock import parse_stamp, stamp
from sandbox.sending import make_duplicate
from sandbox.state import (
    MAX_INVOICES,
    ONLINE_LIFETIME,
    UNREADABLE,
    Environment,
    Invoice,
    Means,
    Session,
)
from sandbox.world import World

_SESSION_MEMBERS: Final = {
    "nip", "kind", "referenceNumber", "dateCreated", "state", "code", "details", "invoices",
    "finishesAfter", "formCode", "loginDocumentHash",
}  # fmt: skip
_INVOICE_MEMBERS: Final = {
    "invoiceNumber", "status", "ksefNumber", "originalKsefNumber",
    "originalSessionReferenceNumber", "offline", "details", "sellerNip", "issueDate",
    "referenceNumber", "outcome", "finishesAfter",
}  # fmt: skip
STATES: Final = ("finished", "moving", "open", "failed")


def seed_session(world: World, env: Environment, order: dict[str, Any]) -> Session:
    """Makes a session as POST /_sandbox/{env}/sessions describes it. ValueError if it is wrong."""
    _known(order, _SESSION_MEMBERS)
    nip = str(order.get("nip", ""))
    if not identifiers.is_nip(nip):
        raise ValueError(f"nip: {nip!r} is none")
    kind = order.get("kind", "online")
    if kind not in ("online", "batch"):
        raise ValueError("kind: online or batch")
    state = order.get("state", "finished")
    if state not in STATES:
        raise ValueError(f"state: one of {', '.join(STATES)}")
    now = world.clock.now()
    created = parse_stamp(order["dateCreated"]) if order.get("dateCreated") else _before(now, state)
    reference = order.get("referenceNumber") or identifiers.reference_number(
        "SO" if kind == "online" else "SB", created.date()
    )
    if not identifiers.is_reference_number(reference):
        raise ValueError(f"referenceNumber: {reference!r} is none")
    session = Session(
        reference=reference,
        nip=nip,
        kind=kind,
        created=created,
        means=_means(order, reference, created),
        valid_until=created + ONLINE_LIFETIME,
        form_code=order.get("formCode", "FA (3)"),
        processing=timedelta(seconds=world.settings.session_seconds),
        details=order.get("details"),
    )
    with env.lock:
        if reference in env.sessions:
            raise ValueError(f"referenceNumber: {reference} exists already")
        _set_times(session, order, state, now)
        invoices = order.get("invoices", 0 if state == "failed" else 1)
        add_invoices(world, env, session, invoices)
        env.sessions[reference] = session
    return session


def _means(order: dict[str, Any], reference: str, created: datetime) -> Means:
    if order.get("loginDocumentHash"):
        return Means(document_sha256=str(order["loginDocumentHash"]))
    return Means(identifiers.reference_number("EC", created.date(), f"{reference}|token"))


def _before(now: datetime, state: str) -> datetime:
    """A plausible creation: finished sessions began a while ago."""
    return now - timedelta(seconds=300) if state in ("finished", "failed") else now


def _set_times(session: Session, order: dict[str, Any], state: str, now: datetime) -> None:
    created = session.created
    if session.kind == "batch":
        session.starts = created + timedelta(seconds=1)
    if state in ("finished", "failed"):
        end = created + timedelta(seconds=60)
        if session.kind == "online":
            session.closed = created + timedelta(seconds=30)
        session.finishes = min(end, max(now, created))
    else:
        # A moving online session counts as open or closed, but not as forgotten for 12 hours.
        session.valid_until = max(session.valid_until, now + ONLINE_LIFETIME)
        if state == "moving" and session.kind == "online":
            session.closed = max(created, now - timedelta(seconds=1))
        session.moving_code = order.get("code")
        if order.get("finishesAfter") is not None:
            session.finishes = now + timedelta(seconds=float(order["finishesAfter"]))
            session.closed = session.closed or now
    if state == "failed":
        session.code = int(order.get("code", 445))


def add_invoices(
    world: World, env: Environment, session: Session, invoices: int | list[dict[str, Any]]
) -> list[Invoice]:
    """Appends invoices to a session: so many accepted ones, or one for each description."""
    orders: list[dict[str, Any]] = (
        [{} for _ in range(invoices)] if isinstance(invoices, int) else invoices
    )
    if len(session.invoices) + len(orders) > MAX_INVOICES:
        raise ValueError(f"invoices: at most {MAX_INVOICES} in a session")
    with env.lock:
        now = world.clock.now()
        added = []
        for order in orders:
            invoice = _make_invoice(session, order, now)
            session.add(invoice)
            env.accept(session, invoice)
            added.append(invoice)
        session.touch()
        return added


def _make_invoice(session: Session, order: dict[str, Any], now: datetime) -> Invoice:
    _known(order, _INVOICE_MEMBERS)
    ordinal = len(session.invoices) + 1
    seed = f"{session.reference}|{ordinal}"
    day = session.created.date()
    status = int(order.get("status", 200))
    received = max(
        session.created, min(session.created + timedelta(milliseconds=2000 + ordinal), now)
    )
    seller = order.get("sellerNip", session.nip)
    if not identifiers.is_nip(seller):
        raise ValueError(f"sellerNip: {seller!r} is none")
    invoice = Invoice(
        ordinal=ordinal,
        reference=order.get("referenceNumber")
        or identifiers.reference_number("EE", day, f"{seed}|invoice"),
        received=received,
        sha256=identifiers.sha256_base64(seed.encode()),
        seller_nip=seller,
        invoice_number=order.get("invoiceNumber", _number(session, ordinal, status)),
        issue_date=order.get("issueDate", day.isoformat()),
        code=status,
        starts=received,
        finishes=None,
        offline=order.get("offline") is True,
        file_name=f"faktura_{ordinal:05d}.xml" if session.kind == "batch" else None,
        details=order.get("details"),
    )
    if status < 200:
        invoice.moving_code = status
        invoice.code = int(order.get("outcome", 200))
        if order.get("finishesAfter") is not None:
            invoice.finishes = now + timedelta(seconds=float(order["finishesAfter"]))
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


def _settle(session: Session, invoice: Invoice, order: dict[str, Any]) -> None:
    """Gives the invoice what its outcome needs: a KSeF number, or a pointer to the original."""
    seed = f"{session.reference}|{invoice.ordinal}"
    if invoice.code == 200:
        invoice.extensions = None
        if order.get("ksefNumber"):
            if not identifiers.is_ksef_number(order["ksefNumber"]):
                raise ValueError(f"ksefNumber: {order['ksefNumber']!r} is none")
            invoice.ksef_number = order["ksefNumber"]
        elif invoice.ksef_number is None:
            invoice.ksef_number = identifiers.ksef_number(
                invoice.seller_nip, session.created.date(), seed
            )
        return
    invoice.ksef_number = None
    if invoice.code == 440:
        day = session.created.date()
        make_duplicate(
            invoice,
            order.get("originalKsefNumber")
            or identifiers.ksef_number(invoice.seller_nip, day, f"{seed}|original"),
            order.get("originalSessionReferenceNumber")
            or identifiers.reference_number("SO", day, f"{seed}|original"),
        )
        if order.get("details"):
            invoice.details = order["details"]


def _number(session: Session, ordinal: int, status: int) -> str | None:
    if status in UNREADABLE:
        return None
    return f"FV/{session.created:%Y/%m}/{session.reference[12:16]}/{ordinal:05d}"


def change_session(world: World, env: Environment, session: Session, order: dict[str, Any]) -> None:
    """Finishes, fails or restarts a session; ValueError for a wrong order."""
    _known(order, {"state", "code", "details", "finishesAfter"})
    now = world.clock.now()
    with env.lock:
        if "details" in order:
            session.details = order["details"]
        state = order.get("state")
        if state in ("finished", "failed"):
            session.code = int(order.get("code", 445)) if state == "failed" else None
            session.moving_code = None
            session.finishes = now
            session.closed = session.closed or now
            for invoice in session.invoices:
                if invoice.code_at(now) < 200:
                    invoice.finishes = now
        elif state in ("moving", "open"):
            session.code = None
            session.finishes = None
            session.moving_code = order.get("code")
            session.closed = now if state == "moving" and session.kind == "online" else None
            session.valid_until = max(session.valid_until, now + ONLINE_LIFETIME)
        elif state is not None:
            raise ValueError(f"state: one of {', '.join(STATES)}")
        elif "code" in order:
            session.moving_code = int(order["code"])
        if order.get("finishesAfter") is not None:
            session.finishes = now + timedelta(seconds=float(order["finishesAfter"]))
            session.closed = session.closed or now
        session.touch()


def change_invoice(
    world: World, env: Environment, session: Session, invoice: Invoice, order: dict[str, Any]
) -> None:
    """Changes an invoice's status or other members; its UPO is made anew."""
    _known(order, _INVOICE_MEMBERS - {"referenceNumber"})
    now = world.clock.now()
    with env.lock:
        invoice.upo = None
        session.by_ksef_number.pop(invoice.ksef_number or "", None)
        for name, attribute in (
            ("invoiceNumber", "invoice_number"),
            ("offline", "offline"),
            ("details", "details"),
            ("sellerNip", "seller_nip"),
            ("issueDate", "issue_date"),
        ):
            if name in order:
                setattr(invoice, attribute, order[name])
        if "status" in order:
            status = int(order["status"])
            if status < 200:
                invoice.moving_code, invoice.finishes = status, None
                invoice.code = int(order.get("outcome", 200))
            else:
                invoice.moving_code, invoice.finishes, invoice.code = None, now, status
        _settle(session, invoice, order)
        session.index(invoice)
        env.accept(session, invoice)


def describe_session(env: Environment, session: Session, world: World) -> dict[str, Any]:
    """A session with all that was made for it, as the control plane shows it."""
    now = world.clock.now()
    with env.lock:
        return {
            "environment": env.name,
            "referenceNumber": session.reference,
            "nip": session.nip,
            "kind": session.kind,
            "dateCreated": stamp(session.created),
            "status": session.summary(now).code,
            "upoPages": [
                page.reference for page in session.pages(now, world.settings.upo_page_size)
            ],
            "invoices": describe_invoices(session.invoices, now),
        }


def describe_invoices(invoices: list[Invoice], now: datetime) -> list[dict[str, Any]]:
    """Invoices as the control plane shows them; `outcome` is what a moving one will become."""
    return [
        {
            "ordinalNumber": invoice.ordinal,
            "referenceNumber": invoice.reference,
            "invoiceNumber": invoice.invoice_number,
            "ksefNumber": invoice.ksef_number,
            "status": invoice.code_at(now),
            "outcome": invoice.code,
        }
        for invoice in invoices
    ]


def _known(order: dict[str, Any], members: set[str]) -> None:
    unknown = set(order) - members
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
