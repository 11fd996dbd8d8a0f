"""KSeF's sessions: what became of them and of their invoices."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from flask import Response, request

from sandbox.access import check_reference, environment, find_session, own_session, require
from sandbox.blueprints import ksef
from sandbox.clock import parse_stamp, stamp
from sandbox.documents import Links
from sandbox.paging import list_page
from sandbox.problems import BadRequest, json_response, status_info
from sandbox.state import Invoice, Session, Summary
from sandbox.world import world

_SESSION_FAILURES: Final = {
    405: "Błąd weryfikacji poprawności dostarczonych elementów paczki",
    415: "Błąd odszyfrowania dostarczonego klucza",
    420: "Przekroczony limit faktur w sesji",
    430: "Błąd dekompresji pierwotnego archiwum",
    435: "Błąd odszyfrowania zaszyfrowanych części archiwum",
    440: "Sesja anulowana",
    445: "Błąd weryfikacji, brak poprawnych faktur",
}
SESSION_WORDS: Final = {
    "online": {
        100: "Sesja interaktywna otwarta",
        170: "Sesja interaktywna zamknięta",
        200: "Sesja interaktywna przetworzona pomyślnie",
        **_SESSION_FAILURES,
    },
    "batch": {
        100: "Sesja wsadowa rozpoczęta",
        150: "Trwa przetwarzanie",
        200: "Sesja wsadowa przetworzona pomyślnie",
        **_SESSION_FAILURES,
    },
}
INVOICE_WORDS: Final = {
    100: "Faktura przyjęta do dalszego przetwarzania",
    150: "Trwa przetwarzanie",
    200: "Sukces",
    405: "Przetwarzanie anulowane z powodu błędu sesji",
    410: "Nieprawidłowy zakres uprawnień",
    415: "Brak możliwości wysyłania faktury z załącznikiem",
    430: "Błąd weryfikacji pliku faktury",
    435: "Błąd odszyfrowania pliku",
    440: "Duplikat faktury",
    450: "Błąd weryfikacji semantyki dokumentu faktury",
    550: "Operacja została anulowana przez system",
}


@ksef.get("/sessions/<reference>")
def session(reference: str) -> Response:
    """A session's status, counts and UPO pages."""
    found = find_session(reference)
    now = world().clock.now()
    with environment().lock:
        summary = found.summary(now)
        links = _links(now)
        pages = [
            {
                "referenceNumber": page.reference,
                "downloadUrl": links.to_upo(found, page.reference),
                "downloadUrlExpirationDate": links.end,
            }
            for page in found.pages(now, world().settings.upo_page_size)
        ]
    answer = _facts(found, summary) | {"invoiceCount": summary.total}
    if pages:
        answer["upo"] = {"pages": pages}
    return json_response(answer)


def _facts(found: Session, summary: Summary) -> dict[str, Any]:
    """What is said of a session alone and in the list of sessions."""
    return {
        "status": status_info(summary.code, SESSION_WORDS[found.kind], summary.details),
        "dateCreated": stamp(found.created),
        "dateUpdated": stamp(summary.updated),
        "validUntil": stamp(found.valid_until) if found.kind == "online" else None,
        "successfulInvoiceCount": summary.successful,
        "failedInvoiceCount": summary.failed,
    }


@ksef.get("/sessions")
def sessions() -> Response:
    """The caller's sessions, newest first."""
    login = require("access")
    kind = request.args.get("sessionType")
    if kind not in ("Online", "Batch"):
        raise BadRequest(21405, "Parametr 'sessionType' musi mieć wartość Online lub Batch.")
    wanted = set(request.args.getlist("statuses"))
    if not wanted <= {"InProgress", "Succeeded", "Failed", "Cancelled"}:
        raise BadRequest(21405, "Nieprawidłowa wartość parametru 'statuses'.")
    periods = [
        (_moment(f"{field}From"), _moment(f"{field}To"))
        for field in ("dateCreated", "dateClosed", "dateModified")
    ]
    only = request.args.get("referenceNumber")
    if only is not None:
        check_reference(only)
    now = world().clock.now()
    with environment().lock:
        own = [
            (found, found.summary(now))
            for found in environment().sessions.values()
            if found.nip == login.nip
            and found.kind == kind.lower()
            and only in (None, found.reference)
        ]
    chosen = [
        (found, summary)
        for found, summary in own
        if all(map(_within, (found.created, found.closed, summary.updated), periods))
        and (not wanted or _session_word(summary.code) in wanted)
    ]
    chosen.sort(key=lambda one: one[0].created, reverse=True)
    scope = f"{login.nip}|{request.query_string.decode()}"
    return list_page("sessions", scope, chosen, lambda one: _listed(*one))


