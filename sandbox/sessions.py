"""KSeF's sessions: what became of them and of their invoices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, Response, g, request

from sandbox.access import check_reference, environment, find_session, require
from sandbox.clock import parse_stamp, stamp
from sandbox.documents import Links, upo_page_links
from sandbox.paging import Page, page_bounds, token_at
from sandbox.problems import BadRequest, json_response
from sandbox.state import Invoice, Session, invoice_words
from sandbox.world import world


def register(ksef: Blueprint) -> None:
    """Adds the routes of asking to KSeF's blueprint."""
    ksef.add_url_rule("/sessions", view_func=sessions)
    ksef.add_url_rule("/sessions/<reference>", view_func=session)
    ksef.add_url_rule("/sessions/<reference>/invoices", view_func=session_invoices)
    ksef.add_url_rule("/sessions/<reference>/invoices/failed", view_func=failed_session_invoices)
    ksef.add_url_rule(
        "/sessions/<reference>/invoices/<invoice_reference>", view_func=session_invoice
    )


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
    start, stop = page_bounds(scope, len(items))
    g.page = Page(token_at(scope, start), None, None)
    return json_response(
        {
            "continuationToken": token_at(scope, stop) if stop < len(items) else None,
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
    now = world().clock.now()
    with environment().lock:
        return json_response(describe_invoice(found, invoice, now, Links(environment(), now)))


def _list_invoices(
    found: Session, invoices: Sequence[Invoice], which: str, now: datetime
) -> Response:
    scope = f"{found.reference}|{which}"
    links = Links(environment(), now)
    with environment().lock:
        start, stop = page_bounds(scope, len(invoices))
        more = stop < len(invoices)
        g.page = Page(
            token_at(scope, start),
            describe_invoice(found, invoices[0], now, links) if invoices else None,
            describe_invoice(found, invoices[stop], now, links) if more else None,
        )
        return json_response(
            {
                "continuationToken": token_at(scope, stop) if more else None,
                "invoices": [
                    describe_invoice(found, invoice, now, links) for invoice in invoices[start:stop]
                ],
            }
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
        "upoDownloadUrl": links.to(found, invoice.reference) if accepted_at else None,
        "upoDownloadUrlExpirationDate": links.end if accepted_at else None,
        "invoicingMode": "Offline" if invoice.offline else "Online",
        "status": status,
    }


def _status(code: int, description: str, details: list[str] | None) -> dict[str, Any]:
    status: dict[str, Any] = {"code": code, "description": description}
    if details:
        status["details"] = details
    return status


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
