"""The schemas that validate what callers send: paths, queries, bodies."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from app import identifiers
from app.api import examples
from app.api.fields import Digits, InvoiceHash, Moment, Sent, refusing
from app.services import outages
from app.services.events import journal
from app.settings import ENVIRONMENTS


class Strict(Schema):
    """A part of a request, in which unknown members are refused."""

    class Meta:
        unknown = RAISE


class EnvironmentPath(Strict):
    environment = fields.String(
        required=True,
        validate=validate.OneOf(ENVIRONMENTS, error="Must be one of: {choices}."),
        metadata={
            "description": "KSeF environment",
            "title": "Environment",
            "examples": ["test"],
        },
    )


class SessionPath(EnvironmentPath):
    reference_number = fields.String(
        required=True,
        data_key="referenceNumber",
        validate=refusing(identifiers.wrong_reference_number),
        metadata={
            "description": "Reference number of the KSeF session (online or batch)",
            "pattern": f"^{identifiers.REFERENCE_NUMBER}$",
            "examples": [examples.SESSION],
        },
    )


def _ksef_number(*, required: bool) -> fields.String:
    return fields.String(
        required=required,
        data_key="ksefNumber",
        validate=refusing(identifiers.wrong_ksef_number),
        metadata={
            "description": "KSeF number of the invoice",
            "pattern": f"^{identifiers.KSEF_NUMBER}$",
            "examples": [examples.INVOICE],
        },
    )


class UpoPath(SessionPath):
    ksef_number = _ksef_number(required=True)


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
        validate=refusing(outages.wrong_message),
        metadata={
            "minLength": 1,
            "maxLength": outages.LONGEST_MESSAGE,
            "pattern": r"\S",
            "description": "What callers are told, in `detail` and in `outage`",
            "examples": ["Rehearsal until noon"],
        },
    )
    ends_at = Moment(
        data_key="endsAt",
        load_default=None,
        validate=refusing(outages.wrong_end),
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
    limit = Digits(
        load_default=100,
        validate=validate.Range(1, journal.MOST, error="Must be {min} to {max}."),
        metadata={"description": "Events in the answer at most"},
    )


class InvoiceQuery(Strict):
    ksef_number = _ksef_number(required=False)
    invoice_number = fields.String(
        data_key="invoiceNumber",
        validate=[
            validate.Length(1, identifiers.INVOICE_NUMBER_LENGTH),
            refusing(identifiers.wrong_invoice_number),
        ],
        metadata={
            "description": "The seller's number of the invoice",
            "pattern": f"^{identifiers.INVOICE_NUMBER}$",
            "examples": ["FV/2026/09/001"],
        },
    )
    invoice_hash = InvoiceHash(
        data_key="invoiceHash",
        metadata={
            "description": "SHA-256 of the invoice's file as it was sent, in Base64 or hexadecimal",
            "pattern": f"^({identifiers.INVOICE_HASH}|{identifiers.HEX_HASH})$",
            "examples": [examples.HASH],
        },
    )
    sent_at = Sent(
        data_key="sentAt",
        metadata={
            "description": "When you began to send the invoice, in a batch when you opened its"
            " session: RFC 3339, with offset; only with `invoiceHash`",
            "examples": ["2026-09-15T10:00:00+02:00"],
        },
    )

    @validates_schema
    def one_of_them(self, data: dict[str, Any], **_: Any) -> None:
        """Exactly one name of the invoice; the time only beside its hash."""
        if len(data.keys() - {"sent_at"}) != 1:
            raise ValidationError("Give ksefNumber, invoiceNumber or invoiceHash.", "ksefNumber")
        if "sent_at" in data and "invoice_hash" not in data:
            raise ValidationError("Give it with invoiceHash.", "sentAt")
