"""The schemas of requests and answers, from which `/openapi.json` is made.

Request schemas validate what callers send. Answer schemas are documentation only: answers are
written without them, which is faster (see `app.api.responses`).
"""

from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from app.api import fields as own
from app.api import openapi
from app.services import outages
from app.settings import ENVIRONMENTS


class Strict(Schema):
    """A part of a request, in which unknown members are refused."""

    class Meta:
        unknown = RAISE


class Answer(Schema):
    """A part of an answer. New members may be added at any time; callers must ignore them."""

    class Meta:
        unknown = EXCLUDE


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
        metadata={"description": "The document's format", "title": "DocType"},
    )


class SimulationBody(Strict):
    message = fields.String(
        required=True,
        validate=own.refusing(outages.wrong_message),
        metadata={
            "minLength": 1,
            "maxLength": outages.LONGEST_MESSAGE,
            "pattern": r"\S",
            "description": "What callers are told, in `detail` and in `outage`",
            "examples": ["Rehearsal until noon"],
        },
    )
    ends_at = fields.AwareDateTime(
        data_key="endsAt",
        load_default=None,
        allow_none=True,
        format="iso",
        validate=own.refusing(outages.wrong_end),
        metadata={
            "description": "When it ends by itself: RFC 3339, with offset, in the future",
            "examples": ["2099-01-01T12:00:00+01:00"],
        },
    )


def _text(description: str, **metadata: Any) -> fields.String:
    return fields.String(required=True, metadata={"description": description, **metadata})


def _nullable(description: str) -> fields.String:
    return fields.String(required=True, allow_none=True, metadata={"description": description})


def _one_of(title: str, description: str, *values: str) -> fields.String:
    """A choice. Its title is the type's name in generated clients, the same for equal choices."""
    return fields.String(
        required=True,
        validate=validate.OneOf(values),
        metadata={"title": title, "description": description},
    )


def _seconds(description: str) -> fields.Integer:
    return fields.Integer(metadata={"description": description, "minimum": 0})


def _flag(description: str) -> fields.Boolean:
    return fields.Boolean(required=True, metadata={"description": description})


def _count(description: str) -> fields.Integer:
    return fields.Integer(required=True, metadata={"description": description, "minimum": 0})


def _moment(description: str, *, nullable: bool = False) -> fields.DateTime:
    return fields.DateTime(
        required=True,
        allow_none=nullable,
        metadata={"description": f"{description} (RFC 3339)"},
    )


def _local_time(description: str, *, nullable: bool = False) -> fields.String:
    return fields.String(
        required=True,
        allow_none=nullable,
        metadata={
            "description": f"{description} (YYYY-MM-DD HH:MM:SS in the response time zone)",
            "pattern": r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$",
        },
    )


class SessionStatusCode(Answer):
    code = fields.Integer(
        required=True,
        metadata={"description": "KSeF's code: 100, 150, 170 still moving; from 200 on final"},
    )
    description = _text("KSeF's own words")


class InvoiceStatusCode(SessionStatusCode):
    details = fields.List(
        fields.String(), required=True, metadata={"description": "KSeF's details, maybe none"}
    )


class DuplicateOf(Answer):
    ksefNumber = _text("KSeF number of the original invoice")
    referenceNumber = _text("Session in which the original was sent")


class SessionInvoice(Answer):
    ordinalNumber = _count("Place of the invoice in the session, from 1")
    invoiceNumber = _nullable("The seller's number of the invoice")
    ksefNumber = _nullable("Null while the invoice is moving, or where it was rejected")
    acquisitionDate = _local_time("When KSeF gave the invoice its number", nullable=True)
    status = fields.Nested(InvoiceStatusCode, required=True)
    referenceNumber = _text("KSeF's own reference number of the invoice")
    duplicateOf = fields.Nested(DuplicateOf, metadata={"description": "Only with code 440"})


class UpoPageReference(Answer):
    referenceNumber = _text("Reference number of a page of the session's collective UPO")


class SessionUpo(Answer):
    pages = fields.List(fields.Nested(UpoPageReference), required=True)


class SessionAnswer(Answer):
    referenceNumber = _text("The reference number asked for")
    status = fields.Nested(SessionStatusCode, required=True)
    dateCreated = _local_time("When the session was begun")
    dateUpdated = _local_time("When KSeF last changed it")
    totalInvoiceCount = _count("Invoices of the session")
    successfulInvoiceCount = _count("Accepted invoices")
    failedInvoiceCount = _count("Rejected invoices")
    invoices = fields.List(
        fields.Nested(SessionInvoice),
        required=True,
        metadata={"description": "All invoices of the session (up to 10,000), by ordinalNumber"},
    )
    checkedAt = _moment("When KSeF was last asked")
    final = _flag("Nothing of this answer will change any more")
    nextCheckAfter = _seconds("Seconds until asking again is worth it; only while moving")
    upo = fields.Nested(SessionUpo, required=True)


class UpoAnswer(Answer):
    ksefNumber = _text("The KSeF number asked for")
    referenceNumber = _text("The session asked for")
    docType = _one_of("DocType", "The document's format", "xml", "pdf")
    contentType = _one_of(
        "DocumentMediaType", "Its media type", "application/xml", "application/pdf"
    )
    content = _text("The document, Base64", format="byte", contentEncoding="base64")
    fileName = _text("A name to store it under")


