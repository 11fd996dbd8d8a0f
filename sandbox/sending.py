"""KSeF's online sessions from the sender's side: opening, sending, closing.

What a batch session (`sandbox.batch`) does alike is here too.
"""

from datetime import datetime, timedelta
from typing import Final

from flask import Response

from sandbox import identifiers, xml_invoice
from sandbox.access import environment, find_key, find_session, read_body, require
from sandbox.blueprints import ksef
from sandbox.bodies import FormCode, InvoiceBody, OnlineSessionBody
from sandbox.clock import WARSAW, stamp
from sandbox.problems import BadRequest, json_response
from sandbox.state import MAX_INVOICES, ONLINE_LIFETIME, Invoice, Login, Package, Session
from sandbox.world import world

FORM_CODES: Final = {
    FormCode("FA (2)", "1-0E", "FA"),
    FormCode("FA (3)", "1-0E", "FA"),
    FormCode("PEF (3)", "2-1", "PEF"),
    FormCode("PEF_KOR (3)", "2-1", "PEF"),
    FormCode("FA_RR (1)", "1-1E", "FA_RR"),
}


@ksef.post("/sessions/online")
def open_online_session() -> Response:
    """An online session, open for twelve hours."""
    opened = new_session(require("access"), read_body(OnlineSessionBody), ONLINE_LIFETIME)
    return json_response(
        {"referenceNumber": opened.reference, "validUntil": stamp(opened.valid_until)}, 201
    )


def new_session(
    login: Login, body: OnlineSessionBody, lifetime: timedelta, package: Package | None = None
) -> Session:
    """A session opened after that login, a batch one with a package, open for so long."""
    if body.form_code not in FORM_CODES:
        raise BadRequest(21405, "Wskazany kod formularza nie jest wspierany.")
    pair = find_key("SymmetricKeyEncryption", body.encryption.public_key_id)
    now = world().clock.now()
    opened = Session(
        reference=identifiers.reference_number("SO" if package is None else "SB", now.date()),
        nip=login.nip,
        kind="online" if package is None else "batch",
        created=now,
        means=login.means,
        valid_until=now + lifetime,
        form_code=body.form_code.system_code,
        vector=body.encryption.initialization_vector,
        processing=timedelta(seconds=world().settings.session_seconds),
        package=package,
    )
    try:
        opened.symmetric_key = pair.decrypt(body.encryption.encrypted_symmetric_key)
    except ValueError:
        opened.symmetric_key = b""
    if len(opened.symmetric_key) != 32:
        # KSeF notices an unusable key only after it has opened the session.
        opened.code, opened.finishes, opened.closed = 415, now, now
    with environment().lock:
        environment().sessions[opened.reference] = opened
    return opened


@ksef.post("/sessions/online/<reference>/invoices")
def send_invoice(reference: str) -> Response:
    """Takes an invoice; what is wrong inside it shows in its status."""
    target = find_session(reference)
    body = read_body(InvoiceBody)
    content = body.encrypted_invoice_content
    if body.encrypted_invoice_size != len(content):
        raise BadRequest(21402, "Długość treści nie zgadza się z rozmiarem pliku.")
    if body.encrypted_invoice_hash != identifiers.sha256_base64(content):
        raise BadRequest(21403, "Skrót treści nie zgadza się ze skrótem pliku.")
    now = world().clock.now()
    with environment().lock:
        _require_open(target, now, "wysyłkę faktur")
        if len(target.invoices) >= MAX_INVOICES:
            raise BadRequest(
                21155,
                f"Sesja o numerze referencyjnym {reference} osiągnęła dozwolony limit "
                f"liczby faktur {MAX_INVOICES}.",
            )
        if body.hash_of_corrected_invoice is not None:
            _check_correction(body.hash_of_corrected_invoice, body.offline_mode, target.nip, now)
        invoice = new_invoice(target, body.invoice_hash, now)
        invoice.offline, invoice.corrects = body.offline_mode, body.hash_of_corrected_invoice
        _judge(invoice, target, body)
        target.add(invoice)
        environment().accept(target, invoice)
    return json_response({"referenceNumber": invoice.reference}, 202)


