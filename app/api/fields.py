"""The identifiers of the contract as marshmallow fields, which validate them."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from marshmallow import ValidationError, fields, validate

from app import identifiers
from app.api import examples
from app.settings import ENVIRONMENTS

T = TypeVar("T")


def refusing(wrong: Callable[[T], str | None]) -> Callable[[T], None]:
    """A validator made from a function that returns what is wrong with a value, or None."""

    def check(value: T) -> None:
        if said := wrong(value):
            raise ValidationError(said)

    return check


class Digits(fields.Integer):
    """A whole number in a query, of digits only: Python would also take ` +1_0 ` for one."""

    def _validated(self, value: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


def environment() -> fields.String:
    """One of KSeF's environments."""
    return fields.String(
        required=True,
        validate=validate.OneOf(ENVIRONMENTS, error="Must be one of: {choices}."),
        metadata={
            "description": "KSeF environment",
            "title": "Environment",
            "examples": ["test"],
        },
    )


def reference_number() -> fields.String:
    """KSeF's reference number of a session, online or batch."""
    return fields.String(
        required=True,
        data_key="referenceNumber",
        validate=refusing(identifiers.wrong_reference_number),
        metadata={
            "description": "Reference number of the KSeF session (online or batch)",
            "pattern": f"^{identifiers.REFERENCE_NUMBER}$",
            "examples": [examples.SESSION],
        },
    )


def ksef_number(*, required: bool = True) -> fields.String:
    """KSeF's number of an invoice. If it has full length (35 characters), its CRC is checked."""
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


class InvoiceHash(fields.String):
    """A SHA-256 in Base64 or hexadecimal; loaded as KSeF writes it, in Base64.

    A `+` that was not encoded arrives as a space.
    """

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        text = identifiers.base64_hash(text.replace(" ", "+"))
        if identifiers.wrong_invoice_hash(text):
            raise ValidationError("Not a SHA-256 in Base64 (44 characters) or hexadecimal (64).")
        return text


def invoice_hash() -> InvoiceHash:
    """The hash of an invoice's file, by which KSeF names also what it refused."""
    return InvoiceHash(
        data_key="invoiceHash",
        metadata={
            "description": "SHA-256 of the invoice's file as it was sent, in Base64 or hexadecimal",
            "pattern": f"^({identifiers.INVOICE_HASH}|{identifiers.HEX_HASH})$",
            "examples": [examples.HASH],
        },
    )


class Moment(fields.AwareDateTime):
    """RFC 3339, with offset."""

    default_error_messages = dict.fromkeys(
        ("invalid", "invalid_awareness"),
        "Must be a time with its offset, such as 2026-09-15T10:00:00+02:00.",
    )


class Sent(Moment):
    """A moment in a query: RFC 3339 with offset, whose `+` arrives as a space if not encoded."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        text = re.sub(r" (?=[0-9]{2}:[0-9]{2}$)", "+", value) if isinstance(value, str) else value
        sent: datetime = super()._deserialize(text, *args, **kwargs)
        return sent


def sent_at() -> Sent:
    """When a caller sent an invoice to KSeF."""
    return Sent(
        data_key="sentAt",
        format="iso",
        metadata={
            "description": "When you began to send the invoice, in a batch when you opened its"
            " session: RFC 3339, with offset; only with `invoiceHash`",
            "examples": ["2026-09-15T10:00:00+02:00"],
        },
    )


def invoice_number() -> fields.String:
    """The seller's number of an invoice."""
    return fields.String(
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
