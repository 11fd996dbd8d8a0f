"""GET /invoices/{environment}?ksefNumber=|invoiceNumber=|invoiceHash="""

from typing import Any
from zoneinfo import ZoneInfo

from flask import Response
from msgspec import structs

from app.api.answers import FoundAnswer, FoundInvoice, FoundRow
from app.api.blueprint import Blueprint, takes
from app.api.responses import json_response, rfc3339
from app.api.schemas import EnvironmentPath, InvoiceQuery
from app.api.status import invoice_answer
from app.context import account, settings
from app.services.sessions.search import Found, find

blueprint = Blueprint("invoices", description="The company's invoices, by their numbers and hashes")


@blueprint.route("/invoices/<environment>")
@takes(EnvironmentPath, InvoiceQuery)
@blueprint.answers(FoundAnswer, "What was found, maybe nothing", examples=("found-invoice",))
@blueprint.problems()
def find_invoice(path: dict[str, str], query: dict[str, Any]) -> Response:
    """What is known of an invoice, by one of its names: the company's rows and kept answers.

    Give exactly one of `ksefNumber`, `invoiceNumber` and `invoiceHash`. KSeF is not asked: an
    invoice of a session that was neither checked nor followed is not known here. By its hash,
    `state` says what became of it; with `sentAt` also whether it never arrived.
    """
    found = find(account(path["environment"]), **query)
    return json_response(_answer(found, settings().response_timezone))


def _answer(found: Found, zone: ZoneInfo) -> FoundAnswer:
    return FoundAnswer(
        rows=[
            FoundRow(
                table=f"{row.kind}_invoices",
                invoice_number=row.invoice_number,
                ksef_number=row.ksef_number,
                ksef_reference_number=row.ksef_reference_number,
                invoice_hash=row.invoice_hash,
                session_reference_number=row.session_reference_number,
                linked_at=rfc3339(row.linked_at, zone),
            )
            for row in found.rows
        ],
        answers=[
            FoundInvoice(
                **structs.asdict(invoice_answer(answer.invoice, answer.original, zone)),
                session_reference_number=answer.session_reference_number,
                final=answer.final,
                checked_at=rfc3339(answer.checked_at, zone),
                upo_archived=answer.upo_archived,
            )
            for answer in found.answers
        ],
        state=found.state,
        unknown_because_of=found.because_of,
        known_since=rfc3339(found.known_since, zone),
        known_until=rfc3339(found.known_until, zone),
    )
