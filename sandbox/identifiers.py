"""KSeF's identifiers: how reference numbers and KSeF numbers are made and recognised.

Given a seed, the same identifier comes out on each start; without one it is random.
"""

import base64
import hashlib
import secrets
from datetime import date
from typing import Annotated, Final

from msgspec import Meta

_DAY: Final = (
    "(?:20[2-9][0-9]|2[1-9][0-9]{2}|[3-9][0-9]{3})(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
)
# Patterns of whole identifiers, for `re.fullmatch`. Control digits are not checked; a KSeF number
# has 35 characters or, from KSeF 1.0, 36.
NIP: Final = "[1-9](?:[0-9][1-9]|[1-9][0-9])[0-9]{7}"
REFERENCE: Final = f"{_DAY}-[0-9A-Z]{{2}}-[0-9A-F]{{10}}-[0-9A-F]{{10}}-[0-9A-F]{{2}}"
KSEF_NUMBER: Final = f"{NIP}-{_DAY}-[0-9A-F]{{6}}-?[0-9A-F]{{6}}-[0-9A-F]{{2}}"

# In Base64.
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z+/]{43}=\Z")]


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        remainder = value
        for _ in range(8):
            remainder = (remainder << 1) ^ 0x07 if remainder & 0x80 else remainder << 1
        table.append(remainder & 0xFF)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc8(text: str) -> str:
    """CRC-8 (polynomial 0x07, initial 0x00) of ASCII `text` as two capital hex digits."""
    crc = 0
    for byte in text.encode("ascii"):
        crc = _CRC_TABLE[crc ^ byte]
    return f"{crc:02X}"


def _hex_digits(count: int, seed: str | None) -> str:
    if seed is None:
        return secrets.token_hex((count + 1) // 2)[:count].upper()
    return hashlib.sha256(seed.encode()).hexdigest()[:count].upper()


def reference_number(kind: str, day: date, seed: str | None = None) -> str:
    """A 36-character reference number; `kind` is two capitals (SO, SB, EE, EU, AU, CR, TK)."""
    digits = _hex_digits(20, seed)
    head = f"{day:%Y%m%d}-{kind}-{digits[:10]}-{digits[10:]}"
    return f"{head}-{crc8(head)}"


def ksef_number(nip: str, day: date, seed: str | None = None) -> str:
    """A 35-character KSeF number with a right checksum."""
    head = f"{nip}-{day:%Y%m%d}-{_hex_digits(12, seed)}"
    return f"{head}-{crc8(head)}"


def sha256_base64(content: bytes) -> str:
    """SHA-256 in Base64: 44 characters, as KSeF writes every hash."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