def _listed(found: Session, summary: Summary) -> dict[str, Any]:
    of_list = {"referenceNumber": found.reference, "totalInvoiceCount": summary.total}
    return _facts(found, summary) | of_list


@ksef.get("/sessions/<reference>/invoices")
def session_invoices(reference: str) -> Response:
    """A session's invoices, in the order of sending."""
    found = find_session(reference)
    return _list_invoices(found, found.invoices, "all", world().clock.now())


@ksef.get("/sessions/<reference>/invoices/failed")
def failed_session_invoices(reference: str) -> Response:
    """Those of them that were not accepted."""
    found = find_session(reference)
    now = world().clock.now()
    with environment().lock:
        failed = [invoice for invoice in found.invoices if invoice.code_at(now) > 200]
    return _list_invoices(found, failed, "failed", now)


@ksef.get("/sessions/<reference>/invoices/<invoice_reference>")
def session_invoice(reference: str, invoice_reference: str) -> Response:
    """One invoice, by its reference number."""
    found = own_session(reference)
    check_reference(invoice_reference)
    invoice = found.by_reference.get(invoice_reference) if found is not None else None
    if found is None or invoice is None:
        # The official page names no other code for this call.
        raise BadRequest(21405, f"Faktura {invoice_reference} nie została znaleziona w sesji.")
    now = world().clock.now()
    with environment().lock:
        return json_response(describe_invoice(found, invoice, now, _links(now)))


def _links(now: datetime) -> Links:
    return Links(now + timedelta(seconds=world().settings.link_seconds))


def _list_invoices(
    found: Session, invoices: Sequence[Invoice], which: str, now: datetime
) -> Response:
    links = _links(now)
    with environment().lock:
        return list_page(
            "invoices",
            f"{found.reference}|{which}",
            invoices,
            lambda invoice: describe_invoice(found, invoice, now, links),
        )


def describe_invoice(
    found: Session, invoice: Invoice, now: datetime, links: Links
) -> dict[str, Any]:
    """An invoice in KSeF's `SessionInvoiceStatusResponse` shape."""
    code = invoice.code_at(now)
    final = code >= 200
    accepted_at = invoice.finishes if code == 200 else None
    stored_at = None
    if accepted_at is not None:
        delay = timedelta(seconds=world().settings.permanent_storage_seconds)
        stored_at = accepted_at + delay if accepted_at + delay <= now else None
    status = status_info(code, INVOICE_WORDS, invoice.details if final else None)
    if final and invoice.extensions:
        status["extensions"] = invoice.extensions
    return {
        "ordinalNumber": invoice.ordinal,
        # KSeF names the number of an accepted invoice only; the hash always.
        "invoiceNumber": invoice.invoice_number if code == 200 else None,
        "ksefNumber": invoice.ksef_number if code == 200 else None,
        "referenceNumber": invoice.reference,
        "invoiceHash": invoice.sha256,
        "invoiceFileName": invoice.file_name,
        "acquisitionDate": stamp(accepted_at) if accepted_at else None,
        "invoicingDate": stamp(invoice.received),
        "permanentStorageDate": stamp(stored_at) if stored_at else None,
        "upoDownloadUrl": links.to_upo(found, invoice.reference) if accepted_at else None,
        "upoDownloadUrlExpirationDate": links.end if accepted_at else None,
        "invoicingMode": "Offline" if invoice.offline else "Online",
        "status": status,
    }


def _moment(parameter: str) -> datetime | None:
    text = request.args.get(parameter)
    if text is None:
        return None
    try:
        if not re.match(r"\d{4}-\d\d-\d\dT\d\d:", text, re.ASCII):
            raise ValueError(text)
        # An unescaped plus sign of an offset arrives as a blank.
        return parse_stamp(text.replace(" ", "+"))
    except ValueError:
        raise BadRequest(21405, f"Parametr '{parameter}' nie jest datą i godziną.") from None


def _within(moment: datetime | None, period: tuple[datetime | None, datetime | None]) -> bool:
    start, end = period
    if moment is None:
        return start is end is None
    return (start or moment) <= moment <= (end or moment)


def _session_word(code: int) -> str:
    if code < 200:
        return "InProgress"
    return {200: "Succeeded", 440: "Cancelled"}.get(code, "Failed")
