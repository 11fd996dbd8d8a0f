"""KSeF's sessions: opening, sending, closing, and what became of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, request

from sandbox import identifiers, xml_invoice
from sandbox.access import base64_member, environment, json_body, require
from sandbox.clock import parse_stamp, stamp
from sandbox.documents import invoice_link, upo_page_links
from sandbox.problems import BadRequest, json_response
from sandbox.state import MAX_INVOICES, ONLINE_LIFETIME, Invoice, Session, invoice_words
from sandbox.world import world

FORM_CODES = {
    ("FA (2)", "1-0E", "FA"),
    ("FA (3)", "1-0E", "FA"),
    ("PEF (3)", "2-1", "PEF"),
    ("PEF_KOR (3)", "2-1", "PEF"),
    ("FA_RR (1)", "1-1E", "FA_RR"),
}


@dataclass
class Page:
    """Where a listing stands; some faults need to know."""

    this_token: str
    first_item: Any
    next_item: Any


def register(ksef: Blueprint) -> None:
    """Adds the session routes to KSeF's blueprint."""
    ksef.add_url_rule("/sessions", view_func=sessions)
    ksef.add_url_rule("/sessions/online", view_func=open_online_session, methods=["POST"])
    ksef.add_url_rule(
        "/sessions/online/<reference>/invoices", view_func=send_invoice, methods=["POST"]
    )
    ksef.add_url_rule(
        "/sessions/online/<reference>/close", view_func=close_online_session, methods=["POST"]
    )
    ksef.add_url_rule("/sessions/<reference>", view_func=session)
    ksef.add_url_rule("/sessions/<reference>/invoices", view_func=session_invoices)
    ksef.add_url_rule("/sessions/<reference>/invoices/failed", view_func=failed_session_invoices)
    ksef.add_url_rule(
        "/sessions/<reference>/invoices/<invoice_reference>", view_func=session_invoice
    )


def check_reference(text: str) -> None:
    """21405 unless `text` is as long as a reference number."""
    if len(text) != 36:
        raise BadRequest(21405, f"Numer referencyjny '{text}' ma nieprawidłową długość.")


def find_session(nip: str, reference: str) -> Session:
    """The session of this NIP; 21405 for a malformed reference, 21173 where there is none."""
    check_reference(reference)
    found = environment().session_of(nip, reference)
    if found is None:
        raise BadRequest(
            21173, f"Sesja o numerze referencyjnym {reference} nie została znaleziona."
        )
    return found


# -- sending ---------------------------------------------------------------------------------


def open_online_session() -> Response:
    """POST /sessions/online."""
    login = require("access")
    body = json_body("formCode", "encryption")
    form, encryption = body["formCode"], body["encryption"]
    if not isinstance(form, dict) or not isinstance(encryption, dict):
        raise BadRequest(21405, "Nieprawidłowy kod formularza lub szyfrowanie.")
    if (form.get("systemCode"), form.get("schemaVersion"), form.get("value")) not in FORM_CODES:
        raise BadRequest(21405, "Wskazany kod formularza nie jest wspierany.")
    encrypted_key = base64_member(encryption, "encryptedSymmetricKey")
    vector = base64_member(encryption, "initializationVector")
    if len(vector) != 16:
        raise BadRequest(21405, "Wektor inicjalizujący musi mieć 16 bajtów.")
    env = environment()
    key_id = encryption.get("publicKeyId")
    pair = env.keys.find("SymmetricKeyEncryption", key_id)
    if pair is None:
        raise BadRequest(21470, f"Klucz o identyfikatorze {key_id} nie jest wspierany.")
    now = world().clock.now()
    opened = Session(
        reference=identifiers.reference_number("SO", now.date()),
        nip=login.nip,
        kind="online",
        created=now,
        token_reference=login.token_reference,
        valid_until=now + ONLINE_LIFETIME,
        form_code=str(form["systemCode"]),
        vector=vector,
        processing=timedelta(seconds=world().settings.session_seconds),
    )
    try:
        opened.symmetric_key = pair.decrypt(encrypted_key)
    except ValueError:
        opened.symmetric_key = b""
    if len(opened.symmetric_key) != 32:
        # KSeF notices an unusable key only after it has opened the session.
        opened.code, opened.finishes, opened.closed = 415, now, now
    with env.lock:
        env.sessions[opened.reference] = opened
    return json_response(
        {"referenceNumber": opened.reference, "validUntil": stamp(opened.valid_until)}, 201
    )


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