def _require_open(target: Session, now: datetime, what_for: str) -> None:
    code = target.summary(now).code
    if target.kind != "online" or code != 100:
        raise BadRequest(21180, f"Status sesji {code} uniemożliwia {what_for}.")


def _check_correction(sha256: str, offline: bool, nip: str, now: datetime) -> None:
    """Refuses a technical correction of the invoice with that hash where KSeF does."""
    if not offline:
        raise BadRequest(21405, "Pole 'hashOfCorrectedInvoice' jest tylko dla faktur offline.")
    for session in environment().sessions.values():
        for invoice in session.invoices if session.nip == nip else ():
            if invoice.code_at(now) == 200 and invoice.sha256 == sha256:
                raise BadRequest(
                    21167,
                    "Nie można wysłać korekty technicznej do prawidłowo przetworzonej faktury.",
                )
            if invoice.code_at(now) == 200 and invoice.corrects == sha256:
                raise BadRequest(
                    21166, "Faktura posiada już przetworzoną prawidłowo korektę techniczną."
                )


def new_invoice(target: Session, sha256: str, now: datetime) -> Invoice:
    """The next invoice of a session that a client sends, not yet added to it.

    Those of a batch count as received when their session was opened.
    """
    seconds = world().settings.invoice_seconds
    return Invoice(
        ordinal=len(target.invoices) + 1,
        reference=identifiers.reference_number("EE", now.date()),
        received=now if target.package is None else target.created,
        sha256=sha256,
        seller_nip=target.nip,
        invoice_number=None,
        issue_date=now.date().isoformat(),
        code=200,
        starts=now + timedelta(seconds=seconds / 3),
        finishes=now + timedelta(seconds=seconds),
    )


def _judge(invoice: Invoice, target: Session, body: InvoiceBody) -> None:
    """Decides the outcome that the invoice will have once it has been processed."""
    try:
        plain = xml_invoice.decrypt(
            body.encrypted_invoice_content, target.symmetric_key, target.vector
        )
    except ValueError:
        invoice.code = 435
        return
    if body.invoice_size != len(plain) or body.invoice_hash != identifiers.sha256_base64(plain):
        invoice.code = 430
        invoice.details = ["Skrót lub rozmiar faktury nie zgadza się z treścią."]
        return
    judge_content(invoice, target, plain)


def judge_content(invoice: Invoice, target: Session, plain: bytes) -> None:
    """Decides the outcome by what the decrypted file says.

    Issued before the day on which it is received, it is an offline invoice, whatever was declared.
    """
    received = invoice.received.astimezone(WARSAW).date()
    try:
        content = xml_invoice.read(plain)
        if content.issue_date > received:
            raise ValueError("Data wystawienia (P_1) jest późniejsza niż data przyjęcia.")
    except ValueError as error:
        invoice.code = 450
        invoice.details = [str(error)]
        return
    invoice.seller_nip, invoice.invoice_type, invoice.invoice_number = content[:3]
    invoice.issue_date = content.issue_date.isoformat()
    if target.nip not in content.nips:
        invoice.code = 410
        invoice.details = [f"Kontekst {target.nip} nie występuje na fakturze."]
        return
    invoice.offline = invoice.offline or content.issue_date < received
    original = environment().accepted.get(content[:3])
    if original is not None:
        make_duplicate(invoice, *original)
        return
    invoice.ksef_number = identifiers.ksef_number(invoice.seller_nip, invoice.received.date())


def make_duplicate(invoice: Invoice, ksef_number: str, session_reference: str) -> None:
    """Makes the outcome of an invoice 440, pointing at the accepted one."""
    invoice.code = 440
    invoice.ksef_number = None
    invoice.details = [
        f"Duplikat faktury. Faktura o numerze KSeF: {ksef_number} została już prawidłowo "
        f"przesłana do systemu w sesji: {session_reference}"
    ]
    invoice.extensions = {
        "originalSessionReferenceNumber": session_reference,
        "originalKsefNumber": ksef_number,
    }


@ksef.post("/sessions/online/<reference>/close")
def close_online_session(reference: str) -> Response:
    """No more invoices are taken."""
    target = find_session(reference)
    now = world().clock.now()
    with environment().lock:
        _require_open(target, now, "jej zamknięcie")
        target.close(now)
    return Response(status=204)
