"""Numbers of sessions and invoices: what they look like, and what is wrong with one that is none.

Checks are made with ASCII patterns over the whole text: `\\d` would take Arabic digits, `$` a
trailing newline, and Flask hands decoded CRLF, NUL and `..` to a view.
"""

import base64
import re

# Wider than KSeF's own: numbers shortened or made up in documentation have the shape, and pass.
_DATE = "[0-9]{8}"
REFERENCE_NUMBER = f"{_DATE}(-[0-9A-Z]{{1,12}}){{2,5}}"
KSEF_NUMBER = f"[1-9][0-9]{{9}}-{_DATE}(-[0-9A-Z]{{1,12}}){{2,3}}"
# The seller's own: any text that KSeF may show, also a tab and what is left of a wrong encoding.
_BREAKS = r"\u0000\r\n"
INVOICE_NUMBER = f"[^{_BREAKS}]+"
INVOICE_NUMBER_LENGTH = 256
# SHA-256 of the invoice's file, as KSeF writes it (Base64) and as tools print it.
INVOICE_HASH = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
HEX_HASH = "[0-9A-Fa-f]{64}"
_FULL_KSEF_NUMBER = 35
_CRC_POLYNOMIAL = 0x07


def wrong_reference_number(text: str) -> str | None:
    """Why a text is no reference number of KSeF, in a sentence; None where it is one."""
    if not re.fullmatch(REFERENCE_NUMBER, text, re.ASCII):
        return "Not a KSeF reference number (20260101-SO-…)."
    return None


def wrong_ksef_number(text: str) -> str | None:
    """Why a text is no KSeF number, in a sentence; None where it is one.

    The CRC of a whole one (35 characters) is checked.
    """
    if not re.fullmatch(KSEF_NUMBER, text, re.ASCII):
        return "Not a KSeF number (NIP-date-…)."
    if len(text) == _FULL_KSEF_NUMBER and f"{crc8(text[:32]):02X}" != text[33:]:
        return "The check digits of the KSeF number are wrong."
    return None


def wrong_invoice_hash(text: str) -> str | None:
    """Why a text is no hash of an invoice's file as KSeF writes it; None where it is one."""
    if not re.fullmatch(INVOICE_HASH, text, re.ASCII):
        return "Not a SHA-256 in Base64 (44 characters)."
    return None


def base64_hash(text: str) -> str:
    """A hash as KSeF writes it, from that or hexadecimal."""
    if re.fullmatch(HEX_HASH, text, re.ASCII):
        return base64.b64encode(bytes.fromhex(text)).decode()
    return text


def wrong_invoice_number(text: str) -> str | None:
    """Why a text is no seller's number of an invoice, in a sentence; None where it is one."""
    if len(text) > INVOICE_NUMBER_LENGTH:
        return f"Longer than {INVOICE_NUMBER_LENGTH} characters."
    if not re.fullmatch(rf"[^{_BREAKS}\uD800-\uDFFF]+", text):
        return "Holds a line break or a NUL."
    return None


def crc8(text: str) -> int:
    """CRC-8 (polynomial 0x07, initial value 0) of an ASCII text: KSeF's check of its numbers."""
    crc = 0
    for byte in text.encode("ascii"):
        crc = _CRCS[crc ^ byte]
    return crc


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = ((crc << 1) ^ (_CRC_POLYNOMIAL if crc & 0x80 else 0)) & 0xFF
    return crc


_CRCS = [_crc_of_byte(byte) for byte in range(256)]
