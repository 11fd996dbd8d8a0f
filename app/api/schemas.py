"""The schemas that validate what callers send: paths, queries, bodies."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from app.api import fields as own
from app.services import outages
from app.services.events import journal


class Strict(Schema):
    """A part of a request, in which unknown members are refused."""

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
    ends_at = own.Moment(
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


class EventsQuery(Strict):
    after = fields.String(
        load_default=None,
        validate=validate.Regexp(r"\A[1-9][0-9]{0,17}-[0-9a-f]{8}\Z", error="Must be a `next`."),
        metadata={
            "description": "`next` of the answer before; without it the journal is read from its"
            " beginning",
            "pattern": "^[1-9][0-9]{0,17}-[0-9a-f]{8}$",
        },
    )
    limit = own.Digits(
        load_default=100,
        validate=validate.Range(1, journal.MOST, error="Must be {min} to {max}."),
        metadata={"description": "Events in the answer at most"},
    )


class InvoiceQuery(Strict):
    ksef_number = own.ksef_number(required=False)
    invoice_number = own.invoice_number()
    invoice_hash = own.invoice_hash()
    sent_at = own.sent_at()

    @validates_schema
    def one_of_them(self, data: dict[str, Any], **_: Any) -> None:
        """Exactly one name of the invoice; the time only beside its hash."""
        if len(data.keys() - {"sent_at"}) != 1:
            raise ValidationError("Give ksefNumber, invoiceNumber or invoiceHash.", "ksefNumber")
        if "sent_at" in data and "invoice_hash" not in data:
            raise ValidationError("Give it with invoiceHash.", "sentAt")
