"""The identifiers of the contract as marshmallow fields, which validate them.

Patterns are ASCII only and match the whole text, because Flask passes decoded CRLF, NUL and `..`
on to a view, `\\d` would accept Arabic digits, and `$` a trailing newline.
"""

import re
from functools import partial

from marshmallow import ValidationError, fields, validate

from app.api import examples
from app.settings import ENVIRONMENTS

_DATE = "2[0-9]{3}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
# Wider than KSeF's own shape, so that numbers shortened for documentation are accepted too.
REFERENCE_NUMBER = f"{_DATE}(-[0-9A-Z]{{1,12}}){{2,5}}"
KSEF_NUMBER = f"[1-9][0-9]{{9}}-{_DATE}(-[0-9A-Z]{{1,12}}){{2,3}}"
_FULL_KSEF_NUMBER = 35
_CRC_POLYNOMIAL = 0x07


def crc8(text: str) -> int:
    """CRC-8 (polynomial 0x07, initial value 0) of an ASCII text: a KSeF number's check digits."""
    crc = 0
    for byte in text.encode("ascii"):
        crc ^= byte
        for _ in range(8):
            crc = ((crc << 1) ^ (_CRC_POLYNOMIAL if crc & 0x80 else 0)) & 0xFF
    return crc


def _matching(pattern: str, message: str, text: str) -> None:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise ValidationError(message)


def _is_ksef_number(text: str) -> None:
    _matching(KSEF_NUMBER, "Not a KSeF number (NIP-date-…).", text)
    if len(text) == _FULL_KSEF_NUMBER and f"{crc8(text[:32]):02X}" != text[33:]:
        raise ValidationError("The check digits of the KSeF number are wrong.")


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
        validate=partial(
            _matching, REFERENCE_NUMBER, "Not a KSeF reference number (20260101-SO-…)."
        ),
        metadata={
            "description": "Reference number of the KSeF session (online or batch)",
            "pattern": f"^{REFERENCE_NUMBER}$",
            "examples": [examples.SESSION],
        },
    )


def ksef_number(*, required: bool = True) -> fields.String:
    """KSeF's number of an invoice. If it has full length (35 characters), its CRC is checked."""
    return fields.String(
        required=required,
        data_key="ksefNumber",
        validate=_is_ksef_number,
        metadata={
            "description": "KSeF number of the invoice",
            "pattern": f"^{KSEF_NUMBER}$",
            "examples": [examples.INVOICE],
        },
    )