class UpoPageAnswer(Answer):
    referenceNumber = _text("Reference number of the page")
    fileName = _text("A name to store it under")
    content = _text("The document, Base64", format="byte", contentEncoding="base64")


class SessionUpoAnswer(Answer):
    referenceNumber = _text("The session asked for")
    docType = _one_of("DocType", "The document's format", "xml", "pdf")
    contentType = _one_of(
        "DocumentMediaType", "Its media type", "application/xml", "application/pdf"
    )
    pages = fields.List(fields.Nested(UpoPageAnswer), required=True)


class InvoiceQuery(Strict):
    ksef_number = own.ksef_number(required=False)
    invoice_number = own.invoice_number()

    @validates_schema
    def one_of_both(self, data: dict[str, str], **_: Any) -> None:
        """Exactly one of the two numbers."""
        if len(data) != 1:
            raise ValidationError("Give ksefNumber or invoiceNumber.", "ksefNumber")


class FoundRow(Answer):
    table = _one_of("RowTable", "The table of the row", "synced_invoices", "offline_invoices")
    invoiceNumber = _text("The seller's number of the invoice")
    ksefNumber = _nullable("KSeF number")
    ksefReferenceNumber = _nullable("Reference number, in offline_invoices")
    sessionReferenceNumber = _nullable("The session that the row is linked to")
    linkedAt = _moment("When it was linked", nullable=True)


class FoundInvoice(SessionInvoice):
    sessionReferenceNumber = _text("The session that holds the invoice")
    final = _flag("Nothing of the session will change any more")
    checkedAt = _moment("When KSeF was last asked after the session")
    upoArchived = _flag("The UPO is given without asking KSeF")


class FoundAnswer(Answer):
    rows = fields.List(
        fields.Nested(FoundRow),
        required=True,
        metadata={"description": "The company's own rows of the invoice"},
    )
    answers = fields.List(
        fields.Nested(FoundInvoice),
        required=True,
        metadata={"description": "The invoice in the kept answers of KSeF, by session"},
    )


class KsefSessionAnswer(Answer):
    environment = _one_of("Environment", "KSeF environment", *ENVIRONMENTS)
    nip = _text("The company's NIP", pattern="^[0-9]{10}$")
    method = _one_of("LoginMethod", "With what the company was logged in", "token", "certificate")
    authenticatedAt = _moment("When the company was logged in")
    accessTokenValidUntil = _moment("End of the access token; it is renewed before")
    refreshTokenValidUntil = _moment("End of the refresh token; a new login replaces it")
    certificateValidUntil = _moment(
        "End of the stored certificate, for the next login; null where a KSeF token is stored",
        nullable=True,
    )


class OutageMessage(Answer):
    title = _text("Title")
    text = _text("Text")
    start = _moment("Begin")
    end = _moment("End", nullable=True)
    category = _one_of(
        "OutageCategory", "What kind of outage", "FAILURE", "TOTAL_FAILURE", "MAINTENANCE"
    )


class Outage(Answer):
    established = _flag(
        "KSeF is known to be down, or so simulated; else there is suspicion at most"
    )
    since = _moment(
        "Begin of the outage, or of the failures where none is established", nullable=True
    )
    consecutiveFailures = _count("Calls in a row that failed as if KSeF were down")
    source = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(("simulation", "latarnia", "breaker")),
        metadata={"title": "OutageSource", "description": "Who established the outage"},
    )
    messages = fields.List(
        fields.Nested(OutageMessage),
        required=True,
        metadata={"description": "What Latarnia, or the simulation, says of it"},
    )
    duty = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(
            ("next_working_day_after_end", "seven_working_days_after_end", "none")
        ),
        metadata={
            "title": "OutageDuty",
            "description": "By when offline invoices must be sent to KSeF, where Latarnia set it",
        },
    )


class OutageAnswer(Answer):
    environment = _one_of("Environment", "KSeF environment", *ENVIRONMENTS)
    outage = fields.Nested(Outage, required=True)


def _state(environment: str) -> fields.String:
    return _one_of(
        "EnvironmentState", f"KSeF's {environment}", "available", "outage", "simulation", "unknown"
    )


class EnvironmentStates(Answer):
    test = _state("test environment")
    demo = _state("demo environment")
    prod = _state("production")


class ServiceStatus(Answer):
    version = _text("Version of the service")
    environments = fields.Nested(EnvironmentStates, required=True)


class Health(Answer):
    status = _one_of("HealthStatus", "Always ok; else there is a problem", "ok")


class KsefSaid(Answer):
    httpStatus = fields.Integer(required=True, metadata={"description": "KSeF's HTTP status"})
    code = fields.Integer(
        required=True, allow_none=True, metadata={"description": "KSeF's own code, if it gave one"}
    )
    description = _nullable("KSeF's own words")
    traceId = _nullable("KSeF's trace id, for its support")


class Problem(Answer):
    """RFC 9457, with the members of the contract."""

    type = _text("urn:ksef-proxy:problem:{code}")
    title = _text("The code in words")
    status = fields.Integer(required=True, metadata={"description": "The HTTP status"})
    detail = _text("What happened, for a person")
    code = _one_of("ProblemCode", "What happened, for a program", *openapi.CODES)
    requestId = _text("Stands in the log, and in X-Request-ID")
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "What is wrong, by parameter"},
    )
    retryAfter = _seconds("Seconds until asking again is worth it; also in Retry-After")
    ksef = fields.Nested(KsefSaid)
    outage = fields.Nested(Outage)
