"""GET /invoices/{environment}/status/{referenceNumber}"""

import hashlib
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from flask import Response

from app import errors
from app.api import openapi
from app.api.basic_auth import place_of
from app.api.blueprint import Blueprint
from app.api.context import parts, settings
from app.api.responses import conditional, json_response, local_time, rfc3339
from app.api.schemas import SessionAnswer, SessionPath
from app.services.status import SessionInvoice, Snapshot, check_session

blueprint = Blueprint("status", description="What became of a session sent to KSeF")


@blueprint.route(
    "/invoices/<environment>/status/<referenceNumber>", parameters=[openapi.IF_NONE_MATCH]
)
@blueprint.takes(SessionPath)
@blueprint.answers(
    SessionAnswer,
    "The session as KSeF has it, or had it `Age` seconds ago",
    *openapi.CACHED,
    "Age",
    examples=("finished-session", "moving-session"),
)
@blueprint.answers(
    None, "The answer is the one that If-None-Match names", *openapi.CACHED, "Age", status=304
)
@blueprint.problems(errors.NoActiveKsefSession, errors.SessionNotFound, *openapi.KSEF_ASKED)
def session_status(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """What became of a session, with all its invoices.

    A session that KSeF still works on is a 200 with its moving code (100, 150, 170) and
    `nextCheckAfter`; with `final: true` nothing will change any more, and KSeF is not asked again.

    Before the answer is sent, the company's rows are linked to the session and committed:
    `synced_invoices` by their KSeF number, `offline_invoices` by their reference number.
    """
    place = place_of(path)
    snapshot = check_session(parts(), place, path["reference_number"])
    return _answer(snapshot, settings().response_timezone)


def _answer(snapshot: Snapshot, zone: ZoneInfo) -> Response:
    body = session_body(snapshot, zone)
    tag = hashlib.sha256(orjson.dumps(_lasting(body))).hexdigest()[:32]
    response = json_response(
        {**body, "checkedAt": rfc3339(snapshot.checked_at, zone)},
        headers={
            "Age": str(int(snapshot.age)),
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization",
        },
    )
    response.set_etag(tag, weak=True)
    return conditional(response)


def _lasting(body: dict[str, Any]) -> dict[str, Any]:
    """The part of the body that the ETag stands for: all but the advice when to ask again."""
    return {name: value for name, value in body.items() if name != "nextCheckAfter"}


def session_body(snapshot: Snapshot, zone: ZoneInfo) -> dict[str, Any]:
    """The contract's JSON of a session without `checkedAt`, which is not part of its ETag."""
    session = snapshot.session
    body = {
        "referenceNumber": snapshot.reference_number,
        "status": {"code": session.status.code, "description": session.status.description},
        "dateCreated": local_time(session.date_created, zone),
        "dateUpdated": local_time(session.date_updated, zone),
        "totalInvoiceCount": session.invoice_count,
        "successfulInvoiceCount": session.successful_invoice_count,
        "failedInvoiceCount": session.failed_invoice_count,
        "invoices": [invoice_body(invoice, zone) for invoice in snapshot.invoices],
        "final": snapshot.final,
        "upo": {
            "pages": [{"referenceNumber": page.reference_number} for page in session.upo_pages]
        },
    }
    if snapshot.next_check_after is not None:
        body["nextCheckAfter"] = snapshot.next_check_after
    return body


def invoice_body(invoice: SessionInvoice, zone: ZoneInfo) -> dict[str, Any]:
    """The contract's JSON of one invoice of a session."""
    body: dict[str, Any] = {
        "ordinalNumber": invoice.ordinal_number,
        "invoiceNumber": invoice.invoice_number,
        "ksefNumber": invoice.ksef_number,
        "acquisitionDate": local_time(invoice.acquisition_date, zone),
        "status": {
            "code": invoice.status.code,
            "description": invoice.status.description,
            "details": list(invoice.status.details),
        },
        "referenceNumber": invoice.reference_number,
    }
    if original := invoice.duplicate_of:
        body["duplicateOf"] = {
            "ksefNumber": original.ksef_number,
            "referenceNumber": original.session_reference_number,
        }
    return body
