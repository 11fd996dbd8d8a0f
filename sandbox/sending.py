"""KSeF's online sessions from the sender's side: opening, sending, closing.

What a batch session (`sandbox.batch`) does alike is here too.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response

from sandbox import identifiers, xml_invoice
from sandbox.access import base64_member, environment, find_session, json_body, require
from sandbox.clock import stamp
from sandbox.problems import BadRequest, json_response
from sandbox.state import MAX_INVOICES, ONLINE_LIFETIME, Invoice, Session
from sandbox.world import world

FORM_CODES = {
    ("FA (2)", "1-0E", "FA"),
    ("FA (3)", "1-0E", "FA"),
    ("PEF (3)", "2-1", "PEF"),
    ("PEF_KOR (3)", "2-1", "PEF"),
    ("FA_RR (1)", "1-1E", "FA_RR"),
}


def register(ksef: Blueprint) -> None:
    """Adds the routes of sending to KSeF's blueprint."""
    ksef.add_url_rule("/sessions/online", view_func=open_online_session, methods=["POST"])
    ksef.add_url_rule(
        "/sessions/online/<reference>/invoices", view_func=send_invoice, methods=["POST"]
    )
    ksef.add_url_rule(
        "/sessions/online/<reference>/close", view_func=close_online_session, methods=["POST"]
    )


def open_online_session() -> Response:
    """POST /sessions/online."""
    login = require("access")
    body = json_body("formCode", "encryption")
    form_code = read_form_code(body["formCode"])
    key, vector = read_encryption(body["encryption"])
    env = environment()
    now = world().clock.now()
    opened = Session(
        reference=identifiers.reference_number("SO", now.date()),
        nip=login.nip,
        kind="online",
        created=now,
        means=login.means,
        valid_until=now + ONLINE_LIFETIME,
        form_code=form_code,
        symmetric_key=key,
        vector=vector,
        processing=timedelta(seconds=world().settings.session_seconds),
    )
    if not key:
        fail_for_its_key(opened)
    with env.lock:
        env.sessions[opened.reference] = opened
    return json_response(
        {"referenceNumber": opened.reference, "validUntil": stamp(opened.valid_until)}, 201
    )


def read_form_code(form: Any) -> str:
    """The system code of a supported form; 21405 for any other."""
    if not isinstance(form, dict):
        raise BadRequest(21405, "Nieprawidłowy kod formularza.")
    if (form.get("systemCode"), form.get("schemaVersion"), form.get("value")) not in FORM_CODES:
        raise BadRequest(21405, "Wskazany kod formularza nie jest wspierany.")
    return str(form["systemCode"])


def read_encryption(encryption: Any) -> tuple[bytes, bytes]:
    """The symmetric key (empty where it can't be decrypted) and the vector of a session."""
    if not isinstance(encryption, dict):
        raise BadRequest(21405, "Nieprawidłowe szyfrowanie.")
    encrypted_key = base64_member(encryption, "encryptedSymmetricKey")
    vector = base64_member(encryption, "initializationVector")
    if len(vector) != 16:
        raise BadRequest(21405, "Wektor inicjalizujący musi mieć 16 bajtów.")
    key_id = encryption.get("publicKeyId")
    pair = environment().keys.find("SymmetricKeyEncryption", key_id)
    if pair is None:
        raise BadRequest(21470, f"Klucz o identyfikatorze {key_id} nie jest wspierany.")
    try:
        key = pair.decrypt(encrypted_key)
    except ValueError:
        key = b""
    return (key if len(key) == 32 else b""), vector


def fail_for_its_key(opened: Session) -> None:
    """KSeF notices an unusable key only after it has opened the session."""
    opened.code, opened.finishes, opened.closed = 415, opened.created, opened.created


def send_invoice(reference: str) -> Response:
    """POST /sessions/online/{referenceNumber}/invoices."""
    login = require("access")
    target = find_session(login.nip, reference)
    body = json_body(
        "invoiceHash",
        "invoiceSize",
        "encryptedInvoiceHash",
        "encryptedInvoiceSize",
        "encryptedInvoiceContent",
    )
    content = base64_member(body, "encryptedInvoiceContent")
    if body["encryptedInvoiceSize"] != len(content):
        raise BadRequest(21402, "Długość treści nie zgadza się z rozmiarem pliku.")
    if body["encryptedInvoiceHash"] != identifiers.sha256_base64(content):
        raise BadRequest(21403, "Skrót treści nie zgadza się ze skrótem pliku.")
    env = environment()
    now = world().clock.now()
    with env.lock:
        code = target.summary(now).code
        if target.kind != "online" or code != 100:
            raise BadRequest(21180, f"Status sesji {code} uniemożliwia wysyłkę faktur.")
        if len(target.invoices) >= MAX_INVOICES:
            raise BadRequest(
                21155,
                f"Sesja o numerze referencyjnym {reference} osiągnęła dozwolony limit "
                f"liczby faktur {MAX_INVOICES}.",
            )
        seconds = world().settings.invoice_seconds
        invoice = Invoice(
            ordinal=len(target.invoices) + 1,
            reference=identifiers.reference_number("EE", now.date()),
            received=now,
            sha256=str(body["invoiceHash"]),
            seller_nip=login.nip,
            invoice_number=None,
            issue_date=now.date().isoformat(),
            code=200,
            starts=now + timedelta(seconds=seconds / 3),
            finishes=now + timedelta(seconds=seconds),
            offline=body.get("offlineMode") is True,
        )
        _judge(invoice, target, content, body)
        target.add(invoice)
        env.accept(target, invoice)
    return json_response({"referenceNumber": invoice.reference}, 202)


def _judge(invoice: Invoice, target: Session, content: bytes, body: dict[str, Any]) -> None:
    """Decides the outcome that the invoice will have once it has been processed."""
    try:
        plain = xml_invoice.decrypt(content, target.symmetric_key, target.vector)
    except ValueError:
        invoice.code = 435
        return
    if body["invoiceSize"] != len(plain) or body["invoiceHash"] != identifiers.sha256_base64(plain):
        invoice.code = 430
        invoice.details = ["Skrót lub rozmiar faktury nie zgadza się z treścią."]
        return
    judge_content(invoice, target, plain)


def judge_content(invoice: Invoice, target: Session, plain: bytes) -> None:
    """Decides the outcome by what the decrypted file says."""
    try:
        facts = xml_invoice.read(plain)
    except xml_invoice.UnreadableInvoiceError as error:
        invoice.code = 450
        invoice.details = [str(error)]
        return
    invoice.seller_nip = facts.seller_nip
    invoice.invoice_number = facts.number
    invoice.issue_date = facts.issue_date
    if target.nip not in facts.nips:
        invoice.code = 410
        invoice.details = [f"Kontekst {target.nip} nie występuje na fakturze."]
        return
    original = environment().accepted.get((facts.seller_nip, facts.number))
    if original is not None:
        make_duplicate(invoice, *original)
        return
    invoice.ksef_number = identifiers.ksef_number(facts.seller_nip, invoice.received.date())


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


def close_online_session(reference: str) -> Response:
    """POST /sessions/online/{referenceNumber}/close."""
    login = require("access")
    target = find_session(login.nip, reference)
    now = world().clock.now()
    with environment().lock:
        code = target.summary(now).code
        if target.kind != "online" or code != 100:
            raise BadRequest(21180, f"Status sesji {code} uniemożliwia jej zamknięcie.")
        target.close(now)
    return Response(status=204)
