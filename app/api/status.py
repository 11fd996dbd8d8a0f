"""GET /invoices/{environment}/status/{referenceNumber}"""

import hashlib
from zoneinfo import ZoneInfo

import msgspec
from flask import Response, request
from msgspec import UNSET, structs

from app import errors
from app.api import openapi
from app.api.answers import (
    DuplicateOf,
    SessionAnswer,
    SessionInvoice,
    SessionUpo,
    StatusCode,
    UpoPageReference,
)
from app.api.blueprint import Blueprint, takes
from app.api.responses import conditional, local_time, rfc3339
from app.api.schemas import SessionPath
from app.context import account, settings
from app.services.sessions import store
from app.services.sessions.check import check_session
from app.services.sessions.snapshot import Invoice, Original, Snapshot, Status
from app.services.sessions.store import Written

FORM = 2
"""The version of what `written` writes: answers that were kept in another one are written anew."""

blueprint = Blueprint("status", description="What became of a session sent to KSeF")


@blueprint.route("/invoices/<environment>/status/<referenceNumber>")
@takes(SessionPath)
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
def session_status(path: dict[str, str]) -> Response:
    """What became of a session, with all its invoices.

    A session that KSeF still works on is a 200 with its moving code (100, 150, 170) and
    `nextCheckAfter`; with `final: true` nothing will change any more, and KSeF is not asked again.

    Before the answer is sent, the company's rows are linked to the session and committed:
    `synced_invoices` by their KSeF number, `offline_invoices` by their reference number.
    """
    company, reference_number = account(path["environment"]), path["reference_number"]
    zone = settings().response_timezone
    form = f"{FORM} {zone.key}"
    answer = check_session(company, reference_number, form=form, tags=_known_tags())
    if isinstance(answer, Written):
        return _response(answer.body, answer.tag, answer.age, None)
    body, tag = written(answer, zone)
    if answer.final and not answer.incomplete:
        store.keep(company, reference_number, form, tag, body)
    return conditional(_response(body, tag, answer.age, answer.next_check_after))


def _response(body: bytes | None, tag: str, age: float, next_check_after: int | None) -> Response:
    """The answer, or a 304 where there is no body because the caller has it.

    `next_check_after` is None for a final answer, which costs next to nothing to ask for again.
    """
    response = Response(body, 304 if body is None else 200, mimetype="application/json")
    response.headers["Age"] = str(int(age))
    response.headers["Cache-Control"] = (
        "private, no-cache" if next_check_after is None else f"private, max-age={next_check_after}"
    )
    response.headers["Vary"] = "Accept, Authorization"
    response.set_etag(tag, weak=True)
    return response


def _known_tags() -> list[str]:
    """The tags in If-None-Match; `*` stands for any."""
    known = request.if_none_match
    return ["*"] if known.star_tag else sorted(filter(None, known.as_set(include_weak=True)))


def written(snapshot: Snapshot, zone: ZoneInfo) -> tuple[bytes, str]:
    """The answer's JSON and its tag, which stands for all but when KSeF was and is to be asked."""
    session = snapshot.session
    lasting = SessionAnswer(
        reference_number=snapshot.reference_number,
        status=_status(session.status),
        date_created=local_time(session.date_created, zone),
        date_updated=local_time(session.date_updated, zone),
        total_invoice_count=session.invoice_count,
        successful_invoice_count=session.successful_invoice_count,
        failed_invoice_count=session.failed_invoice_count,
        invoices=[
            invoice_answer(invoice, snapshot.original_of(invoice), zone)
            for invoice in snapshot.invoices
        ],
        final=snapshot.final,
        upo=SessionUpo(
            pages=[
                UpoPageReference(reference_number=page.reference_number)
                for page in session.upo_pages
            ]
        ),
        valid_until=rfc3339(snapshot.open_until, zone),
        checked_at="",
    )
    tag = hashlib.sha256(msgspec.json.encode(lasting)).hexdigest()[:32]
    next_check = snapshot.next_check_after
    answer = structs.replace(
        lasting,
        checked_at=rfc3339(snapshot.checked_at, zone),
        next_check_after=UNSET if next_check is None else next_check,
    )
    return msgspec.json.encode(answer), tag


def _status(status: Status) -> StatusCode:
    return StatusCode(code=status.code, description=status.description, details=status.details)


def invoice_answer(invoice: Invoice, original: Original | None, zone: ZoneInfo) -> SessionInvoice:
    """One invoice of a session, and the original that it repeats."""
    return SessionInvoice(
        ordinal_number=invoice.ordinal_number,
        invoice_number=invoice.invoice_number,
        ksef_number=invoice.ksef_number,
        acquisition_date=local_time(invoice.acquisition_date, zone),
        status=_status(invoice.status),
        reference_number=invoice.reference_number,
        invoice_hash=invoice.invoice_hash,
        invoice_file_name=invoice.invoice_file_name,
        invoicing_date=rfc3339(invoice.invoicing_date, zone),
        invoicing_mode=invoice.invoicing_mode,
        duplicate_of=DuplicateOf(
            ksef_number=original.ksef_number,
            reference_number=original.session_reference_number,
        )
        if original
        else UNSET,
    )