# -- asking ----------------------------------------------------------------------------------


def session(reference: str) -> Response:
    """GET /sessions/{referenceNumber}."""
    found = find_session(require("access").nip, reference)
    now = world().clock.now()
    with environment().lock:
        summary = found.summary(now)
        links = upo_page_links(environment(), found, now)
    answer: dict[str, Any] = {
        "status": _status(summary.code, summary.description, summary.details),
        "dateCreated": stamp(found.created),
        "dateUpdated": stamp(summary.updated),
        "invoiceCount": summary.total,
        "successfulInvoiceCount": summary.successful,
        "failedInvoiceCount": summary.failed,
    }
    if found.kind == "online":
        answer["validUntil"] = stamp(found.valid_until)
    if links:
        answer["upo"] = {"pages": links}
    return json_response(answer)


def sessions() -> Response:
    """GET /sessions: newest first."""
    login = require("access")
    kind = request.args.get("sessionType")
    if kind not in ("Online", "Batch"):
        raise BadRequest(21405, "Parametr 'sessionType' musi mieć wartość Online lub Batch.")
    wanted = _words_asked_for()
    periods = [
        (_moment(f"{field}From"), _moment(f"{field}To"))
        for field in ("dateCreated", "dateClosed", "dateModified")
    ]
    only = request.args.get("referenceNumber")
    if only is not None:
        check_reference(only)
    now = world().clock.now()
    chosen = []
    with environment().lock:
        for candidate in environment().sessions.values():
            if candidate.nip != login.nip or candidate.kind != kind.lower():
                continue
            if only is not None and candidate.reference != only:
                continue
            summary = candidate.summary(now)
            moments = (candidate.created, candidate.closed, summary.updated)
            if all(
                _within(moment, period) for moment, period in zip(moments, periods, strict=True)
            ) and (not wanted or _session_word(summary.code) in wanted):
                chosen.append((candidate, summary))
        chosen.sort(key=lambda pair: pair[0].created, reverse=True)
        items = [
            {
                "referenceNumber": found.reference,
                "status": _status(summary.code, summary.description, summary.details),
                "dateCreated": stamp(found.created),
                "dateUpdated": stamp(summary.updated),
                "validUntil": stamp(found.valid_until) if found.kind == "online" else None,
                "totalInvoiceCount": summary.total,
                "successfulInvoiceCount": summary.successful,
                "failedInvoiceCount": summary.failed,
            }
            for found, summary in chosen
        ]
    scope = f"{login.nip}|{request.query_string.decode()}"
    start, stop = _page_bounds(scope, len(items))
    g.page = Page(_token(scope, start), None, None)
    return json_response(
        {
            "continuationToken": _token(scope, stop) if stop < len(items) else None,
            "sessions": items[start:stop],
        }
    )


def session_invoices(reference: str) -> Response:
    """GET /sessions/{referenceNumber}/invoices: in the order of sending."""
    found = find_session(require("access").nip, reference)
    return _list_invoices(found, found.invoices, "all", world().clock.now())


def failed_session_invoices(reference: str) -> Response:
    """GET /sessions/{referenceNumber}/invoices/failed."""
    found = find_session(require("access").nip, reference)
    now = world().clock.now()
    with environment().lock:
        failed = [invoice for invoice in found.invoices if invoice.code_at(now) > 200]
    return _list_invoices(found, failed, "failed", now)


def session_invoice(reference: str, invoice_reference: str) -> Response:
    """GET /sessions/{referenceNumber}/invoices/{invoiceReferenceNumber}."""
    login = require("access")
    check_reference(reference)
    check_reference(invoice_reference)
    found = environment().session_of(login.nip, reference)
    invoice = found.by_reference.get(invoice_reference) if found is not None else None
    if found is None or invoice is None:
        # The official page names no other code for this call.
        raise BadRequest(21405, f"Faktura {invoice_reference} nie została znaleziona w sesji.")
    with environment().lock:
        return json_response(describe_invoice(found, invoice, world().clock.now()))


def _list_invoices(
    found: Session, invoices: Sequence[Invoice], which: str, now: datetime
) -> Response:
    scope = f"{found.reference}|{which}"
    with environment().lock:
        start, stop = _page_bounds(scope, len(invoices))
        more = stop < len(invoices)
        g.page = Page(
            _token(scope, start),
            describe_invoice(found, invoices[0], now) if invoices else None,
            describe_invoice(found, invoices[stop], now) if more else None,
        )
        return json_response(
            {
                "continuationToken": _token(scope, stop) if more else None,
                "invoices": [
                    describe_invoice(found, invoice, now) for invoice in invoices[start:stop]
                ],
            }
        )


