"""What callers may ask, checked, and what they get, described.

The request schemas validate; the answer schemas only document (long answers are written without
them, see `app.api.responses`). Both make `/openapi.json`.
"""

from datetime import UTC, datetime
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from app.api import fields as own

MESSAGE_LENGTH = 1000
LAST_MOMENT = datetime(9998, 12, 31, tzinfo=UTC)  # in any time zone still of a year of Python's


class Strict(Schema):
    """A request part: what is not named here is refused."""

    class Meta:
        unknown = RAISE


class EnvironmentPath(Strict):
    environment = own.environment()


class SessionPath(EnvironmentPath):
    reference_number = own.reference_number()


class UpoPath(SessionPath):
    ksef_number = own.ksef_number()


class NoQuery(Strict):
    """A call that takes no query parameter."""


class UpoQuery(Strict):
    doc_type = fields.String(
        data_key="docType",
        load_default="xml",
        validate=validate.OneOf(("xml", "pdf"), error="Must be one of: {choices}."),
        metadata={"description": "The document's format"},
    )


def _can_be_stored(text: str) -> None:
    """JSON may hold what PostgreSQL may not: NUL, and halves of surrogate pairs."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValidationError("Holds characters that are none.")


def _can_be_told(moment: datetime) -> None:
    if moment > LAST_MOMENT:
        raise ValidationError("Is too far away.")


class SimulationBody(Strict):
    message = fields.String(
        required=True, validate=[validate.Length(1, MESSAGE_LENGTH), _can_be_stored]
    )
    ends_at = fields.AwareDateTime(
        data_key="endsAt",
        load_default=None,
        allow_none=True,
        format="iso",
        validate=_can_be_told,
        metadata={"description": "RFC 3339, with offset, in the future"},
    )


def _text(description: str, **metadata: Any) -> fields.String:
    return fields.String(required=True, metadata={"description": description, **metadata})


def _nullable(description: str) -> fields.String:
    return fields.String(required=True, allow_none=True, metadata={"description": description})


def _count(description: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": description, "minimum": 0})


def _moment(description: str, *, nullable: bool = False) -> fields.DateTime:
    return fields.DateTime(
        required=True,
        allow_none=nullable,
        metadata={"description": f"{description} (RFC 3339)"},
    )


class SessionStatusCode(Schema):
    code = fields.Integer(
        required=True,
        metadata={"description": "KSeF's code: 100, 150, 170 still moving; from 200 on final"},
    )
    description = _text("KSeF's own words")


class InvoiceStatusCode(SessionStatusCode):
    details = fields.List(fields.String(), required=True)


class DuplicateOf(Schema):
    ksefNumber = _text("KSeF number of the original invoice")
    referenceNumber = _text("Session in which the original was sent")


class SessionInvoice(Schema):
    ordinalNumber = fields.Integer(required=True)
    invoiceNumber = _nullable("The seller's number of the invoice")
    ksefNumber = _nullable("Null while the invoice is moving, or where it was rejected")
    acquisitionDate = _nullable("YYYY-MM-DD HH:MM:SS in the response time zone")
    status = fields.Nested(InvoiceStatusCode, required=True)
    referenceNumber = _text("KSeF's own reference number of the invoice")
    duplicateOf = fields.Nested(DuplicateOf, metadata={"description": "Only with code 440"})


class UpoPageReference(Schema):
    referenceNumber = _text("Reference number of a page of the session's collective UPO")


class SessionUpo(Schema):
    pages = fields.List(fields.Nested(UpoPageReference), required=True)


class SessionAnswer(Schema):
    referenceNumber = _text("The reference number asked for")
    status = fields.Nested(SessionStatusCode, required=True)
    dateCreated = _text("YYYY-MM-DD HH:MM:SS in the response time zone")
    dateUpdated = _text("YYYY-MM-DD HH:MM:SS in the response time zone")
    totalInvoiceCount = _count("Invoices of the session")
    successfulInvoiceCount = _count("Accepted invoices")
    failedInvoiceCount = _count("Rejected invoices")
    invoices = fields.List(
        fields.Nested(SessionInvoice),
        required=True,
        metadata={"description": "All invoices of the session (up to 10,000), by ordinalNumber"},
    )
    checkedAt = _moment("When KSeF was last asked")
    final = fields.Boolean(
        required=True, metadata={"description": "Nothing of this answer will change any more"}
    )
    nextCheckAfter = fields.Integer(
        metadata={"description": "Seconds until asking again is worth it; only while moving"}
    )
    upo = fields.Nested(SessionUpo, required=True)


class UpoAnswer(Schema):
    ksefNumber = _text("The KSeF number asked for")
    referenceNumber = _text("The session asked for")
    docType = fields.String(required=True, validate=validate.OneOf(("xml", "pdf")))
    contentType = fields.String(
        required=True, validate=validate.OneOf(("application/xml", "application/pdf"))
    )
    content = _text("The document, Base64", format="byte")
    fileName = _text("A name to store it under")


class UpoPageAnswer(Schema):
    referenceNumber = _text("Reference number of the page")
    fileName = _text("A name to store it under")
    content = _text("The document, Base64", format="byte")


class SessionUpoAnswer(Schema):
    referenceNumber = _text("The session asked for")
    docType = fields.String(required=True, validate=validate.OneOf(("xml", "pdf")))
    contentType = fields.String(
        required=True, validate=validate.OneOf(("application/xml", "application/pdf"))
    )
    pages = fields.List(fields.Nested(UpoPageAnswer), required=True)


class InvoiceQuery(Strict):
    ksef_number = own.ksef_number(required=False)
    invoice_number = fields.String(
        data_key="invoiceNumber",
        validate=[
            validate.Length(1, 256),
            validate.Predicate("isprintable", error="Not printable."),
        ],
        metadata={"description": "The seller's number of the invoice"},
    )

    @validates_schema
    def one_of_both(self, data: dict[str, str], **_: Any) -> None:
        """Exactly one of the two numbers."""
        if len(data) != 1:
            raise ValidationError("Give ksefNumber or invoiceNumber.", "ksefNumber")


class FoundRow(Schema):
    table = fields.String(
        required=True, validate=validate.OneOf(("synced_invoices", "offline_invoices"))
    )
    invoiceNumber = _text("The seller's number of the invoice")
    ksefNumber = _nullable("KSeF number")
    ksefReferenceNumber = _nullable("Reference number, in offline_invoices")
    sessionReferenceNumber = _nullable("The session that the row is linked to")
    linkedAt = _moment("When it was linked", nullable=True)


class FoundInvoice(SessionInvoice):
    sessionReferenceNumber = _text("The session that holds the invoice")
    final = fields.Boolean(required=True)
    checkedAt = _moment("When KSeF was last asked after the session")
    upoArchived = fields.Boolean(required=True)


class FoundAnswer(Schema):
    rows = fields.List(fields.Nested(FoundRow), required=True)
    answers = fields.List(fields.Nested(FoundInvoice), required=True)


class KsefSessionAnswer(Schema):
    environment = _text("KSeF environment")
    nip = _text("The company's NIP")
    method = fields.String(
        required=True,
        validate=validate.OneOf(("token", "certificate")),
        metadata={"description": "With what the company was logged in"},
    )
    authenticatedAt = _moment("When the company was logged in")
    accessTokenValidUntil = _moment("End of the access token; it is renewed before")
    refreshTokenValidUntil = _moment("End of the refresh token; a new login replaces it")
    certificateValidUntil = _moment(
        "End of the stored certificate, for the next login; null where a KSeF token is stored",
        nullable=True,
    )


class OutageMessage(Schema):
    title = _text("Title")
    text = _text("Text")
    start = _moment("Begin")
    end = _moment("End", nullable=True)
    category = _text("FAILURE, TOTAL_FAILURE or MAINTENANCE")


class Outage(Schema):
    established = fields.Boolean(required=True)
    since = _moment(
        "Begin of the outage, or of the failures where none is established", nullable=True
    )
    consecutiveFailures = _count("Calls in a row that failed as if KSeF were down")
    source = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(("simulation", "latarnia", "breaker")),
        metadata={"description": "Who established the outage"},
    )
    messages = fields.List(fields.Nested(OutageMessage), required=True)
    duty = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(
            ("next_working_day_after_end", "seven_working_days_after_end", "none")
        ),
        metadata={
            "description": "By when offline invoices must be sent to KSeF, where Latarnia set it"
        },
    )


class OutageAnswer(Schema):
    environment = _text("KSeF environment")
    outage = fields.Nested(Outage, required=True)


class ServiceStatus(Schema):
    version = _text("Version of the service")
    environments = fields.Dict(
        keys=fields.String(),
        values=fields.String(
            validate=validate.OneOf(("available", "outage", "simulation", "unknown"))
        ),
        required=True,
    )


class Health(Schema):
    status = _text("ok")


class KsefSaid(Schema):
    httpStatus = fields.Integer(required=True)
    code = fields.Integer(allow_none=True, required=True)
    description = _nullable("KSeF's own words")
    traceId = _nullable("KSeF's trace id, for its support")


class Problem(Schema):
    """RFC 9457, with the members of the contract."""

    type = _text("urn:ksef-proxy:problem:{code}")
    title = _text("The code in words")
    status = fields.Integer(required=True)
    detail = _text("What happened, for a person")
    code = _text("What happened, for a program")
    requestId = _text("Stands in the log, and in X-Request-ID")
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "What is wrong, by parameter"},
    )
    retryAfter = fields.Integer(metadata={"description": "Seconds, as in Retry-After"})
    ksef = fields.Nested(KsefSaid)
    outage = fields.Nested(Outage)
