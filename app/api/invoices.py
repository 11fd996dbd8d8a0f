"""GET /invoices/{environment}?ksefNumber=|invoiceNumber="""

from typing import Any
from zoneinfo import ZoneInfo

from flask import Response

from app.api.basic_auth import place_of
from app.api.blueprint import Blueprint
from app.api.context import parts, settings
from app.api.responses import json_response, rfc3339
from app.api.schemas import EnvironmentPath, FoundAnswer, InvoiceQuery
from app.api.status import invoice_body
from app.services.search import Found, find

blueprint = Blueprint("invoices", description="The company's invoices, by their numbers")


@blueprint.route("/invoices/<environment>")
@blueprint.takes(EnvironmentPath, InvoiceQuery)
@blueprint.answers(FoundAnswer, "What was found, maybe nothing", examples=("found-invoice",))
@blueprint.problems()
def find_invoice(path: dict[str, str], query: dict[str, str], **_url: str) -> Response:
    """What is known of an invoice, by one of its numbers: the company's rows and kept answers.

    Give exactly one of `ksefNumber` and `invoiceNumber`. KSeF is not asked: an invoice of a session
    that was never checked is not known here.
    """
    place = place_of(path)
    found = find(
        parts(),
        place,
        ksef_number=query.get("ksef_number"),
        invoice_number=query.get("invoice_number"),
    )
    return json_response(_body(found, settings().response_timezone))


def _body(found: Found, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "rows": [
            {
                "table": f"{row.kind}_invoices",
                "invoiceNumber": row.invoice_number,
                "ksefNumber": row.ksef_number,
                "ksefReferenceNumber": row.ksef_reference_number,
                "sessionReferenceNumber": row.session_reference_number,
                "linkedAt": rfc3339(row.linked_at, zone),
            }
            for row in found.rows
        ],
        "answers": [
            {
                **invoice_body(answer.invoice, zone),
                "sessionReferenceNumber": answer.session_reference_number,
                "final": answer.final,
                "checkedAt": rfc3339(answer.checked_at, zone),
                "upoArchived": answer.upo_archived,
            }
            for answer in found.answers
        ],
    }