def describe_invoice(found: Session, invoice: Invoice, now: datetime) -> dict[str, Any]:
    """An invoice in KSeF's `SessionInvoiceStatusResponse` shape."""
    code = invoice.code_at(now)
    final = code >= 200
    accepted_at = invoice.finishes if code == 200 else None
    stored_at = None
    link, link_end = None, None
    if accepted_at is not None:
        delay = timedelta(seconds=world().settings.permanent_storage_seconds)
        stored_at = accepted_at + delay if accepted_at + delay <= now else None
        link, link_end = invoice_link(environment(), found, invoice, now)
    status = _status(code, invoice_words(code), invoice.details if final else None)
    if final and invoice.extensions:
        status["extensions"] = invoice.extensions
    return {
        "ordinalNumber": invoice.ordinal,
        "invoiceNumber": invoice.invoice_number if final else None,
        "ksefNumber": invoice.ksef_number if code == 200 else None,
        "referenceNumber": invoice.reference,
        "invoiceHash": invoice.sha256,
        "invoiceFileName": invoice.file_name,
        "acquisitionDate": stamp(accepted_at) if accepted_at else None,
        "invoicingDate": stamp(invoice.received),
        "permanentStorageDate": stamp(stored_at) if stored_at else None,
        "upoDownloadUrl": link,
        "upoDownloadUrlExpirationDate": link_end,
        "invoicingMode": "Offline" if invoice.offline else "Online",
        "status": status,
    }


def _status(code: int, description: str, details: list[str] | None) -> dict[str, Any]:
    status: dict[str, Any] = {"code": code, "description": description}
    if details:
        status["details"] = details
    return status


# -- paging and filters ----------------------------------------------------------------------


def _page_bounds(scope: str, total: int) -> tuple[int, int]:
    """Where the asked-for page starts and stops; 21405 and 21418 for wrong input."""
    text = request.args.get("pageSize", "10")
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 10 <= size <= 1000:
        raise BadRequest(21405, "Parametr 'pageSize' musi być liczbą od 10 do 1000.")
    token = request.headers.get("x-continuation-token")
    start = _offset(scope, token) if token else 0
    return start, min(start + size, total)


def _token(scope: str, offset: int) -> str:
    # KSeF's tokens are Base64 of a JSON array, as those of its database.
    content = json.dumps([{"token": f"+RID:~{offset}", "sig": _seal(scope, offset)}])
    return base64.b64encode(content.encode()).decode()


def _offset(scope: str, token: str) -> int:
    try:
        entry = json.loads(base64.b64decode(token, validate=True))[0]
        offset = int(entry["token"].removeprefix("+RID:~"))
        if not hmac.compare_digest(str(entry["sig"]).encode(), _seal(scope, offset).encode()):
            raise ValueError(token)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise BadRequest(21418) from None
    return offset


def _seal(scope: str, offset: int) -> str:
    message = f"{scope}|{offset}".encode()
    return hmac.new(environment().secret, message, hashlib.sha256).hexdigest()[:16]


def _moment(parameter: str) -> datetime | None:
    text = request.args.get(parameter)
    if text is None:
        return None
    try:
        # An unescaped plus sign of an offset arrives as a blank.
        return parse_stamp(text.replace(" ", "+"))
    except ValueError:
        raise BadRequest(21405, f"Parametr '{parameter}' nie jest datą.") from None


def _within(moment: datetime | None, period: tuple[datetime | None, datetime | None]) -> bool:
    start, end = period
    if start is None and end is None:
        return True
    return (
        moment is not None and (start is None or moment >= start) and (end is None or moment <= end)
    )


def _words_asked_for() -> set[str]:
    wanted = set(request.args.getlist("statuses"))
    if not wanted <= {"InProgress", "Succeeded", "Failed", "Cancelled"}:
        raise BadRequest(21405, "Nieprawidłowa wartość parametru 'statuses'.")
    return wanted


def _session_word(code: int) -> str:
    if code < 200:
        return "InProgress"
    return {200: "Succeeded", 440: "Cancelled"}.get(code, "Failed")
