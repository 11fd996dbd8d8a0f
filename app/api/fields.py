"""Kinds of marshmallow fields, and validators, for what callers send."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from marshmallow import ValidationError, fields

from app import identifiers

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
